"""Multilayer perceptrons that are told a context: the fusions of agents.fusion at every layer, and a head for each context to compare with.

Shapes: U contexts with N samples each. x [U, N, X], z [U, Z] -> [U, N, K].
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from agents.fusion import FUSIONS, Fusion, identity_segments
from agents.network.initialization import RELU_GAIN, keep_variance

MULTI_HEAD = "multi_head"
PERCEPTRONS = ("concat", "sum", "scale_shift", "film", "gated", "diagonal", "low_rank", "mi", MULTI_HEAD)
"""Names of fusions, and MULTI_HEAD."""

_MOST_WIDTH = 1 << 12


class FusedPerceptron(nn.Module):
    """ReLU layers, each of them a fusion of the layer before with z. With `concat` it is the usual network on [x; z], except that it hears
    z at every layer and not at the first alone.
    """

    def __init__(
        self, fusion: str, x_size: int, z_size: int, out_size: int, *, width: int, hidden_layers: int, rank: int
    ) -> None:
        super().__init__()
        sizes = [x_size, *[width] * hidden_layers, out_size]
        options: dict[str, Any] = {"rank": rank} if fusion == "low_rank" else {}
        self.z_size = z_size
        self.layers = nn.ModuleList(
            FUSIONS[fusion](before, z_size, after, **options) for before, after in itertools.pairwise(sizes)
        )

    def initial_contexts(self, number: int) -> Tensor:
        """Random z [number, Z] to begin to learn from."""
        return torch.randn(number, self.z_size)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x [U, N, X], z [U, Z] -> [U, N, K]."""
        for number, layer in enumerate(self.layers):
            # A fusion is built for inputs of variance 1.
            x = for_each_context(cast(Fusion, layer), RELU_GAIN * x.relu() if number else x, z)
        return x


class MultiHeadPerceptron(nn.Module):
    """ReLU layers that all contexts share, and for each of them a linear head of its own, whose weights are its z: Z = K (width + 1)."""

    def __init__(self, x_size: int, out_size: int, *, width: int, hidden_layers: int) -> None:
        super().__init__()
        sizes = [x_size, *[width] * hidden_layers]
        self.z_size = out_size * (width + 1)
        self.width, self.out_size = width, out_size
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(sizes))
        for layer in self.layers:
            keep_variance(cast(nn.Linear, layer), RELU_GAIN)

    def initial_contexts(self, number: int) -> Tensor:
        """Random heads z [number, Z] to begin to learn from."""
        return torch.randn(number, self.z_size) / math.sqrt(self.width)

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
    """The network of one of PERCEPTRONS. `rank` is that of low_rank; MULTI_HEAD has a Z of its own."""
    if name == MULTI_HEAD:
        return MultiHeadPerceptron(x_size, out_size, width=width, hidden_layers=hidden_layers)
    return FusedPerceptron(name, x_size, z_size, out_size, width=width, hidden_layers=hidden_layers, rank=rank)


def for_each_context(fusion: Fusion, x: Tensor, z: Tensor) -> Tensor:
    """A fusion of contexts with equally many samples: `condition` once for each, and `modulate` on its samples, x [U, N, X] -> [U, N,
    K]."""
    alone = identity_segments(1)

    def apply(own: Tensor, *modulation: Tensor) -> Tensor:
        result: Tensor = fusion.modulate(own, tuple(part.unsqueeze(0) for part in modulation), alone)
        return result

    return torch.vmap(apply)(x, *fusion.condition(z, x.shape[0] * x.shape[1]))


def matched_width(make: Callable[[int], nn.Module], parameters: int) -> int:
    """The width at which make(width) has most nearly so many parameters."""
    widths = range(1, _MOST_WIDTH)
    above = min(bisect.bisect_left(widths, parameters, key=lambda width: num_parameters(make, width)), len(widths) - 1)
    return min(
        widths[max(above - 1, 0)], widths[above], key=lambda width: abs(num_parameters(make, width) - parameters)
    )


def num_parameters(make: Callable[[int], nn.Module], size: int) -> int:
    """Of make(size), without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make(size).parameters())
