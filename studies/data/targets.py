"""Functions of two inputs x and z in R^d, all scaled so that each output has variance 1 for x, z ~ N(0, I).

The constant mean as prediction has an error of 1. S seeds, N samples: x, z [S, N, d] -> y [S, N, K].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from studies.models.ensembles import Streams

Target = Callable[[Tensor, Tensor], Tensor]

TEACHER_UNITS = 16
_SAMPLES = 1 << 14
"""Number of samples for the mean and the variance of the teacher's output."""


def sum_of_inputs(d: int, streams: Streams) -> Target:
    """y = (x + z) / sqrt(2), d outputs."""
    return lambda x, z: (x + z) / math.sqrt(2)


def product(d: int, streams: Streams) -> Target:
    """y = x * z, element by element, d outputs."""
    return lambda x, z: x * z


def dot(d: int, streams: Streams) -> Target:
    """y = <x, z> / sqrt(d)."""
    return lambda x, z: (x * z).sum(-1, keepdim=True) / math.sqrt(d)


def bilinear(d: int, streams: Streams) -> Target:
    """y = x^T W z with a random W of Frobenius norm 1 for each seed."""
    W = streams.normal(d, d)
    W = W / W.square().sum((1, 2), keepdim=True).sqrt()
    return lambda x, z: ((x @ W) * z).sum(-1, keepdim=True)


def teacher(d: int, streams: Streams) -> Target:
    """y = c relu(A [x; z] + a), standardized: a random MLP with TEACHER_UNITS hidden units for each seed."""
    A, a, c = streams.normal(2 * d, TEACHER_UNITS), streams.normal(1, TEACHER_UNITS), streams.normal(TEACHER_UNITS, 1)

    def raw(x: Tensor, z: Tensor) -> Tensor:
        return (torch.cat([x, z], -1) @ A / math.sqrt(2 * d) + a).relu() @ c

    sample = raw(streams.normal(_SAMPLES, d), streams.normal(_SAMPLES, d))
    mean, deviation = sample.mean(1, keepdim=True), sample.std(1, keepdim=True)
    return lambda x, z: (raw(x, z) - mean) / deviation


FUNCTIONS: dict[str, Callable[[int, Streams], Target]] = {
    "sum": sum_of_inputs,
    "product": product,
    "dot": dot,
    "bilinear": bilinear,
    "teacher": teacher,
}
"""Name -> function of (d, streams) that returns the target; random parts are drawn from the streams."""


def outputs(function: str, d: int) -> int:
    """K, the number of outputs."""
    return d if function in ("sum", "product") else 1
