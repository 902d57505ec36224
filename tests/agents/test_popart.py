"""PopArt: outputs preserved exactly, moments against NumPy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.network.heads import ValueHead
from agents.popart import PopArt, initial_popart, rescale_head, sigma, target_sums, update_moments

TASKS, LENGTH, COLUMNS = 4, 6, 5


def random_state(rng: np.random.Generator) -> PopArt:
    mu = rng.normal(0, 3, TASKS)
    return PopArt(torch.from_numpy(mu), torch.from_numpy(mu**2 + rng.uniform(0.1, 5, TASKS)))


def unnormalised(head: ValueHead, state: PopArt, features: torch.Tensor) -> torch.Tensor:
    """sigma n + mu for every task on the same features, [K, N]."""
    outputs = [head(features, torch.full((len(features),), task)) for task in range(TASKS)]
    return torch.stack(outputs) * sigma(state)[:, None] + state.mu[:, None]


@given(seed=st.integers(0, 2**31), size=st.sampled_from([1, 3]), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_an_update_leaves_every_output_unchanged(seed: int, size: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    head = ValueHead(size, TASKS).double()
    with torch.no_grad():
        head.bias.normal_()
    old = random_state(rng)
    features = torch.randn(7, size, dtype=torch.float64)
    before = unnormalised(head, old, features)
    targets = torch.from_numpy(rng.normal(scale, scale, (LENGTH, COLUMNS)))
    task = torch.from_numpy(rng.integers(0, TASKS, (LENGTH, COLUMNS)))
    sums = target_sums(targets, task, torch.ones(LENGTH, COLUMNS, dtype=torch.bool), TASKS)
    new = update_moments(old, sums, 0.5)
    rescale_head(head.weight, head.bias, old.mu, sigma(old), new.mu, sigma(new))
    assert not torch.equal(new.mu, old.mu)
    torch.testing.assert_close(unnormalised(head, new, features), before, rtol=1e-9, atol=1e-9 * scale)


@given(seed=st.integers(0, 2**31), kept=st.sampled_from([0.0, 0.3, 1.0]), step_size=st.sampled_from([0.01, 0.5, 1.0]))
def test_moments_are_means_over_the_valid_steps_of_each_task(seed: int, kept: float, step_size: float) -> None:
    rng = np.random.default_rng(seed)
    state = random_state(rng)
    targets = rng.normal(1, 2, (LENGTH, COLUMNS))
    task = rng.integers(0, TASKS - 1, (LENGTH, COLUMNS))  # the last task never occurs
    mask = rng.random((LENGTH, COLUMNS)) < kept
    batch = [torch.from_numpy(array) for array in (targets, task, mask)]
    sums = target_sums(*batch, TASKS)
    new = update_moments(state, sums, step_size)
    parts = [target_sums(*(array[:, columns] for array in batch), TASKS) for columns in (slice(2), slice(2, None))]
    torch.testing.assert_close(parts[0] + parts[1], sums)
    for number in range(TASKS):
        valid = targets[mask & (task == number)]
        if len(valid) == 0:
            assert new.mu[number] == state.mu[number] and new.nu[number] == state.nu[number]
            continue
        mu, nu = float(state.mu[number]), float(state.nu[number])
        np.testing.assert_allclose(new.mu[number], (1 - step_size) * mu + step_size * valid.mean())
        np.testing.assert_allclose(new.nu[number], (1 - step_size) * nu + step_size * (valid**2).mean())


def test_the_deviation_within_a_batch_is_seen() -> None:
    """Targets -1 and 1 in one batch have deviation 1. The square of their mean, 0, would say that they are all equal."""
    targets = torch.tensor([[1.0], [-1.0]])
    task, mask = torch.zeros(2, 1, dtype=torch.int32), torch.ones(2, 1, dtype=torch.bool)
    state = update_moments(initial_popart(1), target_sums(targets, task, mask, 1), 1.0)
    assert float(state.mu) == 0 and float(sigma(state)) == 1


def test_sigma_is_clipped_and_never_nan() -> None:
    # The third has nu < mu^2, as rounding can leave it.
    state = PopArt(torch.tensor([2.0, 0.0, 3.0, 0.0]), torch.tensor([4.0, 1e20, 8.999, 4.0]))
    assert sigma(state, 1e-2, 1e3).tolist() == [np.float32(1e-2), 1e3, np.float32(1e-2), 2.0]


def test_normalisation_starts_as_the_identity() -> None:
    state = initial_popart(TASKS)
    assert state.mu.tolist() == [0] * TASKS and sigma(state).tolist() == [1] * TASKS
