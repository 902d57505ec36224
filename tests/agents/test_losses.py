"""The loss terms against NumPy, and what masked actions do to them."""

from __future__ import annotations

import numpy as np
import torch

from agents import losses
from agents.network.heads import ActionMask

T, B, A = 4, 3, 5


def draws() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(T, B)), rng.normal(size=(T, B)), rng.random((T, B)) < 0.6, rng.normal(0, 2, (T, B, A))


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def test_terms_are_sums_over_valid_steps() -> None:
    first, second, mask, _ = draws()
    a, b, m = (torch.from_numpy(array) for array in (first, second, mask.astype(np.float64)))
    np.testing.assert_allclose(losses.policy_gradient_loss(a, b, m), -(first * second)[mask].sum())
    np.testing.assert_allclose(losses.baseline_loss(a, b, m), 0.5 * ((first - second) ** 2)[mask].sum())


def test_advantages_and_targets_are_constants() -> None:
    first, second, mask, _ = draws()
    for loss, expected in (
        (losses.policy_gradient_loss, -second * mask),
        (losses.baseline_loss, (first - second) * mask),
    ):
        learned, constant = torch.from_numpy(first).requires_grad_(), torch.from_numpy(second).requires_grad_()
        loss(learned, constant, torch.from_numpy(mask.astype(np.float64))).backward()
        assert constant.grad is None
        np.testing.assert_allclose(learned.grad, expected)


def test_entropy_and_log_probabilities() -> None:
    *_, logits = draws()
    p = softmax(logits)
    np.testing.assert_allclose(losses.entropy(torch.from_numpy(logits).log_softmax(-1)), -(p * np.log(p)).sum(axis=-1))
    actions = np.random.default_rng(1).integers(0, A, (T, B))
    expected = np.log(np.take_along_axis(p, actions[..., None], axis=-1))[..., 0]
    np.testing.assert_allclose(
        losses.action_log_probs(torch.from_numpy(logits).log_softmax(-1), torch.from_numpy(actions)), expected
    )


def test_removed_actions_have_no_probability_and_leave_everything_finite() -> None:
    *_, drawn = draws()
    logits = torch.from_numpy(drawn.reshape(T * B, A)).float().requires_grad_()
    task = torch.arange(T * B) % 2
    masked = ActionMask((3, A), A)(logits, task)
    probabilities = masked.softmax(dim=-1)
    assert not probabilities[task == 0, 3:].any()
    torch.testing.assert_close(probabilities[task == 0, :3], logits[task == 0, :3].softmax(dim=-1))
    torch.testing.assert_close(probabilities[task == 1], logits[task == 1].softmax(dim=-1))
    entropy = losses.entropy(masked.log_softmax(-1))
    torch.testing.assert_close(entropy[task == 0], losses.entropy(logits[task == 0, :3].log_softmax(-1)))
    entropy.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad[task == 0, :3].any() and not logits.grad[task == 0, 3:].any()


def test_entropy_of_a_certain_policy_is_zero() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    losses.entropy(logits.log_softmax(-1)).sum().backward()
    assert (
        losses.entropy(logits.log_softmax(-1)).item() == 0 and logits.grad is not None and logits.grad.isfinite().all()
    )
