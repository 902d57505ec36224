"""Noise and dropout of the encoded context: their size, their seeds, and that an encoder without them is unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.fusion.base import Tokens
from agents.network.context import ContextEncoder, _normal, distinct_contexts

TASKS, LENGTH = 3, 6
SEEDS = np.arange(1, 4001, dtype=np.int32)
WORDS = np.array([3, 1, 4, 0, 0, 0], np.int32)


def encoder(kind: str = "both", *, tokens: bool = False, **options: Any) -> ContextEncoder:
    torch.manual_seed(0)
    made = ContextEncoder(kind, TASKS, 9, task_size=4, word_size=5, instruction_size=7, **options)
    made.tokens_have_noise = tokens
    return made


def rows_of(reader: ContextEncoder, seeds: np.ndarray, words: np.ndarray = WORDS) -> np.ndarray:
    """Task 1 and the same words for every seed."""
    task = np.ones(len(seeds), np.int32)
    return reader.add_seeds(reader.context_rows(task, np.tile(words, (len(seeds), 1))), seeds)


@torch.no_grad()
def encode(reader: ContextEncoder, rows: np.ndarray, *, tokens: bool = False) -> Any:
    z = reader(reader.contexts_from_rows(rows), tokens=tokens)
    return Tokens(z.values[: len(rows)], z.mask[: len(rows)]) if tokens else z[: len(rows)]


def rms(features: Tensor) -> Tensor:
    return features.square().mean(dim=-1, keepdim=True).sqrt()


def test_normal_numbers() -> None:
    drawn = _normal(np.random.default_rng(0).integers(1, 2**31, 20_000).astype(np.int32), 8)
    assert np.isfinite(drawn).all()
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.04)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(8), atol=0.05)
    # Quartiles and tails of a standard normal distribution.
    np.testing.assert_allclose(np.quantile(drawn, [0.025, 0.25, 0.75, 0.975]), [-1.96, -0.674, 0.674, 1.96], atol=0.02)
    np.testing.assert_array_equal(_normal(SEEDS, 3), _normal(SEEDS, 8)[:, :3])


@pytest.mark.parametrize("kind", ["task", "instruction", "both"])
def test_without_noise_seeds_change_nothing(kind: str) -> None:
    plain, off = encoder(kind), encoder(kind, noise=0.0, dropout=0.0)
    rows = plain.context_rows(np.array([1, 0], np.int32), np.stack([WORDS, WORDS]))
    assert off.add_seeds(rows, SEEDS[:2]) is rows
    contexts = off.contexts_from_rows(rows)
    assert set(contexts.tensors()) == {"task", "instruction"}
    assert torch.equal(encode(off, rows), encode(plain, rows))


@pytest.mark.parametrize("task_encoding", ["embedding", "one_hot"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_noise_is_relative_to_the_root_mean_square_of_each_part(task_encoding: str, scale: float) -> None:
    plain, noisy = (encoder(task_encoding=task_encoding, noise=noise) for noise in (0.0, 0.5))
    for reader in (plain, noisy):
        if task_encoding == "embedding":
            with torch.no_grad():
                reader.task_embedding.weight.mul_(scale)
    (clean,) = encode(plain, rows_of(plain, SEEDS[:1]))
    z = encode(noisy, rows_of(noisy, SEEDS))
    split = plain.size - 7
    for part in (slice(0, split), slice(split, None)):
        found = (z - clean)[:, part] / rms(clean[part])
        np.testing.assert_allclose(found.std(dim=0), 0.5, rtol=0.06)
        np.testing.assert_allclose(found.mean(dim=0), 0, atol=0.04)
        # The signal-to-noise ratio is 1 / 0.5^2.
        power = clean[part].square().sum() / (z - clean)[:, part].square().sum(dim=1).mean()
        assert float(power) == pytest.approx(4, rel=0.05)


def test_z_is_a_function_of_context_and_seed() -> None:
    reader = encoder(noise=1.0, dropout=0.2)
    rows = rows_of(reader, np.array([5, 7, 5, 9], np.int32))
    z = encode(reader, rows)
    assert torch.equal(z[0], z[2]) and not torch.equal(z[0], z[1])
    assert torch.equal(encode(reader, rows[::-1].copy()), z.flip(0))
    distinct, index = distinct_contexts(rows.reshape(2, 2, -1))
    assert len(distinct) == 3
    assert torch.equal(encode(reader, distinct)[index], z)


def test_each_word_has_its_own_noise_and_the_task_has_one() -> None:
    plain, noisy = encoder(tokens=True), encoder(tokens=True, noise=0.5)
    clean = encode(plain, rows_of(plain, SEEDS[:1]), tokens=True).values[0]
    z = encode(noisy, rows_of(noisy, SEEDS), tokens=True).values
    assert (z[:, :, :4] == z[:, :1, :4]).all()
    noise = (z - clean)[:, :3, 4:] / rms(clean[:3, 4:])
    np.testing.assert_allclose(noise.std(dim=0), 0.5, rtol=0.06)
    flat = noise.flatten(1).T.numpy()
    np.testing.assert_allclose(np.corrcoef(flat), np.eye(len(flat)), atol=0.07)
    # A longer sentence in the batch does not change it.
    rows = rows_of(noisy, SEEDS[:2])
    rows[1, 1:-1] = [3, 1, 4, 1, 5, 2]
    beside = encode(noisy, rows, tokens=True).values
    assert beside.shape[1] > 3 and torch.equal(beside[0, :3], z[0, :3])


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_dropout_makes_its_share_of_the_contexts_zero(noise: float, tokens: bool) -> None:
    reader, kept = encoder(tokens=tokens, noise=noise, dropout=0.3), encoder(tokens=tokens, noise=noise)
    rows = rows_of(reader, SEEDS)
    z, expected = encode(reader, rows, tokens=tokens), encode(kept, rows_of(kept, SEEDS), tokens=tokens)
    z, expected = (part.values.flatten(1) if tokens else part for part in (z, expected))
    is_zero = (z == 0).all(dim=1)
    assert float(is_zero.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert torch.equal(z[~is_zero], expected[~is_zero])
    # Without noise there are two contexts: this one, and none.
    assert len(np.unique(rows, axis=0)) == (2 if noise == 0 else int((~is_zero).sum()) + 1)


def test_all_or_no_context_is_dropped_at_the_ends() -> None:
    reader = encoder(dropout=1.0)
    assert not encode(reader, rows_of(reader, SEEDS)).any()


def test_a_larger_embedding_does_not_escape_the_noise() -> None:
    """The gradient of the signal-to-noise ratio is 0 along z, and all gradients are finite, also of an embedding of zeros."""
    reader = encoder("task", noise=1.0)
    rows = rows_of(reader, SEEDS[:8])
    z = reader(reader.contexts_from_rows(rows))
    weight = reader.task_embedding.weight
    clean = weight[1]
    ratio = clean.square().sum() / (z - clean).square().sum(dim=1).mean()
    (gradient,) = torch.autograd.grad(ratio, weight)
    assert float(gradient[1] @ clean.detach()) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        weight.zero_()
    (gradient,) = torch.autograd.grad(reader(reader.contexts_from_rows(rows)).sum(), weight)
    assert torch.isfinite(gradient).all()
