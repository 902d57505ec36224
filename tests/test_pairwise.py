"""Covering arrays hold every pair of values, in few rows."""

from __future__ import annotations

import itertools

import pytest
from pairwise import pairwise


@pytest.mark.parametrize(
    ("counts", "most"),
    [((15, 4, 4, 2, 2, 2), 62), ((3, 3, 3), 10), ((2,) * 10, 14), ((5, 1, 7), 35), ((4, 6), 24), ((2, 9, 3, 9), 85)],
)
def test_every_pair_of_values_occurs(counts: tuple[int, ...], most: int) -> None:
    factors = [[f"{number}={value}" for value in range(count)] for number, count in enumerate(counts)]
    rows = pairwise(*factors)
    assert rows == pairwise(*factors)
    assert set(rows) <= set(itertools.product(*factors)) and len(set(rows)) == len(rows) <= most
    for i, j in itertools.combinations(range(len(factors)), 2):
        assert {(row[i], row[j]) for row in rows} == set(itertools.product(factors[i], factors[j]))


def test_one_factor_is_listed_and_none_gives_one_empty_row() -> None:
    assert pairwise(range(3)) == [(0,), (1,), (2,)]
    assert pairwise() == [()]
    assert pairwise("ab", []) == []
