"""Multilayer perceptrons with a context: a fusion of agents.fusion at every layer, or a separate head for each context.

Shapes: U contexts with N samples each. x [U, N, X], z [U, Z] -> [U, N, K]. Initial z are normal with a standard deviation of 1 / z_scale.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from agents.fusion import FUSIONS
from agents.fusion.base import Fusion
from agents.fusion.segments import identity_segments
from agents.network.initialization import RELU_GAIN, keep_variance

MULTI_HEAD = "multi_head"
PERCEPTRONS = ("concat", "sum", "scale_shift", "film", "gated", "diagonal", "low_rank", "mi", MULTI_HEAD)
"""Names of fusions, and MULTI_HEAD."""

_MOST_WIDTH = 1 << 12


class FusedPerceptron(nn.Module):
    """ReLU layers, each a fusion of the previous layer with z. With `concat`, every layer reads z, not only the first one."""

    def __init__(
        self, fusion: str, x_size: int, z_size: int, out_size: int, *, width: int, hidden_layers: int, rank: int
    ) -> None:
        super().__init__()
        sizes = [x_size, *[width] * hidden_layers, out_size]
        options: dict[str, Any] = {"rank": rank} if fusion == "low_rank" else {}
        self.z_size, self.z_scale = z_size, 1.0
        self.layers = nn.ModuleList(
            FUSIONS[fusion](before, z_size, after, **options) for before, after in itertools.pairwise(sizes)
        )

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [U, N, X], z [U, Z] -> [U, N, K]."""
        for number, layer in enumerate(self.layers):
            # The initial weights of a fusion expect inputs of variance 1.
            x = for_each_context(cast(Fusion, layer), RELU_GAIN * x.relu() if number else x, z)
        return x


class MultiHeadPerceptron(nn.Module):
    """ReLU layers shared by all contexts, and a linear head for each context, whose weights are its z: Z = K (width + 1)."""

    def __init__(self, x_size: int, out_size: int, *, width: int, hidden_layers: int) -> None:
        super().__init__()
        sizes = [x_size, *[width] * hidden_layers]
        self.z_size, self.z_scale = out_size * (width + 1), math.sqrt(width)
        self.width, self.out_size = width, out_size
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(sizes))
        for layer in self.layers:
            keep_variance(cast(nn.Linear, layer), RELU_GAIN)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [U, N, X], z [U, Z] -> [U, N, K]."""
        for layer in self.layers:
            x = layer(x).relu()
        heads = z.unflatten(-1, (self.width + 1, self.out_size))
        result: Tensor = x @ heads[:, :-1] + heads[:, -1:]
        return result


Perceptron = FusedPerceptron | MultiHeadPerceptron


def perceptron(
    name: str, x_size: int, z_size: int, out_size: int, *, width: int, hidden_layers: int, rank: int
) -> Perceptron:
    """The network with a name of PERCEPTRONS. `rank` is for low_rank; MULTI_HEAD determines its Z itself."""
    if name == MULTI_HEAD:
        return MultiHeadPerceptron(x_size, out_size, width=width, hidden_layers=hidden_layers)
    return FusedPerceptron(name, x_size, z_size, out_size, width=width, hidden_layers=hidden_layers, rank=rank)


def for_each_context(fusion: Fusion, x: Tensor, z: Tensor) -> Tensor:
    """A fusion with N samples of each context: `condition` once for each context, `modulate` on its samples, x [U, N, X] -> [U, N, K]."""
    one_segment = identity_segments(1)

    def modulate(samples: Tensor, *modulation: Tensor) -> Tensor:
        result: Tensor = fusion.modulate(samples, tuple(part.unsqueeze(0) for part in modulation), one_segment)
        return result

    return torch.vmap(modulate)(x, *fusion.condition(z, x.shape[0] * x.shape[1]))


def matched_width(make: Callable[[int], nn.Module], parameters: int) -> int:
    """The width whose network make(width) has the nearest number of parameters."""
    widths = range(1, _MOST_WIDTH)
    above = min(bisect.bisect_left(widths, parameters, key=lambda width: num_parameters(make, width)), len(widths) - 1)
    return min(
        widths[max(above - 1, 0)], widths[above], key=lambda width: abs(num_parameters(make, width) - parameters)
    )


def num_parameters(make: Callable[[int], nn.Module], size: int) -> int:
    """The number of parameters of make(size), without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make(size).parameters())
