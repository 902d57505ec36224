"""PopArt per task (Hessel et al. 2018, sections 3-4): value targets normalised by running moments, outputs preserved exactly.

State and pure functions, for K tasks. The value head computes the normalised value n; the value is v = sigma n + mu.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_SIGMA_MIN, _SIGMA_MAX = 1e-4, 1e6

_MIN_VARIANCE_SHARE = 1e-6
"""Smallest variance that `bounded_update` assumes, as a share of nu. Below it, nu - mu^2 is rounding error in single precision."""

SURGE_RATIO = 10.0
"""Root mean square of a task's targets in a batch, in standard deviations around mu, above which the batch is a surge."""

SURGE_CLIP = 1.0
"""Bound on normalised targets and advantages in a surge. It is their usual size, so the gradient is no longer than usual.

With 5, one such batch can nearly double Adam's second moments, which shortens its steps for the next thousand updates
(docs/performance.md).
"""

SURGE_MEMORY = 100
"""Updates with new steps of a task for which its last surge is remembered (`bounded_update`)."""


MOST_COUNTED = 2**20
"""Bound of the count of updates, above 1 / step_size of every use."""

MOST_RATIO, MOST_SHIFT = 1.5, 1.0
"""Scale and shift of a histogram's bins against the normalised targets, above which `move_support` moves them."""

_MOST_DECAY = 10.0
"""Bound on how far logits fall outside of the old support, one per bin: Adam could not raise much lower ones soon."""


class PopArt(NamedTuple):
    """Moments of the value targets of each task, [K] each.

    Attributes:
        mu, nu: First and second moment.
        updates_since_surge: Updates with new steps of the task since its last surge, at most SURGE_MEMORY. Whole numbers in floats.
        updates: Updates that have moved the moments, at most MOST_COUNTED. Whole numbers in floats.
    """

    mu: Tensor
    nu: Tensor
    updates_since_surge: Tensor = torch.tensor(float(SURGE_MEMORY))
    updates: Tensor = torch.tensor(float(MOST_COUNTED))


def initial_popart(num_tasks: int, device: torch.device | None = None) -> PopArt:
    """mu = 0, nu = 1: normalisation starts as the identity."""
    zeros = torch.zeros(num_tasks, device=device)
    return PopArt(zeros, zeros + 1, zeros + SURGE_MEMORY, zeros)


def warm_step_size(state: PopArt, step_size: float) -> Tensor:
    """max(step_size, 1 / (n + 2)) for each task after n updates, [K].

    The first moments are then the plain mean of the initial moments and of all batches so far. The initial ones lose their weight like
    1 / n instead of (1 - step_size)^n. They keep sigma above about n^-1/2 until the task has shown rewards.
    """
    return (state.updates + 2).reciprocal().clamp(min=step_size)


def sigma(state: PopArt, sigma_min: float = _SIGMA_MIN, sigma_max: float = _SIGMA_MAX) -> Tensor:
    """Standard deviation of each task's targets, clipped, [K]."""
    return _variance(state).clamp(sigma_min**2, sigma_max**2).sqrt()


def _variance(state: PopArt) -> Tensor:
    """nu - mu^2, [K]; rounding can make it negative."""
    return torch.addcmul(state.nu, state.mu, state.mu, value=-1)


@torch.no_grad()
def target_sums(targets: Tensor, task: Tensor, mask: Tensor, num_tasks: int) -> Tensor:
    """Number of valid steps, sum of G and sum of G^2 for each task, [3, K]. The sums of two parts of a batch add up to its own.

    Args:
        targets: G [T, B]; task: ids [T, B]; mask: bool [T, B], True for valid steps.
        num_tasks: K.
    """
    index, weights = task.flatten().long(), mask.flatten().to(targets.dtype)
    values = targets.flatten().masked_fill(~mask.flatten(), 0.0)
    zeros = values.new_zeros(num_tasks)
    # Row by row: on a two-dimensional source index_add is a hundred times slower.
    return torch.stack([zeros.index_add(0, index, row) for row in (weights, values, values * values)])


