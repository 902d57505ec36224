"""Distinct rows against np.unique."""

from __future__ import annotations

import numpy as np
import pytest

from agents.network.distinct import distinct_rows


@pytest.mark.parametrize("shape", [(1, 1), (40, 2), (40, 2, 2, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_distinct_rows_are_those_of_unique_in_order_of_occurrence(shape: tuple[int, ...], dtype: type) -> None:
    rows = np.random.default_rng(0).integers(0, 3, shape).astype(dtype)
    distinct, index = distinct_rows(rows)
    _, first = np.unique(rows.reshape(len(rows), -1), axis=0, return_index=True)
    np.testing.assert_array_equal(distinct, rows[np.sort(first)])
    np.testing.assert_array_equal(distinct[index], rows)
    assert distinct.flags.writeable, "torch warns of such an array"


def test_rows_of_a_view_are_read_in_its_order() -> None:
    rows = np.arange(12, dtype=np.int32).reshape(3, 4).T
    distinct, index = distinct_rows(rows)
    np.testing.assert_array_equal(distinct, rows)
    assert index.tolist() == [0, 1, 2, 3]
