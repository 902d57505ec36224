"""Losses of the policy and the baseline, and the normalisation of advantages. Pure functions on [T, B] tensors.

All losses are sums over the steps where `mask` is True. Other steps have no effect, even if their values are not finite. The entropy is in
agents/network/actions.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

VALUE_LOSSES = ("mse", "hl_gauss")
"""Losses of the baseline: `baseline_loss` and `histogram_loss`."""

LOSSES = ("impala", "appo")
"""Losses of the policy: `policy_gradient_loss` and `clipped_surrogate_loss`."""

NORMALIZATIONS = ("none", "batch", "task")
"""Whether advantages are normalised by their moments over the whole minibatch, or over the steps of each task."""

_LEAST_DEVIATION = 0.1
"""Smallest standard deviation to divide by, in standard deviations of the task's value targets.

Without it, the noise of a task without reward would become as large as the signal of the others.
"""

DEVIATION = 0.75
"""Standard deviation of a histogram's Gaussian in widths of a bin, as its paper recommends. About six bins then have mass."""

_MAX_LOG_RATIO = 20.0
"""Bound on |log pi - log mu| before the exponential, far outside of every clip, so that the surrogate stays finite."""


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """-sum log pi(a_t|x_t) A_t (Espeholt et al. 2018, section 4.2).

    Args:
        log_probs: Log pi(a_t|x_t), with gradient, [T, B].
        advantages: A_t, constants, [T, B].
        mask: bool [T, B].
    """
    return -(log_probs * advantages.detach()).masked_fill(~mask, 0.0).sum()


class Surrogate(NamedTuple):
    """Results of `clipped_surrogate_loss`, scalars that are sums over the valid steps.

    Attributes:
        loss: The loss, with gradient.
        kl: Estimate of KL(mu || pi): the sum of r - 1 - log r, which is never negative.
        clipped: Number of steps whose ratio is outside of the clip.
    """

    loss: Tensor
    kl: Tensor
    clipped: Tensor


def clipped_surrogate_loss(log_ratios: Tensor, advantages: Tensor, mask: Tensor, *, clip_ratio: float) -> Surrogate:
    """-sum min(r_t A_t, clip(r_t, 1 - c, 1 + c) A_t), r_t = pi(a_t|x_t) / mu(a_t|x_t) (PPO, Schulman et al. 2017, equation 7).

    The trajectory has the log-probabilities of the behaviour policy mu. A step whose ratio has left the clip, in the direction of its
    advantage, has no gradient.

    Args:
        log_ratios: Log r_t, with gradient, [T, B].
        advantages: A_t without a factor r_t, constants, [T, B].
        mask: bool [T, B].
        clip_ratio: c.
    """
    log_ratios, advantages = log_ratios.masked_fill(~mask, 0.0), advantages.detach().masked_fill(~mask, 0.0)
    ratios = log_ratios.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()
    clipped = ratios.clamp(1 - clip_ratio, 1 + clip_ratio)
    loss = -(ratios * advantages).minimum(clipped * advantages).sum()
    kl = (ratios - 1 - log_ratios).detach().sum()
    return Surrogate(loss, kl, (clipped != ratios).sum().to(loss.dtype))


def baseline_loss(baseline: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """1/2 sum (G_t - V(x_t))^2 (Espeholt et al. 2018, section 4.2).

    Args:
        baseline: V(x_t), with gradient, [T, B].
        targets: G_t, constants, [T, B].
        mask: bool [T, B].
    """
    return 0.5 * (targets.detach() - baseline).square().masked_fill(~mask, 0.0).sum()


@torch.no_grad()
def histogram(targets: Tensor, centres: Tensor) -> Tensor:
    """HL-Gauss (Farebrother et al. 2024, section 3.1): the mass of a Gaussian around each target in every bin, [...] -> [..., B].

    The sum over bins is 1. Targets outside of the support count as its ends.

    Args:
        targets: In units of the centres, finite.
        centres: Of equal bins, [B].
    """
    width = centres[1] - centres[0]
    edges = torch.cat([centres[:1] - width / 2, centres + width / 2])
    targets = targets.clamp(edges[0], edges[-1])
    distribution = torch.erf((edges - targets.unsqueeze(-1)) / (math.sqrt(2) * DEVIATION * width))
    return distribution.diff(dim=-1) / (distribution[..., -1:] - distribution[..., :1])


def histogram_loss(logits: Tensor, histogram: Tensor, mask: Tensor) -> Tensor:
    """-sum_t sum_i q_i log p_i, p = softmax(logits): cross-entropy (Farebrother et al. 2024, section 3).

    Args:
        logits: With gradient, [T, B, bins].
        histogram: q, constants [T, B, bins] (`histogram`).
        mask: bool [T, B].
    """
    return -(histogram * logits.log_softmax(dim=-1)).sum(dim=-1).masked_fill(~mask, 0.0).sum()


@torch.no_grad()
def normalize_advantages(advantages: Tensor, task: Tensor, sums: Tensor, deviation: Tensor, *, by_task: bool) -> Tensor:
    """(A - mean) / max(standard deviation, floor).

    Args:
        advantages: A, divided by the deviation of the value targets of its task, [T, B].
        task: Task ids, [T, B].
        sums: Number of valid steps, sum and sum of squares of the undivided advantages by task, over all learners, [3, K]
            (agents.learning.popart.target_sums).
        deviation: Standard deviations of the value targets, [K].
        by_task: Whether each task has its own moments.
    """
    counts, totals, squares = sums[0], sums[1] / deviation, sums[2] / deviation.square()
    if not by_task:
        counts, totals, squares = (part.sum().expand(len(deviation)) for part in (counts, totals, squares))
    counts = counts.clamp(min=1)
    means = totals / counts
    deviations = (squares / counts - means.square()).clamp(min=_LEAST_DEVIATION**2).sqrt()
    return (advantages - means[task]) / deviations[task]
