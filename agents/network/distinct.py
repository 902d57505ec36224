"""Distinct rows: what repeats in a batch is computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def distinct_rows(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct rows, in order of their first occurrence, and the number of each row among them.

    rows [N, ...] -> distinct [U, ...] and index [N], so that `distinct[index]` is `rows`. N >= 1.
    """
    data, size = rows.tobytes(), rows[0].nbytes
    numbers: dict[bytes, int] = {}
    index = [numbers.setdefault(data[start : start + size], len(numbers)) for start in range(0, len(data), size)]
    # A bytearray, because torch warns of arrays that cannot be written to.
    distinct = np.frombuffer(bytearray().join(numbers), rows.dtype).reshape(-1, *rows.shape[1:])
    return distinct, np.array(index, np.int64)
