"""Contexts: found by comparison, reduced to distinct rows, and encoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.network.context import ContextEncoder, Contexts, distinct_contexts
from conf.names import CONTEXTS

TASKS, WORDS, LENGTH, VECTOR = 3, 9, 5, 2


def encoder(kind: str, **options: object) -> ContextEncoder:
    torch.manual_seed(0)
    return ContextEncoder(
        kind, TASKS, WORDS, task_size=4, word_size=5, instruction_size=6, vector_size=VECTOR, **options
    )  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4)),
    change=st.sampled_from([0.0, 0.2, 1.0]),
    values=st.sampled_from([1, 2, 100_000]),
)
def test_distinct_contexts_and_index_restore_the_rows(
    seed: int, shape: tuple[int, int, int], change: float, values: int
) -> None:
    length, columns, width = shape
    rng = np.random.default_rng(seed)
    rows = np.zeros(shape, np.int32)
    rows[0] = rng.integers(0, values, (columns, width))
    for t in range(1, length):  # a change anywhere inside a column, and sometimes back to an earlier row
        fresh = rng.integers(0, values, (columns, width))
        rows[t] = np.where((rng.random(columns) < change)[:, None], fresh, rows[t - 1])
    distinct, index = distinct_contexts(rows)
    assert index.shape == (length * columns,) and index.dtype == np.int64
    np.testing.assert_array_equal(distinct[index].reshape(shape), rows)
    assert (
        len({row.tobytes() for row in distinct})
        == len(distinct)
        == len({row.tobytes() for row in rows.reshape(-1, width)})
    )


def random_contexts(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    instruction = np.zeros((rows, LENGTH), np.int32)
    for row in range(rows):
        words = rng.integers(0, LENGTH + 1)
        instruction[row, :words] = rng.integers(1, WORDS, words)
    return rng.integers(0, TASKS, rows).astype(np.int32), instruction


@pytest.mark.parametrize("kind", CONTEXTS)
def test_rows_hold_what_the_encoder_reads(kind: str) -> None:
    task, instruction = random_contexts(20)
    vector = np.random.default_rng(1).normal(size=(20, VECTOR)).astype(np.float32)
    reader = encoder(kind)
    contexts = reader.contexts_from_rows(reader.context_rows(task, instruction, vector))
    if kind == "vector":
        np.testing.assert_array_equal(contexts.vector, vector)
    else:
        assert contexts.vector is None
    assert contexts.task.dtype == contexts.instruction.dtype == torch.int64
    np.testing.assert_array_equal(contexts.task, task if kind in ("task", "both") else 0 * task)
    if kind in ("instruction", "both"):
        np.testing.assert_array_equal(contexts.instruction, instruction)
    else:
        assert contexts.instruction.shape == (20, 0)
    z = reader(contexts)
    assert z.shape == (20, reader.size) and z.dtype == torch.float32
    assert reader.size == {"task": 4, "instruction": 6, "both": 10, "vector": VECTOR, "none": 0}[kind]
    np.testing.assert_array_equal(
        reader.context_rows(*(part.reshape(4, 5, *part.shape[1:]) for part in (task, instruction, vector))).reshape(
            20, -1
        ),
        reader.context_rows(task, instruction, vector),
    )


def test_a_context_is_more_than_the_instruction_or_the_task_alone() -> None:
    reader = encoder("both")
    words = np.array([[2, 3, 0, 0, 0]] * 3 + [[3, 2, 0, 0, 0], [2, 3, 3, 0, 0], [2, 0, 0, 0, 0]], np.int32)
    z = reader(reader.contexts_from_rows(reader.context_rows(np.array([0, 0, 1, 0, 0, 0], np.int32), words)))
    assert torch.equal(z[0], z[1])
    for other in range(2, 6):
        assert not torch.allclose(z[0], z[other], atol=1e-3)


@pytest.mark.parametrize("normalize", [True, False])
def test_padding_does_not_change_the_encoding(normalize: bool) -> None:
    """Neither trimmed padding nor the padding of shorter instructions in the same batch."""
    _, instruction = random_contexts(20)
    reader = encoder("instruction", normalize=normalize)
    padded = np.concatenate([instruction, np.zeros((20, 3), np.int32)], axis=1)
    together = reader(Contexts(torch.zeros(20, dtype=torch.long), torch.from_numpy(padded).long()))
    trimmed = reader(reader.contexts_from_rows(padded))
    alone = torch.cat([reader(reader.contexts_from_rows(padded[row : row + 1])) for row in range(20)])
    torch.testing.assert_close(trimmed, together)
    torch.testing.assert_close(alone, together)


def test_trims_to_the_longest_instruction() -> None:
    rows = np.array([[2, 0, 0, 0], [3, 4, 0, 0]], np.int32)
    assert encoder("instruction").contexts_from_rows(rows).instruction.shape == (2, 2)


def test_the_encoding_is_the_lstm_at_the_last_word() -> None:
    reader = encoder("instruction", normalize=False)
    words = torch.tensor([[4, 2, 7, 0, 0]])
    outputs, _ = reader.instruction_lstm(reader.word_embedding(words[:, :3]).transpose(0, 1))
    torch.testing.assert_close(reader(Contexts(torch.zeros(1, dtype=torch.long), words)), outputs[-1])


def test_an_empty_instruction_has_an_encoding() -> None:
    reader = encoder("instruction")
    empty = reader(reader.contexts_from_rows(np.zeros((2, LENGTH), np.int32)))
    mixed = reader(reader.contexts_from_rows(np.array([[0] * LENGTH, [2] * LENGTH], np.int32)))
    assert empty.isfinite().all()
    torch.testing.assert_close(empty[0], mixed[0])
    assert not torch.allclose(mixed[0], mixed[1], atol=1e-3)


def test_one_hot_tasks_are_themselves() -> None:
    reader = encoder("task", task_encoding="one_hot")
    rows = reader.context_rows(np.array([2, 0], np.int32), None)
    assert reader(reader.contexts_from_rows(rows)).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_vector_of_the_suite_is_itself() -> None:
    """To the last bit, also from an array that is not contiguous. Equal vectors share a row."""
    reader = encoder("vector")
    vector = np.array([[0.1, 2.0, 0.3], [-1e-30, 4.0, 5.5], [0.1, 2.0, 0.3]], np.float32)[:, ::2]
    distinct, index = distinct_contexts(reader.context_rows(np.zeros((3, 1), np.int32), None, vector[:, None]))
    assert len(distinct) == 2 and index[0] == index[2]
    z = reader(reader.contexts_from_rows(distinct))
    np.testing.assert_array_equal(z.numpy()[index], vector)
    assert reader.context_norm == 1


def test_without_a_context_all_steps_share_one_row() -> None:
    reader = encoder("none")
    distinct, index = distinct_contexts(reader.context_rows(np.array([[0, 1], [2, 1]], np.int32), None))
    assert len(distinct) == 1 and not index.any()
    assert reader(reader.contexts_from_rows(distinct)).shape == (1, 0)
