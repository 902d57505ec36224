"""The layout of named arrays in one block of memory that several processes map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.spec import ArraySpec

_ALIGNMENT = 64


def layout_size(arrays: Mapping[str, ArraySpec]) -> int:
    """Number of bytes that `map_arrays` needs."""
    return sum(map(_padded_size, arrays.values()))


def map_arrays(arrays: Mapping[str, ArraySpec], memory: Any) -> dict[str, NDArray[Any]]:
    """Views of the buffer `memory`, which has at least `layout_size` bytes; each begins at a multiple of 64 bytes."""
    mapped, offset = {}, 0
    for key, array in arrays.items():
        mapped[key] = np.ndarray(array.shape, array.dtype, memory, offset)
        offset += _padded_size(array)
    return mapped


def _padded_size(array: ArraySpec) -> int:
    size = int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT
