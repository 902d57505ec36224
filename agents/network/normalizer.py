"""Running moments of vector observations per task. `env.normalize_observation` puts this before the torso."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

CLIP = 10.0
"""Largest magnitude of a normalised number, in standard deviations."""
_LEAST_DEVIATION = 1e-8
_LEAST_RELATIVE_DEVIATION = 1e-7
"""Relative to the mean: the deviation of a constant after rounding to single precision."""


class Moments(NamedTuple):
    """Number of steps [K, 1], mean [K, V] and variance [K, V] of each task."""

    steps: Tensor
    mean: Tensor
    variance: Tensor


class ObservationNormalizer(nn.Module):
    """vector [N, V], task [N] -> clip((vector - mean) / deviation) [N, V], with the moments of each row's task.

    The moments are parameters without gradient, so they travel with the weights: to actors, inference servers and checkpoints. Only the
    learner changes them (`sums`, `updated`, `take`), from the steps of all actors. Evaluation never does.

    They are stored in double precision. `forward` first rounds them to single precision, the precision of weights sent to actors, so
    actors and learner compute the same.

    The initial moments of a task are mean 0 and variance 1: the vector is only clipped. A constant feature, such as the padding of a
    shorter vector, becomes 0. `count` [K, 1] holds the steps behind the moments, `mean` and `variance` [K, V], of each task.
    """

    def __init__(self, num_tasks: int, size: int) -> None:
        super().__init__()

        def kept(value: float, width: int) -> nn.Parameter:
            return nn.Parameter(torch.full((num_tasks, width), value, dtype=torch.float64), requires_grad=False)

        self.count, self.mean, self.variance = kept(0, 1), kept(0, size), kept(1, size)

    def forward(self, vector: Tensor, task: Tensor) -> Tensor:
        """Normalised vector in single precision, also under autocast."""
        index, mean = task.long(), self.mean.float()
        least = (mean.abs() * _LEAST_RELATIVE_DEVIATION).clamp(min=_LEAST_DEVIATION)
        scale = 1 / torch.maximum(self.variance.float().clamp(min=0).sqrt(), least)
        return ((vector.float() - mean[index]) * scale[index]).clamp(-CLIP, CLIP)

    @torch.no_grad()
    def sums(self, vector: Tensor, task: Tensor, mask: Tensor) -> Tensor:
        """Per task the number of valid steps and the sums of d and d^2 over them: [K, 1 + 2 V], d = vector - mean.

        Shapes: vector [T, B, V], task [T, B], mask bool [T, B]. The mask is False for steps that do not count. The sums of the parts of a
        batch add up to the sums of the batch. The difference d is relative to the current mean, because sums of squares around 0 would
        lose a deviation that is small relative to the mean.
        """
        index, valid = task.flatten().long(), mask.reshape(-1, 1)
        difference = vector.flatten(0, 1).double() - self.mean[index]
        # `where`, not a product: masked steps may hold NaN.
        difference = torch.where(valid, difference, 0.0)
        rows = torch.cat([valid.double(), difference, difference.square()], dim=1)
        # A matrix product adds in a fixed order, on a GPU too.
        return F.one_hot(index, len(self.mean)).double().T @ rows

    @torch.no_grad()
    def updated(self, sums: Tensor) -> Moments:
        """The moments after adding the steps of `sums` (Chan et al. 1979). Tasks without steps keep their moments."""
        size = self.mean.shape[1]
        added, first, second = sums.split([1, size, size], dim=1)
        total = (self.count + added).clamp(min=1)
        shift = first / added.clamp(min=1)
        spread = (second - first * shift).clamp(min=0) + shift.square() * self.count * added / total
        mean = self.mean + shift * added / total
        variance = torch.where(added > 0, (self.count * self.variance + spread) / total, self.variance)
        return Moments(self.count + added, mean, variance)

    @torch.no_grad()
    def take(self, moments: Moments) -> None:
        """Stores `moments` in place, because CUDA graphs hold the addresses of the parameters."""
        for own, new in zip((self.count, self.mean, self.variance), moments, strict=True):
            own.copy_(new)
