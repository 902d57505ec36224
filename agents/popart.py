"""PopArt per task (Hessel et al. 2018, sections 3-4): value targets normalised by running moments, outputs preserved exactly.

State and pure functions. K tasks; the baseline head gives the normalised value n, and v = sigma n + mu.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
def update_moments(state: PopArt, sums: Tensor, step_size: float) -> PopArt:
    """mu <- (1 - b) mu + b mean(G), nu <- (1 - b) nu + b mean(G^2), over the valid steps of each task.

    The second moment is the mean of squares, not the square of a mean. A task without a valid step keeps its moments.

    Args:
        sums: of `target_sums`.
        step_size: b.
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
