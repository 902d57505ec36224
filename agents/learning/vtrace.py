"""V-trace (Espeholt et al. 2018, section 4): off-policy corrected values and advantages. Pure functions on [T, B] tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PG_BOOTSTRAPS = ("mixed", "paper")
"""What the policy gradient's advantage takes for the value of the next state; see `vtrace`."""


class VTrace(NamedTuple):
    """vs [T, B]: targets of the baseline. pg_advantages [T, B]: rho_s (r_s + gamma_s q_{s+1} - V(x_s))."""

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
    clip_pg_rho: float = 1.0,
    lambda_: float = 1.0,
    mixed: bool = True,
) -> VTrace:
    """V-trace targets and policy-gradient advantages.

        delta_t = rho_t (r_t + gamma_t V(x_{t+1}) - V(x_t))
        v_s = V(x_s) + delta_s + gamma_s c_s (v_{s+1} - V(x_{s+1})),   rho = min(clip_rho, pi/mu), c = lambda min(clip_c, pi/mu)
        A_s = min(clip_pg_rho, pi/mu) (r_s + gamma_s q_{s+1} - V(x_s))
        q_s = lambda v_s + (1 - lambda) V(x_s)   (mixed)   or   v_s   (paper)

    On policy the mixed form, that of rlax, is GAE(lambda) (Schulman et al. 2016): delta_s + gamma lambda (v_{s+1} - V(x_{s+1})). The
    paper's form has gamma in place of gamma lambda there. With lambda 1 both are the same to the bit.

    Args:
        log_rhos: log pi(a|x) - log mu(a|x), [T, B].
        discounts: gamma_t, 0 where the episode terminated, [T, B].
        rewards: [T, B].
        values: V(x_t), [T, B].
        bootstrap_value: V(x_T), [B].
        mask: bool [T, B]; where False there was no transition: rho and c are 0 there, whatever `log_rhos` and `rewards` hold, so its
            target is its own value, nothing flows through it from the next episode, and the value of a truncated episode's last
            observation is what it bootstraps.
        clip_rho, clip_c, clip_pg_rho: the constants rho-bar, c-bar, and the clipping of rho in the advantage.
        lambda_: the lambda of the remark on V-trace(lambda).
        mixed: which q.

    Returns:
        Targets and advantages, without gradient.
    """
    rhos = torch.exp(log_rhos)
    if mask is not None:
        # Filled, because NaN times 0 is NaN. `where` would send its zero to the device and wait.
        rhos, rewards = rhos.masked_fill(~mask, 0.0), rewards.masked_fill(~mask, 0.0)
    clipped_rhos = rhos.clamp(max=clip_rho)
    cs = lambda_ * rhos.clamp(max=clip_c)
    next_values = torch.cat([values[1:], bootstrap_value.unsqueeze(0)])
    deltas = clipped_rhos * (rewards + discounts * next_values - values)
    decay = discounts * cs
    # Rows taken out once: one operation for each step of the recursion.
    error, errors = torch.zeros_like(bootstrap_value), []
    for delta, kept in zip(reversed(deltas.unbind()), reversed(decay.unbind()), strict=True):
        error = torch.addcmul(delta, kept, error)
        errors.append(error)
    vs = values + torch.stack(errors[::-1])
    next_vs = torch.cat([vs[1:], bootstrap_value.unsqueeze(0)])
    if mixed:
        next_vs = torch.lerp(next_values, next_vs, lambda_)
    pg_advantages = rhos.clamp(max=clip_pg_rho) * (rewards + discounts * next_vs - values)
    return VTrace(vs, pg_advantages)
