"""Normalisation of advantages over a minibatch, exact over several learners."""

from __future__ import annotations

import torch
from torch import Tensor

NORMALIZATIONS = ("none", "batch", "task")
"""Whether advantages are normalised by their moments over the whole minibatch, or over the steps of each task."""

_FLOOR = 0.1
"""Smallest standard deviation to divide by, in standard deviations of the task's value targets.

Without it, the noise of a task without reward would become as large as the signal of the others.
"""


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
    deviations = (squares / counts - means.square()).clamp(min=_FLOOR**2).sqrt()
    return (advantages - means[task]) / deviations[task]
