"""From an observation to features, one row per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from envs.errors import InputError, unknown_name
from envs.spec import EnvSpec

Observation = Mapping[str, Tensor]


class GridTorso(nn.Module):
    """Symbolic grid: every cell is a few integer codes; three 2x2 convolutions and a linear layer, ReLU after each.

    The first convolution reads the codes one-hot, which is the same function as an embedding of each code, summed over the code
    channels and then convolved - without a table to look up and to scatter gradients into.

    Args:
        shape: (H, W, C) of `image`, C code channels.
        symbol_counts: number of codes of each channel.
        vector_size: features of `vector`, appended before the linear layer; 0 when there is none.
        size: output features.

    image uint8 [N, H, W, C] (and vector float [N, V]) -> [N, size].
    """

    offsets: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        symbol_counts: Sequence[int],
        vector_size: int,
        *,
        size: int = 256,
        channels: Sequence[int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        height, width, _ = shape
        self.num_codes = sum(symbol_counts)
        self.register_buffer("offsets", torch.tensor(np.cumsum([0, *symbol_counts[:-1]])), persistent=False)
        sizes = [self.num_codes, *channels]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 2) for a, b in pairwise(sizes))
        flat = channels[-1] * (height - len(channels)) * (width - len(channels))
        self.linear = nn.Linear(flat + vector_size, size)
        self.size = size

    def forward(self, observation: Observation) -> Tensor:
        """One row of features per sample."""
        codes = observation["image"].long() + self.offsets
        one_hot = torch.zeros(*codes.shape[:-1], self.num_codes, device=codes.device).scatter_(-1, codes, 1.0)
        x = one_hot.permute(0, 3, 1, 2)
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return F.relu(self.linear(_with_vector(x.flatten(1), observation)))


class ShallowTorso(nn.Module):
    """IMPALA's shallow net (Espeholt et al. 2018, figure 3 left): conv 8x8/4 16, conv 4x4/2 32, linear 256, ReLU after each.

    image uint8 [N, H, W, C] -> [N, size].
    """

    def __init__(self, shape: Sequence[int], vector_size: int, *, size: int = 256) -> None:
        super().__init__()
        height, width, channels = shape
        self.conv1 = nn.Conv2d(channels, 16, 8, stride=4)
        self.conv2 = nn.Conv2d(16, 32, 4, stride=2)
        h, w = (((side - 8) // 4 + 1) for side in (height, width))
        h, w = ((side - 4) // 2 + 1 for side in (h, w))
        self.linear = nn.Linear(32 * h * w + vector_size, size)
        self.size = size

    def forward(self, observation: Observation) -> Tensor:
        """One row of features per sample."""
        x = F.relu(self.conv2(F.relu(self.conv1(_pixels(observation["image"])))))
        return F.relu(self.linear(_with_vector(x.flatten(1), observation)))


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))  # type: ignore[no-any-return]


class DeepTorso(nn.Module):
    """IMPALA's deep residual net (Espeholt et al. 2018, figure 3 right): 15 convolutions in three stages of 16, 32, 32 channels.

    Each stage: conv 3x3, max-pool 3x3/2 with "same" padding, two residual blocks. image uint8 [N, H, W, C] -> [N, size].
    """

    def __init__(self, shape: Sequence[int], vector_size: int, *, size: int = 256) -> None:
        super().__init__()
        height, width, channels = shape
        stages: list[nn.Module] = []
        for out in (16, 32, 32):
            conv, pool = nn.Conv2d(channels, out, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)
            stages += [conv, pool, _Residual(out), _Residual(out)]
            channels, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(channels * height * width + vector_size, size)
        self.size = size

    def forward(self, observation: Observation) -> Tensor:
        """One row of features per sample."""
        x = F.relu(self.stages(_pixels(observation["image"])))
        return F.relu(self.linear(_with_vector(x.flatten(1), observation)))


class MLPTorso(nn.Module):
    """Linear layers with ReLU over `vector`; without hidden sizes it passes the vector through. vector [N, V] -> [N, sizes[-1]]."""

    def __init__(self, vector_size: int, *, sizes: Sequence[int] = (256,)) -> None:
        super().__init__()
        widths = [vector_size, *sizes]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.size = sizes[-1] if sizes else vector_size

    def forward(self, observation: Observation) -> Tensor:
        """One row of features per sample."""
        x = observation["vector"]
        for layer in self.layers:
            x = F.relu(layer(x))
        return x


TORSOS = ("auto", "grid", "shallow", "deep", "mlp")


def build_torso(name: str, env: EnvSpec, *, size: int = 256, hidden: Sequence[int] = (256,)) -> nn.Module:
    """The torso of that name for the observations of `env`; `auto` takes the one that fits.

    Raises:
        InputError: the name is unknown or does not fit the observations.
    """
    if name not in TORSOS:
        raise unknown_name("torso", name, TORSOS)
    fitting = {"symbolic": ("grid",), "pixels": ("shallow", "deep"), "none": ("mlp",)}[env.image_kind]
    if name == "auto":
        name = fitting[0]
    if name not in fitting:
        raise InputError(
            f"torso={name} does not fit the observations of env={env.suite} ({env.image_kind} image): use {' or '.join(fitting)}."
        )
    vector_size = env.observation["vector"].shape[0] if "vector" in env.observation else 0
    if name == "mlp":
        return MLPTorso(vector_size, sizes=tuple(hidden))
    shape = env.observation["image"].shape
    smallest = {"grid": 4, "shallow": 20, "deep": 1}[name]
    if min(shape[:2]) < smallest:
        raise InputError(
            f"torso={name} needs images of at least {smallest}x{smallest} and env={env.suite} has {shape}."
        )
    if name == "grid":
        return GridTorso(shape, env.symbol_counts, vector_size, size=size)
    return {"shallow": ShallowTorso, "deep": DeepTorso}[name](shape, vector_size, size=size)


def _pixels(image: Tensor) -> Tensor:
    """uint8 [N, H, W, C] -> float [N, C, H, W] in [0, 1]. The permutation leaves channels last in memory, as convolutions like it."""
    return image.permute(0, 3, 1, 2).float() * (1 / 255)


def _with_vector(features: Tensor, observation: Observation) -> Tensor:
    return torch.cat([features, observation["vector"]], dim=1) if "vector" in observation else features
