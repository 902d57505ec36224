"""PopArt per task (Hessel et al. 2018, sections 3-4): value targets normalised by running moments, outputs preserved exactly.

State and pure functions. K tasks; the baseline head gives the normalised value n, and v = sigma n + mu.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_SIGMA_MIN, _SIGMA_MAX = 1e-4, 1e6

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


def sigma(state: PopArt, sigma_min: float = _SIGMA_MIN, sigma_max: float = _SIGMA_MAX) -> Tensor:
    """Standard deviation of each task's targets, clipped, [K]."""
    return _variance(state).clamp(sigma_min**2, sigma_max**2).sqrt()


def _variance(state: PopArt) -> Tensor:
    return torch.addcmul(state.nu, state.mu, state.mu, value=-1)


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
    means = _means(sums)
    excess = fresh_excess = _excess(state, means)
    if fresh_sums is not sums:
        fresh_excess = _excess(state, _means(fresh_sums))
    surge, fresh_surge = excess > most, fresh_excess > most
    held = surge & ~(fresh_surge & (state.calm < CALM))
    rate = excess.clamp(min=1).reciprocal().clamp(max=step_size).masked_fill(held, 0.0)
    calm = (state.calm + fresh_sums[0].clamp(max=1)).clamp(max=CALM).masked_fill(fresh_surge, 0.0)
    return _moved(state, means, rate)._replace(calm=calm), (1 + excess).masked_fill(~surge, 0.0).sqrt()


@torch.no_grad()
def update_moments(state: PopArt, sums: Tensor, step_size: float) -> PopArt:
    """mu <- (1 - b) mu + b mean(G), nu <- (1 - b) nu + b mean(G^2), over the valid steps of each task.

    The second moment is the mean of squares, not the square of a mean. A task without a valid step keeps its moments.

    Args:
        sums: of `target_sums`.
        step_size: b.
    """
    means = _means(sums)
    return _moved(state, means, torch.full_like(means.present, step_size))


class _Means(NamedTuple):
    """Of the valid steps of a batch: 1 where the task has any, else 0; mean of G and of G^2, 0 where it has none, [K] each."""

    present: Tensor
    mean: Tensor
    mean_square: Tensor


def _means(sums: Tensor) -> _Means:
    """Of `target_sums`, whose first row holds whole numbers."""
    return _Means(sums[0].clamp(max=1), *(sums[1:] / sums[0].clamp(min=1)).unbind())


def _moved(state: PopArt, means: _Means, rate: Tensor) -> PopArt:
    """`update_moments` with a step size for each task, [K]."""
    rate = rate * means.present
    return state._replace(mu=state.mu.lerp(means.mean, rate), nu=state.nu.lerp(means.mean_square, rate))


def _excess(state: PopArt, means: _Means) -> Tensor:
    """(E - sigma^2) / sigma^2 of `bounded_update`; 0 for a task without a step, [K]."""
    variance = torch.maximum(_variance(state).clamp(min=_SIGMA_MIN**2), _LEAST_SHARE * state.nu)
    energy = means.mean_square + state.mu * (state.mu - 2 * means.mean)
    return (energy / variance - 1) * means.present


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
