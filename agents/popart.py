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


SURGE_RATIO = 10.0
"""Root mean square of a batch's targets of a task, in standard deviations around mu, above which it is a surge (`bounded_update`)."""

SURGE_CLIP = 1.0
"""Of normalised targets and advantages in a surge: about what usual ones are, so that its gradient is no longer than theirs. At 5 one such
batch can nearly double Adam's second moments, which shortens its steps for the next thousand updates (docs/performance.md).
"""

CALM = 100
"""Updates without a surge of a task after which its next one is a first one (`bounded_update`)."""


class PopArt(NamedTuple):
    """First moment mu [K] and second moment nu [K] of the value targets of each task.

    calm: updates with steps of the task since its last surge, at most CALM, [K]. They are whole numbers.
    """

    mu: Tensor
    nu: Tensor
    calm: Tensor = torch.tensor(float(CALM))


def initial_popart(num_tasks: int, device: torch.device | None = None) -> PopArt:
    """mu = 0, nu = 1: normalisation starts as the identity."""
    zeros = torch.zeros(num_tasks, device=device)
    return PopArt(zeros, zeros + 1, zeros + CALM)


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
def bounded_update(state: PopArt, sums: Tensor, fresh_sums: Tensor, step_size: float) -> tuple[PopArt, Tensor]:
    """`update_moments`, with a bound on what one batch does. Also returns the root mean square of the batch's targets in standard
    deviations around mu, of each task for which that is more than SURGE_RATIO, or a whole step would more than double the variance: a
    surge; else 0, [K].

    One reward of 1e4 would else multiply sigma by a hundred, and divide the advantages by as much for about 1 / step_size updates. So
    a task's moments stay as they are in a surge, unless fresh steps of the task have also surged in one of the last CALM updates that
    had such steps. Then the batch at most doubles the variance. A scale that has really changed surges again and again, and is reached:
    sigma grows by a factor of up to sqrt(2) with every batch but the first.

    With E the mean of (G - mu)^2, the variance after a step is at most sigma^2 + b (E - sigma^2), so b <= sigma^2 / (E - sigma^2).
    The sigma of this bound is at least a thousandth of the root of nu: below it, rounding decides what nu - mu^2 is.

    Args:
        sums: of `target_sums`, of the whole batch.
        fresh_sums: of those of its steps that are learned from for the first time: one reward is no second surge in a later pass, or
            when it comes back from the replay.
        step_size: b, where nothing bounds it.
    """
    # Above 1 / step_size a whole step would more than double the variance.
    most = 1 / max(step_size, SURGE_RATIO**-2)
    excess, fresh_excess = _excess(state, sums), _excess(state, fresh_sums)
    surge, fresh_surge = excess > most, fresh_excess > most
    followed = torch.where(fresh_surge & (state.calm < CALM), (1 / excess).clamp(max=step_size), 0.0)
    new = update_moments(state, sums, torch.where(surge, followed, step_size))
    calm = torch.where(fresh_surge, 0.0, (state.calm + (fresh_sums[0] > 0)).clamp(max=CALM))
    return new._replace(calm=calm), torch.where(surge, 1 + excess, 0.0).sqrt()


def _excess(state: PopArt, sums: Tensor) -> Tensor:
    """(E - sigma^2) / sigma^2 of `bounded_update`; 0 for a task without a step, [K]."""
    count, total, total_of_squares = sums
    mean, mean_square = total / count.clamp(min=1), total_of_squares / count.clamp(min=1)
    variance = torch.maximum(sigma(state, sigma_max=math.inf).square(), _LEAST_SHARE * state.nu)
    energy = mean_square - 2 * state.mu * mean + state.mu.square()
    return torch.where(count > 0, energy / variance - 1, 0.0)


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
    return state._replace(mu=torch.lerp(state.mu, mean, rate), nu=torch.lerp(state.nu, mean_square, rate))


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
