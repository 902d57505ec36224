"""Torsos: observation -> features, one row per sample. `fuse` is applied to the feature map, which has the shape `map_shape` (C, H, W)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.fusion.padding import bucket_size
from agents.network.distinct import distinct_rows
from agents.network.initialization import RELU_GAIN, keep_variance
from envs.spec import EnvSpec
from system.errors import InputError, unknown_name

Observation = Mapping[str, Tensor]
Fuse = Callable[[Tensor], Tensor]
"""The fusion on the feature map, applied before it is flattened: [N, C, H, W] -> the same shape."""

# One-hot codes have a mean square below 1. With a gain of 1 the features of some seeds differ by less than 0.1. With 2.6, which gives a
# mean square of 1, DoorKey-5x5 takes 1.3 times the frames to a success of 0.9 (4 seeds).
_ONE_HOT_GAIN = 1.5
# Pixels in [0, 1] have a mean square of about 1/4. The first layer brings it to 1.
_PIXEL_GAIN = 2.0
# Gain of the second convolution of a residual block. Six blocks then add a third to the mean square; with a gain of 1 they multiply it by
# 60.
_RESIDUAL_GAIN = 0.3


class GridTorso(nn.Module):
    """Symbolic grid, where each cell is a few integer codes. It has three 2x2 convolutions and a linear layer, ReLU after each.

    image uint8 [N, H, W, C] (and vector float [N, V]) -> [N, size].

    The first convolution reads one-hot codes. This is the same function as an embedding of each code, summed over the code channels
    and convolved, but without a table to scatter gradients into.

    Two of three images in a learner's batch are copies (measured on the default suite). So with gradients on the CPU each distinct
    image is convolved once. There is no pooling: the max-pooling of many MiniGrid agents takes less time and learned more slowly
    (docs/performance.md).

    Args:
        shape: (H, W, C) of `image`, C code channels.
        symbol_counts: Number of codes of each channel.
        vector_size: Features of `vector`, appended before the linear layer. 0: no vector.
        size: Output features.
    """

    one_hot: Tensor

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
        # One row per combination of codes: the one-hot codes of all channels side by side.
        cells = np.indices(symbol_counts).reshape(len(symbol_counts), -1)
        rows = [np.eye(count, dtype=np.float32)[codes] for count, codes in zip(symbol_counts, cells, strict=True)]
        self.register_buffer("one_hot", torch.from_numpy(np.concatenate(rows, axis=1)), persistent=False)
        self.symbol_counts = tuple(symbol_counts)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 2) for a, b in pairwise([sum(symbol_counts), *channels]))
        self.map_shape = channels[-1], height - len(channels), width - len(channels)
        self.linear = nn.Linear(math.prod(self.map_shape) + vector_size, size)
        self.size = size
        for number, layer in enumerate((*self.convolutions, self.linear)):
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            keep_variance(layer, RELU_GAIN * (1.0 if number else _ONE_HOT_GAIN))

    def forward(self, observation: Observation, fuse: Fuse | None = None) -> Tensor:
        image, sample = observation["image"], None
        # Not while acting: slots rarely see the same image at the same step (160 of 192 images are distinct).
        if image.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            image, sample = _distinct(image)
        x = self._convolve(self._cells(image))
        if sample is None or (fuse is None and "vector" not in observation):
            y = _features(self.linear, x, observation, fuse)
            return y if sample is None else y.index_select(0, sample)
        # The fusion and the vector differ between samples with equal images.
        return _features(self.linear, x.index_select(0, sample), observation, fuse)

    def _cells(self, image: Tensor) -> Tensor:
        """The row of `one_hot` for each cell: int32 [N, H, W]."""
        cell = image[..., 0].int()
        for channel, count in enumerate(self.symbol_counts[1:], start=1):
            cell.mul_(count).add_(image[..., channel])
        return cell

    def _convolve(self, cell: Tensor) -> Tensor:
        table = self.one_hot.to(_compute_dtype(self.linear.weight))
        x = table.index_select(0, cell.flatten()).view(*cell.shape, -1).permute(0, 3, 1, 2)
        for convolution in self.convolutions:
            assert isinstance(convolution, nn.Conv2d)
            if x.shape[2:] == convolution.weight.shape[2:]:
                # One output position: as a linear layer its gradient costs a fifth of the convolution's.
                x = F.linear(x.flatten(1), convolution.weight.flatten(1), convolution.bias)[:, :, None, None]
            else:
                x = convolution(x)
            x = x.relu_()
        return x


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
        self.map_shape = 32, h, w
        self.linear = nn.Linear(math.prod(self.map_shape) + vector_size, size)
        self.size = size
        keep_variance(self.conv1, _PIXEL_GAIN * RELU_GAIN)
        keep_variance(self.conv2, RELU_GAIN)
        keep_variance(self.linear, RELU_GAIN)

    def forward(self, observation: Observation, fuse: Fuse | None = None) -> Tensor:
        x = self.conv2(_convolve_pixels(self.conv1, observation["image"]).relu_()).relu_()
        return _features(self.linear, x, observation, fuse)


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        keep_variance(self.conv1, RELU_GAIN)
        keep_variance(self.conv2, _RESIDUAL_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(F.relu(x)).relu_())  # type: ignore[no-any-return]


class DeepTorso(nn.Module):
    """IMPALA's deep residual net (Espeholt et al. 2018, figure 3 right): 15 convolutions in three stages of 16, 32, 32 channels.

    Each stage: conv 3x3, max-pool 3x3/2 with "same" padding, two residual blocks. image uint8 [N, H, W, C] -> [N, size].

    With `pools` the linear layer reads the mean of the last feature map over its positions (Impoola, Trumpp et al. 2025, at the width of
    IMPALA's net) instead of all of it. It then has 32 inputs for images of any size.
    """

    def __init__(self, shape: Sequence[int], vector_size: int, *, size: int = 256, pools: bool = False) -> None:
        super().__init__()
        height, width, channels = shape
        self.first = nn.Conv2d(channels, 16, 3, padding=1)
        keep_variance(self.first, _PIXEL_GAIN)
        stages: list[nn.Module] = []
        for out in (16, 32, 32):
            if stages:
                between = nn.Conv2d(channels, out, 3, padding=1)
                keep_variance(between)
                stages.append(between)
            stages += [nn.MaxPool2d(3, stride=2, padding=1), _Residual(out), _Residual(out)]
            channels, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.stages = nn.Sequential(*stages)
        self.map_shape, self.pools = (channels, height, width), pools
        self.linear = nn.Linear((channels if pools else math.prod(self.map_shape)) + vector_size, size)
        keep_variance(self.linear, RELU_GAIN)
        self.size = size

    def forward(self, observation: Observation, fuse: Fuse | None = None) -> Tensor:
        x = self.stages(_convolve_pixels(self.first, observation["image"])).relu_()
        return _features(self.linear, x, observation, fuse, pools=self.pools)


class MLPTorso(nn.Module):
    """Linear layers with ReLU on `vector`: vector [N, V] -> [N, sizes[-1]]. Without sizes it returns the vector unchanged."""

    def __init__(self, vector_size: int, *, sizes: Sequence[int] = (256,)) -> None:
        super().__init__()
        self.map_shape = None
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([vector_size, *sizes]))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            keep_variance(layer, RELU_GAIN)
        self.size = sizes[-1] if sizes else vector_size

    def forward(self, observation: Observation, fuse: Fuse | None = None) -> Tensor:
        x = observation["vector"]
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            x = layer(x.to(_compute_dtype(layer.weight))).relu_()
        return x


TORSOS = ("auto", "grid", "shallow", "deep", "impoola", "mlp")
OWN_TORSOS: dict[str, Callable[[EnvSpec, int], nn.Module]] = {}
"""Torsos of plugins, by name: functions of the environments and `torso.size` (agents/setup/plugins.py)."""


def build_torso(name: str, env: EnvSpec, *, size: int = 256, hidden: Sequence[int] = (256,)) -> nn.Module:
    """The torso called `name` for the observations of `env`; InputError if it does not fit them.

    `auto` takes the first that fits, which is `deep` for pixels below 20x20.
    """
    if name in OWN_TORSOS:
        return OWN_TORSOS[name](env, size)
    if name not in TORSOS:
        raise unknown_name("torso", name, TORSOS)
    smallest = {"grid": 4, "shallow": 20, "deep": 1, "impoola": 1, "mlp": 0}
    side = min(env.observation["image"].shape[:2]) if "image" in env.observation else 0
    fitting = {"symbolic": ("grid",), "pixels": ("shallow", "deep", "impoola"), "none": ("mlp",)}[env.image_kind]
    if name == "auto":
        name = next((one for one in fitting if side >= smallest[one]), fitting[0])
    if name not in fitting:
        raise InputError(
            f"torso={name} does not fit the observations of env={env.suite} ({env.image_kind} image): use {' or '.join(fitting)}."
        )
    vector_size = env.observation["vector"].shape[0] if "vector" in env.observation else 0
    if name == "mlp":
        return MLPTorso(vector_size, sizes=tuple(hidden))
    shape = env.observation["image"].shape
    if side < smallest[name]:
        able = [one for one in fitting if side >= smallest[one]]
        hint = f"use torso={able[0]}" if able else "make them larger with a wrapper in env.wrappers"
        least = f"{smallest[name]}x{smallest[name]}"
        raise InputError(f"torso={name} needs images of at least {least} and env={env.suite} has {shape}: {hint}.")
    if name == "grid":
        return GridTorso(shape, env.symbol_counts, vector_size, size=size)
    if name == "shallow":
        return ShallowTorso(shape, vector_size, size=size)
    return DeepTorso(shape, vector_size, size=size, pools=name == "impoola")


def _distinct(image: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct images, padded to a bucket size with copies of the first, and the index of each sample among them.

    image [N, H, W, C] -> [U, H, W, C], int64 [N].
    """
    distinct, sample = distinct_rows(image.numpy())
    padding = np.broadcast_to(distinct[:1], (bucket_size(len(distinct)) - len(distinct), *distinct.shape[1:]))
    return torch.from_numpy(np.concatenate([distinct, padding])), torch.from_numpy(sample)


def _convolve_pixels(convolution: nn.Conv2d, image: Tensor) -> Tensor:
    """The first layer on image uint8 [N, H, W, C], scaled to [0, 1].

    The factor 1/255 is applied to the weights, which are fewer; bf16 represents the pixels exactly. The permutation gives
    channels_last memory, which convolutions prefer.
    """
    x = image.permute(0, 3, 1, 2).to(_compute_dtype(convolution.weight))
    return F.conv2d(x, convolution.weight * (1 / 255), convolution.bias, convolution.stride, convolution.padding)


def _features(
    linear: nn.Linear, x: Tensor, observation: Observation, fuse: Fuse | None, *, pools: bool = False
) -> Tensor:
    """The last layer: the map [N, C, H, W], fused, flattened or averaged over H and W, with `vector` appended -> [N, size]."""
    x = x if fuse is None else fuse(x)
    x = x.mean(dim=(2, 3)) if pools else x.flatten(1)
    if "vector" in observation:
        x = torch.cat([x, observation["vector"].to(x.dtype)], dim=1)
    return linear(x).relu_()  # type: ignore[no-any-return]


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which a layer with this weight computes: autocast's, or the weight's."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
