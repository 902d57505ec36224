"""What a probe tells: the draws of a swap, the record and the permutation of a shuffle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.evaluation.probes import Record, Shuffle, Swap, derangement

ALL_COLUMNS, NO_COLUMN = slice(0, None), slice(0, 0)
NEVER = np.zeros(1, bool)


# swap

words = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=8)
lives = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=2),
    min_size=1,
    max_size=12,
)


@given(words, lives, st.integers(0, 5))
def test_swap_never_tells_the_truth_where_there_is_something_else_and_keeps_to_an_episode(
    choices: list[tuple[int, int]], life: list[list[tuple[bool, int, int]]], seed: int
) -> None:
    others = np.array(choices, np.int32)
    swap, again = Swap(others, ALL_COLUMNS, (seed,)), Swap(others, ALL_COLUMNS, (seed,))
    before = None
    for step, row in enumerate(life):
        true = np.array([(first, second) for _, first, second in row], np.int32)
        reset = np.array([begins or not step for begins, _, _ in row])
        told = swap(true, reset).copy()
        np.testing.assert_array_equal(told, again(true.copy(), reset))
        for slot in range(2):
            assert tuple(told[slot]) in choices
            if set(choices) - {tuple(true[slot])}:
                assert tuple(told[slot]) != tuple(true[slot])
            if before is not None and not reset[slot] and (before[slot] != true[slot]).any():
                assert (told[slot] == before[slot]).all()
        before = told


def test_swap_draws_all_there_is_anew_for_every_episode() -> None:
    others = np.array([[1, 5], [1, 6], [2, 5], [2, 7], [2, 7]], np.int32)
    true = np.tile(np.array([[0, 5]], np.int32), (4, 1))
    # The task comes before the words, and only these have to differ from the slot's own.
    swap = Swap(others, slice(1, None), (0,))
    told = np.concatenate([swap(true, np.ones(4, bool)).copy() for _ in range(300)])
    kinds, counts = np.unique(told, axis=0, return_counts=True)
    assert kinds.tolist() == [[1, 6], [2, 7]]
    # Twice in the sample, twice as likely.
    assert counts[1] / counts[0] == pytest.approx(2, rel=0.2)
    slots = told.reshape(300, 4, 2)[..., 0]
    assert abs(np.corrcoef(slots[:, 0], slots[:, 1])[0, 1]) < 0.2
    assert abs(np.corrcoef(slots[:-1, 0], slots[1:, 0])[0, 1]) < 0.2


def test_swap_of_a_task_number_alone() -> None:
    """There are no words to differ; what is told stays for the episode all the same."""
    swap = Swap(np.array([[1], [2], [3]], np.int32), NO_COLUMN, (0,))
    true = np.zeros((50, 1), np.int32)
    first = swap(true, np.ones(50, bool)).copy()
    assert set(first.ravel()) == {1, 2, 3}
    for _ in range(20):
        np.testing.assert_array_equal(swap(true, np.zeros(50, bool)), first)
    begins = np.arange(50) < 25
    then = swap(true, begins)
    np.testing.assert_array_equal(then[25:], first[25:])
    assert (then[:25] != first[:25]).any()


def test_swaps_of_different_seeds_differ() -> None:
    others, true = np.arange(100, dtype=np.int32)[:, None], np.full((9, 1), 200, np.int32)
    told = [Swap(others, ALL_COLUMNS, (seed,))(true, np.ones(9, bool)) for seed in (1, 2)]
    assert (told[0] != told[1]).any()


# shuffle


def record_of(rows: np.ndarray) -> Record:
    """A record of [T, B, C]."""
    record = Record()
    for true in rows:
        # Told in one array that is written again and again, as an environment does.
        np.testing.assert_array_equal(record(true.copy(), NEVER), true)
    return record


def test_a_record_gives_back_what_was_told() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (30, 4, 3), np.int32)
    record, buffer = Record(), np.zeros((4, 3), np.int32)
    for true in rows:
        buffer[:] = true
        assert record(buffer, NEVER) is buffer
    assert record.steps == 30
    for step, slot in itertools.product(range(75), range(4)):
        np.testing.assert_array_equal(record.at(step, slot), rows[step % 30, slot])


def test_shuffle_tells_what_the_other_slot_was_told_at_that_step() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 9, (7, 3, 2), np.int32), rng.integers(10, 19, (4, 3, 2), np.int32)
    records = record_of(one), record_of(two)
    shuffle = Shuffle([(records[1], 2), (records[0], 0), (records[1], 0)])
    for step in range(20):
        told = shuffle(np.full((3, 2), 99, np.int32), NEVER)
        np.testing.assert_array_equal(told, [two[step % 4, 2], one[step % 7, 0], two[step % 4, 0]])


@given(st.integers(2, 200), st.integers(0, 1000))
def test_nothing_stays_in_its_place(size: int, seed: int) -> None:
    permutation = derangement(size, np.random.default_rng(seed))
    assert sorted(permutation.tolist()) == list(range(size))
    assert (permutation != np.arange(size)).all()
    np.testing.assert_array_equal(permutation, derangement(size, np.random.default_rng(seed)))
