"""Families of tasks, y = a_k f(x) + b_k element by element with a_k, b_k ~ N(0, I), divided so that y has variance 1 over tasks and x.

The input x is uniform between -1 and 1. A prediction without knowledge of the task has an error of 1. With b_k alone the error is about
E f^2 / (E f^2 + 1): 0.25 for `affine`, 0.32 for `sine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from studies.models.ensembles import Streams

FREQUENCY = 10.0


class Family(NamedTuple):
    """`function` is f; `mean_square` is that of f(x) for x uniform between -1 and 1."""

    function: Callable[[Tensor], Tensor]
    mean_square: float


FAMILIES: dict[str, Family] = {
    "affine": Family(lambda x: x, 1 / 3),
    "sine": Family(lambda x: torch.sin(FREQUENCY * x), 0.5 - math.sin(2 * FREQUENCY) / (4 * FREQUENCY)),
}


class Tasks:
    """Random tasks of a family, different for each of S seeds.

    Args:
        count: T.
        size: X, features of x and y.
    """

    def __init__(self, family: Family, count: int, size: int, streams: Streams) -> None:
        self._family = family
        self._shape = count, size
        self._slopes, self._shifts = streams.normal(count, 1, size), streams.normal(count, 1, size)

    def sample(self, count: int, streams: Streams) -> tuple[Tensor, Tensor]:
        """Draws `count` samples of every task: x [S, T, count, X], scaled to variance 1, and y of the same shape."""
        tasks, size = self._shape
        x = streams.uniform(tasks, count, size, low=-1.0, high=1.0)
        y = (self._slopes * self._family.function(x) + self._shifts) / math.sqrt(self._family.mean_square + 1)
        return x * math.sqrt(3), y