@torch.no_grad()
def bounded_update(
    state: PopArt, sums: Tensor, new_sums: Tensor, step_size: float, *, warm: bool = False
) -> tuple[PopArt, Tensor]:
    """`update_moments`, with a bound on the effect of one batch.

    Without a bound, one reward of 1e4 would multiply sigma by a hundred, and divide the advantages by as much for about 1 / step_size
    updates. Let E be the mean of (G - mu)^2 over a task's steps in the batch. The batch is a surge of the task if E - sigma^2 is more
    than SURGE_RATIO^2 sigma^2, or if a step of `step_size` could more than double the variance. In a surge:

        - The task's moments stay equal, unless its new steps surge now and have also surged within its last SURGE_MEMORY updates.
        - If they have, the moments move by a step that at most doubles the variance.

    So a single outlier leaves no trace. A lasting change of scale surges again and again: from its second batch on, sigma grows by a
    factor of up to sqrt(2) per batch.

    After a step b the variance is at most sigma^2 + b (E - sigma^2), so a step of at most sigma^2 / (E - sigma^2) keeps the bound.

    Args:
        sums: `target_sums` of the whole batch.
        new_sums: `target_sums` of the steps that no update has learned from before. Later passes and the replay repeat a reward, which
            must not count as a second surge. The same tensor as `sums` if all steps are new.
        step_size: b without a surge.
        warm: Whether b is `warm_step_size` instead.

    Returns:
        The new state, and sqrt(E) / sigma of each task with a surge, 0 for the others, [K].
    """
    # With an excess above 1 / step_size, a step of step_size could more than double the variance.
    max_excess = 1 / max(step_size, SURGE_RATIO**-2)
    means = _means(sums)
    excess = _excess(state, means)
    new_excess = excess if new_sums is sums else _excess(state, _means(new_sums))
    is_surge, is_new_surge = excess > max_excess, new_excess > max_excess
    is_held = is_surge & ~(is_new_surge & (state.updates_since_surge < SURGE_MEMORY))
    limit = excess.clamp(min=1).reciprocal()
    rate = limit.minimum(warm_step_size(state, step_size)) if warm else limit.clamp(max=step_size)
    rate = rate.masked_fill(is_held, 0.0)
    has_new_steps = new_sums[0].clamp(max=1)
    since_surge = (state.updates_since_surge + has_new_steps).clamp(max=SURGE_MEMORY).masked_fill(is_new_surge, 0.0)
    surges = (1 + excess).masked_fill(~is_surge, 0.0).sqrt()
    updates = (state.updates + means.has_steps).clamp(max=MOST_COUNTED)
    return _lerp(state, means, rate)._replace(updates_since_surge=since_surge, updates=updates), surges


@torch.no_grad()
def update_moments(state: PopArt, sums: Tensor, step_size: float) -> PopArt:
    """mu <- (1 - b) mu + b mean(G), nu <- (1 - b) nu + b mean(G^2), over the valid steps of each task.

    The second moment is the mean of squares, not the square of a mean. A task without a valid step keeps its moments.

    Args:
        sums: See `target_sums`.
        step_size: b.
    """
    means = _means(sums)
    return _lerp(state, means, torch.full_like(means.has_steps, step_size))


class _Means(NamedTuple):
    """Means over the valid steps of a batch, by task, [K] each.

    Attributes:
        has_steps: 1 where the task has a valid step, else 0.
        mean, mean_square: Of G and of G^2; 0 for a task without a valid step.
    """

    has_steps: Tensor
    mean: Tensor
    mean_square: Tensor


def _means(sums: Tensor) -> _Means:
    """The means from `target_sums`."""
    return _Means(sums[0].clamp(max=1), *(sums[1:] / sums[0].clamp(min=1)).unbind())


def _lerp(state: PopArt, means: _Means, rate: Tensor) -> PopArt:
    """`update_moments` with a step size for each task, [K]."""
    rate = rate * means.has_steps
    return state._replace(mu=state.mu.lerp(means.mean, rate), nu=state.nu.lerp(means.mean_square, rate))


