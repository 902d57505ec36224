"""V-trace (Espeholt et al. 2018, section 4): off-policy corrected values and advantages. Pure functions on [T, B] tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PG_BOOTSTRAPS = ("mixed", "paper")
"""Forms of q, the value of the next state in the advantage; see `vtrace`."""


class VTrace(NamedTuple):
    """Results of `vtrace`, [T, B] each.

    Attributes:
        vs: Targets of the baseline.
        pg_advantages: Advantages of the policy gradient.
    """

    vs: Tensor
    pg_advantages: Tensor


@torch.no_grad()
def vtrace(
    log_rhos: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    mask: Tensor | None = None,
    *,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float | None = 1.0,
    lambda_: float = 1.0,
    mixed: bool = True,
) -> VTrace:
    """V-trace targets v and policy-gradient advantages A, without gradient:

        rho_s = min(clip_rho, pi/mu),   c_s = lambda min(clip_c, pi/mu)
        delta_s = rho_s (r_s + gamma_s V(x_{s+1}) - V(x_s))
        v_s = V(x_s) + delta_s + gamma_s c_s (v_{s+1} - V(x_{s+1}))
        A_s = min(clip_pg_rho, pi/mu) (r_s + gamma_s q_{s+1} - V(x_s))
        q_s = lambda v_s + (1 - lambda) V(x_s)   (mixed)   or   v_s   (paper)

    The mixed form is rlax's. On policy it equals GAE(lambda) (Schulman et al. 2016): delta_s + gamma lambda (v_{s+1} - V(x_{s+1})).
    The paper's form has the factor gamma instead of gamma lambda. With lambda 1 the two forms give the same bits.

    Args:
        log_rhos: Log pi(a|x) - log mu(a|x), [T, B].
        discounts: gamma_s, 0 where the episode terminated, [T, B].
        rewards: r_s, [T, B].
        values: V(x_s), [T, B].
        bootstrap_value: V(x_T), [B].
        mask: bool [T, B], False where a step is no transition, as at a reset. There rho and c are 0 and `log_rhos` and `rewards` are
            ignored, so v_s = V(x_s). Nothing flows back from the next episode, and a truncated episode bootstraps from the value of
            its last observation.
        clip_rho, clip_c, clip_pg_rho: The paper's rho-bar and c-bar, and the clip of pi/mu in the advantage. With clip_pg_rho None
            the advantage has no factor pi/mu, for losses with a ratio of their own.
        lambda_: Lambda, the factor on c in the paper's remark 2.
        mixed: Whether q has the mixed form.
    """
    rhos = torch.exp(log_rhos)
    if mask is not None:
        # Not a product, because NaN times 0 is NaN. Not `torch.where`: it copies its zero to the GPU, which synchronizes.
        rhos, rewards = rhos.masked_fill(~mask, 0.0), rewards.masked_fill(~mask, 0.0)
    clipped_rhos = rhos.clamp(max=clip_rho)
    cs = lambda_ * rhos.clamp(max=clip_c)
    next_values = torch.cat([values[1:], bootstrap_value.unsqueeze(0)])
    deltas = clipped_rhos * (rewards + discounts * next_values - values)
    decays = discounts * cs
    # `correction` is v_s - V(x_s). Unbinding first leaves one kernel per step of the recursion.
    correction, corrections = torch.zeros_like(bootstrap_value), []
    for delta, decay in zip(reversed(deltas.unbind()), reversed(decays.unbind()), strict=True):
        correction = torch.addcmul(delta, decay, correction)
        corrections.append(correction)
    vs = values + torch.stack(corrections[::-1])
    next_vs = torch.cat([vs[1:], bootstrap_value.unsqueeze(0)])
    if mixed:
        next_vs = torch.lerp(next_values, next_vs, lambda_)
    pg_advantages = rewards + discounts * next_vs - values
    if clip_pg_rho is not None:
        pg_advantages = rhos.clamp(max=clip_pg_rho) * pg_advantages
    return VTrace(vs, pg_advantages)
