"""PopArt: outputs preserved exactly, moments against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.learning.popart import (
    MOST_COUNTED,
    SURGE_MEMORY,
    PopArt,
    bounded_update,
    initial_popart,
    rescale_head,
    sigma,
    target_sums,
    update_moments,
)
from agents.network.heads import ValueHead

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


def test_sigma_includes_the_deviation_within_a_batch() -> None:
    """Targets -1 and 1 in one batch have deviation 1. With the square of their mean as second moment, it would be 0."""
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


# The bound on a batch


def after(state: PopArt, targets: torch.Tensor, step_size: float, *, new: bool = True) -> tuple[PopArt, float]:
    """The state of one task after a batch of these targets, and its surge. `new`: whether this is their first update."""
    column = targets.reshape(-1, 1)
    sums = target_sums(column, torch.zeros_like(column).int(), torch.ones_like(column).bool(), 1)
    new, surge = bounded_update(state, sums, sums if new else torch.zeros_like(sums), step_size)
    return new, float(surge)


def moments(state: PopArt) -> list[float]:
    return [float(state.mu), float(state.nu)]


@given(
    mu=st.sampled_from([0.0, -3.0, 1e3]),
    deviation=st.sampled_from([0.05, 1.0, 30.0]),
    size=st.sampled_from([1e4, -1e6, 1e9]),
    step_size=st.sampled_from([3e-4, 0.01, 1.0]),
)
def test_the_first_surge_moves_nothing_and_the_second_at_most_doubles_the_variance(
    mu: float, deviation: float, size: float, step_size: float
) -> None:
    state = PopArt(torch.tensor([mu]).double(), torch.tensor([mu**2 + deviation**2]).double())
    targets = torch.full((100,), mu, dtype=torch.float64)
    targets[3] += size
    least = max(deviation, 1e-3 * float(state.nu.sqrt()))
    first, surge = after(state, targets, step_size)
    second, _ = after(first, targets, step_size)
    assert float(second.nu - second.mu.square()) <= deviation**2 + 1.01 * least**2
    if size**2 / 100 > 1.1 * least**2 * max(100, 1 / step_size) and deviation == least:
        np.testing.assert_allclose(surge, abs(size) / 10 / deviation, rtol=1e-3)
    if surge:
        assert moments(first) == moments(state) != moments(second)


@pytest.mark.parametrize("size", [300.0, 1e3, 1e4, -1e6])
@pytest.mark.parametrize("step_size", [3e-4, 3e-3, 0.01])
def test_a_single_outlier_leaves_no_trace(size: float, step_size: float) -> None:
    """Neither in later passes over its batch, nor from the replay, nor if the next one comes SURGE_MEMORY updates later."""
    rng = np.random.default_rng(0)
    usual = [torch.from_numpy(rng.normal(0.5, 0.2, 640)).float() for _ in range(SURGE_MEMORY)]
    hit = torch.cat([usual[0], torch.full((20,), size * 0.2)])
    state, _ = after(PopArt(torch.tensor([0.5]), torch.tensor([0.29])), usual[0], step_size)
    for _ in range(2):
        held, surge = after(state, hit, step_size)
        assert surge > 10 and moments(held) == moments(state)
        for _ in range(3):
            held, surge = after(held, hit, step_size, new=False)
            assert surge > 10 and moments(held) == moments(state)
        for targets in usual:
            held, _ = after(held, targets, step_size)
            state, _ = after(state, targets, step_size)
            assert moments(held) == moments(state)
    # If the second one comes sooner, the moments move.
    held, _ = after(state, hit, step_size)
    for targets in usual[1:]:
        held, _ = after(held, targets, step_size)
    moved, surge = after(held, hit, step_size)
    assert surge > 10 and moved.nu > held.nu


def test_batches_without_steps_of_a_task_do_not_count_as_updates_since_its_surge() -> None:
    state = initial_popart(2)
    sums = torch.tensor([[100.0, 0.0], [1e7, 0.0], [1e12, 0.0]])
    state, _ = bounded_update(state, sums, sums, 3e-4)
    assert state.updates_since_surge.tolist() == [0, SURGE_MEMORY]
    none = torch.zeros(3, 2)
    for _ in range(2 * SURGE_MEMORY):
        state, surges = bounded_update(state, none, none, 3e-4)
    assert state.updates_since_surge.tolist() == [0, SURGE_MEMORY] and surges.tolist() == [0, 0]
    state, _ = bounded_update(state, sums, sums, 3e-4)
    assert state.nu[0] == pytest.approx(2, rel=1e-3)


@given(seed=st.integers(0, 2**31), step_size=st.sampled_from([3e-4, 0.01]))
def test_without_a_surge_the_update_is_the_published_one_bit_for_bit(seed: int, step_size: float) -> None:
    rng = np.random.default_rng(seed)
    state = PopArt(*(moment.float() for moment in random_state(rng)[:2]))
    targets, task = rng.normal(state.mu.mean(), 2, (LENGTH, COLUMNS)), rng.integers(0, TASKS, (LENGTH, COLUMNS))
    mask = rng.random((LENGTH, COLUMNS)) < 0.8
    sums = target_sums(torch.from_numpy(targets).float(), torch.from_numpy(task), torch.from_numpy(mask), TASKS)
    found, surges = bounded_update(state, sums, sums, step_size)
    expected = update_moments(state, sums, step_size)
    # A task with few steps, all far from mu, can surge.
    usual = surges == 0
    assert usual.any() and (surges[~usual] > 10).all()
    assert torch.equal(found.mu[usual], expected.mu[usual]) and torch.equal(found.nu[usual], expected.nu[usual])


@pytest.mark.parametrize("step_size", [3e-4, 0.01])
def test_sigma_reaches_a_changed_scale_within_30_batches(step_size: float) -> None:
    """It reaches more than half of the sigma of the published update."""
    bounded = published = initial_popart(1)
    for _ in range(30):
        bounded, _ = after(bounded, torch.full((100,), 1e4), step_size)
        sums = torch.tensor([[100.0], [1e6], [1e10]])
        published = update_moments(published, sums, step_size)
    assert float(sigma(bounded)) > 0.5 * float(sigma(published)) > 400


@pytest.mark.parametrize("step_size", [3e-3, 0.05])
def test_warm_moments_are_plain_means_until_the_step_size_is_reached(step_size: float) -> None:
    """Of the initial moments 0 and 1 and the means of all batches. Without rewards, sigma stays above n^-1/2."""
    rng = np.random.default_rng(0)
    state, means = initial_popart(2), [(0.0, 1.0)]
    task, mask = torch.zeros(10, 1, dtype=torch.long), torch.ones(10, 1, dtype=torch.bool)
    count = int(1 / step_size) - 1
    for _ in range(count):
        targets = rng.normal(0.2, 0.5, (10, 1))
        means.append((targets.mean(), (targets**2).mean()))
        sums = target_sums(torch.from_numpy(targets).float(), task, mask, 2)
        state, surges = bounded_update(state, sums, sums, step_size, warm=True)
        assert not surges.any()
    np.testing.assert_allclose([state.mu[0], state.nu[0]], np.mean(means, axis=0), rtol=1e-4)
    assert (state.mu[1], state.nu[1]) == (0, 1), "the other task has no step"
    assert state.updates.tolist() == [count, 0]
    for _ in range(3):
        before = state
        sums = target_sums(torch.ones(10, 1), task, mask, 2)
        state, _ = bounded_update(state, sums, sums, step_size, warm=True)
        torch.testing.assert_close(state.mu[0], before.mu[0].lerp(torch.tensor(1.0), step_size))


def test_the_count_of_updates_is_bounded() -> None:
    state = PopArt(torch.zeros(1), torch.ones(1))
    sums = target_sums(torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool), 1)
    state, _ = bounded_update(state, sums, sums, 0.1, warm=True)
    assert state.updates == MOST_COUNTED and state.mu == pytest.approx(0.1)


def test_moments_of_equal_targets_are_not_stuck() -> None:
    """Their variance is 0 in single precision, but new targets still move the moments."""
    state = PopArt(torch.ones(1), torch.ones(1))
    for _ in range(30):
        state, _ = after(state, torch.full((100,), 2.0), 0.01)
    assert float(sigma(state)) > 0.1