def _excess(state: PopArt, means: _Means) -> Tensor:
    """(E - sigma^2) / sigma^2 of `bounded_update`; 0 for a task without a valid step, [K]."""
    variance = torch.maximum(_variance(state).clamp(min=_SIGMA_MIN**2), _MIN_VARIANCE_SHARE * state.nu)
    mean_squared_distance = means.mean_square + state.mu * (state.mu - 2 * means.mean)
    return (mean_squared_distance / variance - 1) * means.has_steps


@torch.no_grad()
def rescale_head(
    weight: Tensor,
    bias: Tensor,
    old_mu: Tensor,
    old_sigma: Tensor,
    new_mu: Tensor,
    new_sigma: Tensor,
) -> None:
    """Changes the weights of the value head in place so that sigma n + mu stays equal for every input.

    The new values are: w' = sigma w / sigma',  b' = (sigma b + mu - mu') / sigma'.  weight [K, F], bias [K], moments [K].
    """
    ratio = old_sigma / new_sigma
    weight.mul_(ratio.unsqueeze(1))
    bias.copy_((old_sigma * bias + old_mu - new_mu) / new_sigma)


@torch.no_grad()
def move_support(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, centres: Tensor) -> None:
    """Moves the bins of the tasks whose support fits badly back to scale 1 and shift 0, and interpolates their logits, all in place.

    A histogram decodes n = a sum_i p_i c_i + d with p = softmax(W f + b), v = sigma n + mu. No change of W and b keeps v for every f when
    the moments move: log p is linear in f, and the mean of p' is not an affine function of the mean of p for all f. But sum_i p_i = 1, so
    `rescale_head` of the layer with the weight a and the bias d is exact:

        a' = sigma a / sigma',   d' = (sigma d + mu - mu') / sigma'

    The bins then stay where they were in units of the reward, and fit the normalised targets less and less. So when a leaves
    [1 / MOST_RATIO, MOST_RATIO], or |d| exceeds MOST_SHIFT, the bins return to a = 1 and d = 0. The logits are interpolated at the new
    bins by polynomials of degree 3 through the four nearest old ones. This is linear in the logits, thus a change of W and b. It is exact
    for log-densities up to degree 3, among them that of a Gaussian. What remains is the error of its mean by sums over bins, and the mass
    outside of the new support. The value of a learned distribution changes by at most 0.02 sigma' (tests/agents/learning/test_hl_gauss.py).

    Args:
        weight: W [K, B, F]; bias: b [K, B]; scale: a [K, 1]; shift: d [K]; centres: c [B].
    """
    is_moved = (scale.squeeze(1).log().abs() > math.log(MOST_RATIO)) | (shift.abs() > MOST_SHIFT)
    # Elsewhere than on the CPU, the answer would have to be waited for.
    if weight.device.type == "cpu" and not is_moved.any():
        return
    width, last = centres[1] - centres[0], len(centres) - 1
    # The new centres, counted in old bins.
    position = ((centres - shift.unsqueeze(1)) / scale - centres[0]) / width
    inside = position.clamp(0, last)
    first = (inside.floor() - 1).clamp(0, last - 3)
    share = lagrange_weights(inside - first)
    index = first.long().unsqueeze(2) + torch.arange(4, device=first.device)
    matrix = torch.zeros(*position.shape, last + 1, device=weight.device, dtype=weight.dtype).scatter(2, index, share)
    decay = ((position - inside).abs() * scale).clamp(max=_MOST_DECAY)
    new_bias = (matrix @ bias.unsqueeze(2)).squeeze(2) - decay
    weight.copy_(torch.where(is_moved[:, None, None], matrix @ weight, weight))
    bias.copy_(torch.where(is_moved.unsqueeze(1), new_bias, bias))
    scale.masked_fill_(is_moved.unsqueeze(1), 1.0)
    shift.masked_fill_(is_moved, 0.0)


def lagrange_weights(x: Tensor) -> Tensor:
    """Weights of the values at 0, 1, 2, 3 in the polynomial through them at x, [...] -> [..., 4]."""
    return torch.stack(
        [
            -(x - 1) * (x - 2) * (x - 3) / 6,
            x * (x - 2) * (x - 3) / 2,
            -x * (x - 1) * (x - 3) / 2,
            x * (x - 1) * (x - 2) / 6,
        ],
        dim=-1,
    )
