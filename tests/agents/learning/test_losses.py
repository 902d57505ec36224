"""The loss terms against NumPy."""

from __future__ import annotations

import numpy as np
import torch

from agents.learning import losses

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
