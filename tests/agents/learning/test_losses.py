"""The loss terms and the normalisation of advantages against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agents.learning import losses
from agents.learning.losses import normalize_advantages
from agents.learning.popart import target_sums

T, B = 4, 3


def draws() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(T, B)), rng.normal(size=(T, B)), rng.random((T, B)) < 0.6


def test_terms_are_sums_over_valid_steps() -> None:
    first, second, mask = draws()
    a, b, m = (torch.from_numpy(array) for array in (first, second, mask))
    np.testing.assert_allclose(losses.policy_gradient_loss(a, b, m), -(first * second)[mask].sum())
    np.testing.assert_allclose(losses.baseline_loss(a, b, m), 0.5 * ((first - second) ** 2)[mask].sum())


def test_advantages_and_targets_are_constants() -> None:
    first, second, mask = draws()
    for loss, expected in (
        (losses.policy_gradient_loss, -second * mask),
        (losses.baseline_loss, (first - second) * mask),
    ):
        learned, constant = torch.from_numpy(first).requires_grad_(), torch.from_numpy(second).requires_grad_()
        loss(learned, constant, torch.from_numpy(mask)).backward()
        assert constant.grad is None
        np.testing.assert_allclose(learned.grad, expected)


# The clipped surrogate


@pytest.mark.parametrize("clip_ratio", [0.05, 0.2, 0.9])
def test_the_surrogate_is_the_formula_and_moves_no_ratio_beyond_the_clip(clip_ratio: float) -> None:
    log_ratios, advantages, mask = draws()
    learned = torch.from_numpy(log_ratios).requires_grad_()
    found = losses.clipped_surrogate_loss(
        learned, torch.from_numpy(advantages), torch.from_numpy(mask), clip_ratio=clip_ratio
    )
    found.loss.backward()
    ratios = np.exp(log_ratios)
    clipped = np.clip(ratios, 1 - clip_ratio, 1 + clip_ratio)
    terms = np.minimum(ratios * advantages, clipped * advantages)
    np.testing.assert_allclose(found.loss.detach(), -terms[mask].sum())
    np.testing.assert_allclose(found.kl, (ratios - 1 - log_ratios)[mask].sum())
    assert int(found.clipped) == (np.abs(ratios - 1) > clip_ratio)[mask].sum() > 0
    beyond = np.where(advantages > 0, ratios > 1 + clip_ratio, ratios < 1 - clip_ratio)
    assert beyond[mask].any() and not beyond[mask].all()
    np.testing.assert_allclose(learned.grad, np.where(mask & ~beyond, -ratios * advantages, 0))


def test_on_policy_the_surrogate_has_the_gradient_of_the_policy_gradient() -> None:
    log_probs, advantages, mask = map(torch.from_numpy, draws())
    gradients = []
    for loss in (
        lambda learned: losses.policy_gradient_loss(learned, advantages, mask),
        lambda learned: losses.clipped_surrogate_loss(learned - log_probs, advantages, mask, clip_ratio=0.2).loss,
    ):
        learned = log_probs.clone().requires_grad_()
        loss(learned).backward()
        gradients.append(learned.grad)
    torch.testing.assert_close(*gradients)


def test_masked_and_extreme_steps_leave_the_surrogate_finite() -> None:
    log_ratios = torch.tensor([[1e6, -1e6, math.nan, math.inf]], requires_grad=True)
    advantages = torch.tensor([[1.0, -1.0, math.nan, math.inf]])
    mask = torch.tensor([[True, True, False, False]])
    found = losses.clipped_surrogate_loss(log_ratios, advantages, mask, clip_ratio=0.2)
    found.loss.backward()
    assert log_ratios.grad is not None
    assert all(torch.isfinite(value).all() for value in (found.loss, found.kl, log_ratios.grad))
    assert log_ratios.grad[0, 2:].tolist() == [0, 0]


# Normalised advantages

DEVIATION = torch.tensor([2.0, 0.5, 1.0])


def normalised(advantages: np.ndarray, task: np.ndarray, mask: np.ndarray, *, by_task: bool) -> np.ndarray:
    """`normalize_advantages` of undivided advantages."""
    undivided, tasks, valid = (torch.from_numpy(array) for array in (advantages, task, mask))
    sums = target_sums(undivided, tasks, valid, len(DEVIATION))
    return normalize_advantages(undivided / DEVIATION[tasks], tasks, sums, DEVIATION, by_task=by_task).numpy()


def test_advantages_get_mean_0_and_deviation_1_over_the_batch_or_each_task() -> None:
    rng = np.random.default_rng(0)
    advantages, task, mask = rng.normal(1, 3, (20, 9)), rng.integers(0, 3, (20, 9)), rng.random((20, 9)) < 0.7
    whole = normalised(advantages, task, mask, by_task=False)[mask]
    np.testing.assert_allclose([whole.mean(), whole.std()], [0, 1], atol=1e-6)
    each = normalised(advantages, task, mask, by_task=True)
    for number in range(3):
        values = each[mask & (task == number)]
        np.testing.assert_allclose([values.mean(), values.std()], [0, 1], atol=1e-6)


@pytest.mark.parametrize("by_task", [True, False])
def test_the_noise_of_a_task_without_reward_stays_small(by_task: bool) -> None:
    """Task 1 has advantages of 1e-3 standard deviations. Alone in a batch, or by task, they grow to 1e-2 and no further."""
    rng = np.random.default_rng(0)
    task = np.ones((20, 9), np.int64)
    noise = 1e-3 * float(DEVIATION[1]) * rng.normal(size=(20, 9))
    found = normalised(noise, task, np.ones((20, 9), bool), by_task=by_task)
    assert 0.009 < found.std() < 0.011
