"""Two terms of the IMPALA loss (Espeholt et al. 2018, section 4.2). Pure functions on [T, B] tensors. The third, the entropy, is a
property of the action distribution (agents/network/actions.py).

Each is summed over the steps that `mask`, bool, keeps, whatever the others hold; the learner divides when it wants a mean.
"""

from __future__ import annotations

from torch import Tensor


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """-sum log pi(a_t|x_t) A_t: log_probs [T, B] with gradient, advantages [T, B] as constants, mask [T, B] -> scalar."""
    return -(log_probs * advantages.detach()).masked_fill(~mask, 0.0).sum()


def baseline_loss(baseline: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """1/2 sum (G_t - V(x_t))^2: baseline [T, B] with gradient, targets [T, B] as constants, mask [T, B] -> scalar."""
    return 0.5 * (targets.detach() - baseline).square().masked_fill(~mask, 0.0).sum()
