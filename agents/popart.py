"""PopArt per task (Hessel et al. 2018, sections 3-4): value targets normalised by running moments, outputs preserved exactly.

State and pure functions. K tasks; the baseline head gives the normalised value n, and v = sigma n + mu.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_SHARE = 1e-6
"""Of nu: a smaller variance is not known in single precision."""


SURGE_CLIP = 5.0
"""Of normalised targets and advantages in a surge (`bounded_step_sizes`)."""


class PopArt(NamedTuple):
    """First moment mu [K] and second moment nu [K] of the value targets of each task."""

    mu: Tensor
    nu: Tensor


def initial_popart(num_tasks: int, device: torch.device | None = None) -> PopArt:
    """mu = 0, nu = 1: normalisation starts as the identity."""
    return PopArt(torch.zeros(num_tasks, device=device), torch.ones(num_tasks, device=device))


def sigma(state: PopArt, sigma_min: float = 1e-4, sigma_max: float = 1e6) -> Tensor:
    """Standard deviation of each task's targets, clipped, [K]."""
    return (state.nu - state.mu.square()).clamp(min=0).sqrt().clamp(sigma_min, sigma_max)


@torch.no_grad()
def target_sums(targets: Tensor, task: Tensor, mask: Tensor, num_tasks: int) -> Tensor:
    """Number of valid steps, sum of G and sum of G^2 of each task, [3, K]. Those of parts of a batch add up to those of the batch.

    Args:
        targets: G [T, B]; task: ids [T, B]; mask: bool [T, B], False for steps that do not count.
        num_tasks: K.
    """
    index, weights = task.flatten().long(), mask.flatten().to(targets.dtype)
    values = targets.flatten().masked_fill(~mask.flatten(), 0.0)
    zeros = values.new_zeros(num_tasks)
    # One at a time: in two dimensions index_add is a hundred times slower.
    return torch.stack([zeros.index_add(0, index, row) for row in (weights, values, values * values)])


@torch.no_grad()
def bounded_step_sizes(
    state: PopArt, sums: Tensor, step_size: float, *, repeated: bool = False
) -> tuple[Tensor, Tensor]:
    """The step size b of each task with which one batch at most doubles the variance of its targets, [K]; and where that is less than
    `step_size`, which is called a surge, the root mean square of the batch's targets in standard deviations around mu, else 0, [K].

    One reward of 1e4 would else multiply sigma by a hundred, and divide the advantages by as much for about 1 / b updates. A scale that
    has really changed is still reached: sigma grows by a factor of up to sqrt(2) with every batch.

    With E the mean of (G - mu)^2, the variance after a step is at most sigma^2 + b (E - sigma^2), so b <= sigma^2 / (E - sigma^2).
    The sigma of this bound is at least a thousandth of the root of nu: below it, rounding decides what nu - mu^2 is.

    Args:
        sums: of `target_sums`, of the whole batch.
        step_size: the most it may be.
        repeated: another pass over a batch, which has moved them already: in a surge they stay.
    """
    count, total, total_of_squares = sums
    mean, mean_square = total / count.clamp(min=1), total_of_squares / count.clamp(min=1)
    variance = torch.maximum(sigma(state, sigma_max=math.inf).square(), _LEAST_SHARE * state.nu)
    energy = mean_square - 2 * state.mu * mean + state.mu.square()
    most = variance / (energy - variance).clamp(min=0)
    surge = (count > 0) & (most < step_size)
    step_sizes = torch.where(surge, 0.0 if repeated else most, torch.full_like(most, step_size))
    return step_sizes, torch.where(surge, energy / variance, 0.0).sqrt()


@torch.no_grad()
def update_moments(state: PopArt, sums: Tensor, step_size: float | Tensor) -> PopArt:
    """mu <- (1 - b) mu + b mean(G), nu <- (1 - b) nu + b mean(G^2), over the valid steps of each task.

    The second moment is the mean of squares, not the square of a mean. A task without a valid step keeps its moments.

    Args:
        sums: of `target_sums`.
        step_size: b, one for all tasks or one for each.
    """
    count, total, total_of_squares = sums
    rate = step_size * (count > 0).to(sums.dtype)
    mean, mean_square = total / count.clamp(min=1), total_of_squares / count.clamp(min=1)
    return PopArt(torch.lerp(state.mu, mean, rate), torch.lerp(state.nu, mean_square, rate))


@torch.no_grad()
def rescale_head(
    weight: Tensor,
    bias: Tensor,
    old_mu: Tensor,
    old_sigma: Tensor,
    new_mu: Tensor,
    new_sigma: Tensor,
) -> None:
    """Changes the last layer in place so that sigma n + mu stays what it was for every input.

    w' = sigma w / sigma',  b' = (sigma b + mu - mu') / sigma'.  weight [K, F], bias [K], moments [K].
    """
    ratio = old_sigma / new_sigma
    weight.mul_(ratio.unsqueeze(1))
    bias.copy_((old_sigma * bias + old_mu - new_mu) / new_sigma)
