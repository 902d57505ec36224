"""The context of each sample, and the product of samples with the weights of their context."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.device_transfer import send
from agents.fusion.padding import bucket_size

# Most places of the padded grid per sample. Beyond it, a context with many samples gets several rows.
_MOST_PLACES = 3
# Samples per context below which the grid costs more than a weight matrix for every sample.
_FEW_SAMPLES = 2
# Most numbers that a device may copy to give every sample its own weight matrix.
_MOST_GATHERED = 2**27


class Grid(NamedTuple):
    """Samples sorted by context into R rows of equal width, so that one batched product serves all contexts. Rows may be empty.

    Attributes:
        owner: int64 [R], the context of each row. None: row u belongs to context u.
        width: Places in a row.
        place: int64 [N], the place of each sample, row * width + rank. Places are distinct.
        sample: int64 [R * width], the sample at each place. N marks an empty place.
    """

    owner: Tensor | None
    width: int
    place: Tensor
    sample: Tensor

    @property
    def rows(self) -> int:
        """R."""
        return len(self.sample) // self.width


class Segments:
    """The map from N samples to U distinct contexts.

    Args:
        index: int64 [N], the context of each sample, on the device of the samples.
        host: The same map in host memory, if `index` is on another device. `grid` is then computed on the host. Without it, `grid` has
            to synchronize with the device.
    """

    def __init__(self, index: Tensor, count: int, host: Segments | None = None) -> None:
        self.index = index
        self.count = count
        self._host = host
        self._repeated: dict[int, Segments] = {}

    def on(self, index: Tensor) -> Segments:
        """The same map on a device. `index` is a copy of this index there."""
        return Segments(index, self.count, host=self)

    def repeated(self, times: int) -> Segments:
        """The map for N x times samples, where each sample is repeated `times` times in a row: the patches of a feature map.

        Cached: contexts hardly change between acting steps, and sorting the patches is expensive for one step.
        """
        if times not in self._repeated:
            host = self._host.repeated(times) if self._host else None
            self._repeated[times] = Segments(self.index.repeat_interleave(times), self.count, host)
        return self._repeated[times]

    def rows(self, modulation: Tensor) -> Tensor:
        """The row of `modulation` [U, ...] of each sample: [N, ...], or [1, ...] to broadcast if U is 1."""
        return modulation if self.count == 1 else modulation.index_select(0, self.index)

    @cached_property
    def grid(self) -> Grid:
        """The samples sorted by context, with at most `_MOST_PLACES` places per sample besides one row per context."""
        # In NumPy, whose calls on small arrays cost less than torch's.
        index = (self._host or self).index.cpu().numpy()
        sizes = np.bincount(index, minlength=self.count)
        order = np.argsort(index, kind="stable")
        rank = np.empty_like(index)
        rank[order] = np.arange(len(index)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        width, rows = bucket_size(int(sizes.max())), self.count
        parts = {}
        if rows * width > _MOST_PLACES * max(len(index), rows):
            width = bucket_size(2 * -(-len(index) // rows))
            rows_of = -(-sizes // width)
            index = (np.cumsum(rows_of) - rows_of)[index]
            owner = np.repeat(np.arange(len(sizes)), rows_of)
            rows = bucket_size(len(owner))
            parts["owner"] = torch.from_numpy(np.pad(owner, (0, rows - len(owner))))
        place = index * width + rank
        sample = np.full(rows * width, len(place))
        sample[place] = np.arange(len(place))
        parts |= {"place": torch.from_numpy(place), "sample": torch.from_numpy(sample)}
        parts = send(parts, self.index.device)
        return Grid(parts.get("owner"), width, parts["place"], parts["sample"])


def identity_segments(count: int, device: torch.device | None = None) -> Segments:
    """The map of `count` samples with one context each."""
    return Segments(torch.arange(count, device=device), count)


def grouped_linear(x: Tensor, weight: Tensor, segments: Segments) -> Tensor:
    """y_n = weight[u] x_n, where u is the context of sample n: x [N, X], weight [U, K, X] -> [N, K].

    Samples are sorted by context, so one batched product reads each weight matrix once. A loop over contexts takes four to ten times
    as long. Under autocast the product runs in the autocast dtype.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    if segments.count == 1:
        return F.linear(x, weight[0])
    gathers = device != "cpu" or len(x) < _FEW_SAMPLES * segments.count
    if gathers and not torch.is_grad_enabled() and len(x) * weight[0].numel() <= _MOST_GATHERED:
        # Acting. On a device no shape may depend on data, so that the step can be captured in a CUDA graph (agents/acting/cuda_graphs.py).
        # On CPU the grid pays only where several slots share a context; it also multiplies by contexts that no slot has at present.
        return torch.bmm(weight.index_select(0, segments.index), x.unsqueeze(2)).squeeze(2)
    grid = segments.grid
    if grid.owner is not None:
        weight = weight.index_select(0, grid.owner)
    return _GroupedLinear.apply(x, weight, grid)  # type: ignore[no-any-return, no-untyped-call]


class _GroupedLinear(torch.autograd.Function):
    """The product on the grid. A place holds at most one sample, so the backward pass gathers where autograd would add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
        padded = _spread(x, grid)
        ctx.save_for_backward(padded, weight)
        ctx.grid = grid
        return torch.bmm(padded, weight.transpose(1, 2)).flatten(0, 1).index_select(0, grid.place)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        padded, weight = ctx.saved_tensors
        grad = _spread(grad, ctx.grid)
        grad_x = torch.bmm(grad, weight).flatten(0, 1).index_select(0, ctx.grid.place)
        return grad_x, torch.bmm(grad.transpose(1, 2), padded), None


def _spread(x: Tensor, grid: Grid) -> Tensor:
    """Samples [N, F] at their places [R, width, F], with zeros at empty places."""
    filled = torch.cat([x, x.new_zeros(1, x.shape[1])])
    return filled.index_select(0, grid.sample).view(grid.rows, grid.width, -1)
