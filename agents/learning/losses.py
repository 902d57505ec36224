"""Policy gradient and baseline loss of IMPALA (Espeholt et al. 2018, section 4.2). Pure functions on [T, B] tensors.

Both are sums over the steps where `mask` is True. Other steps have no effect, even if their values are not finite. The third term, the
entropy, is in agents/network/actions.py.
"""

from __future__ import annotations

from torch import Tensor


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """-sum log pi(a_t|x_t) A_t: log_probs [T, B] with gradient, advantages [T, B] as constants, mask [T, B] -> scalar."""
    return -(log_probs * advantages.detach()).masked_fill(~mask, 0.0).sum()


def baseline_loss(baseline: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """1/2 sum (G_t - V(x_t))^2: baseline [T, B] with gradient, targets [T, B] as constants, mask [T, B] -> scalar."""
    return 0.5 * (targets.detach() - baseline).square().masked_fill(~mask, 0.0).sum()
