"""Which context each sample belongs to, and the product of samples with the weights of their context."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

# Mean number of samples per context below which the loop over contexts costs more than copying the matrices.
_SMALL_GROUP = 4


class Segments:
    """The map from N samples to U distinct contexts.

    Args:
        index: int64 [N], the row of the context of each sample, on the device of the samples.
        count: the number of contexts U.
    """

    def __init__(self, index: Tensor, count: int) -> None:
        self.index = index
        self.count = count

    @cached_property
    def order(self) -> Tensor:
        """int64 [N]: the samples sorted by context."""
        return torch.argsort(self.index, stable=True)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of samples of each context, U integers."""
        return torch.bincount(self.index, minlength=self.count).tolist()

    def rows(self, modulation: Tensor) -> Tensor:
        """One row of `modulation` [U, ...] for every sample: [N, ...] (or [1, ...], to broadcast, when U is 1)."""
        return modulation if self.count == 1 else modulation.index_select(0, self.index)


def identity_segments(count: int, device: torch.device | None = None) -> Segments:
    """Every sample has a context of its own."""
    return Segments(torch.arange(count, device=device), count)


def grouped_linear(x: Tensor, weight: Tensor, segments: Segments) -> Tensor:
    """y_n = weight[segment of n] x_n.

    Shapes: x [N, X], weight [U, K, X] -> [N, K]. Samples are grouped by context and each group is one matrix product, so every
    weight matrix is read once however many samples share it. Under autocast the product runs in the autocast dtype.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    if segments.count == 1:
        return F.linear(x, weight[0])
    if segments.count == x.shape[0] or (not torch.is_grad_enabled() and len(x) < _SMALL_GROUP * segments.count):
        # Groups of one or two samples, as when acting: one call with a matrix for every sample beats a loop over them.
        return torch.bmm(weight.index_select(0, segments.index), x.unsqueeze(2)).squeeze(2)
    y = _GroupedProduct.apply(x.index_select(0, segments.order), weight, segments.sizes)  # type: ignore[no-untyped-call]
    # index_select is scattered back by a second gather: cheaper than index_add and deterministic.
    return y.index_select(0, torch.argsort(segments.order))  # type: ignore[no-any-return]


class _GroupedProduct(torch.autograd.Function):
    """The loop over groups with its gradient by hand: autograd's own would keep four graph nodes for every group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sizes = sizes
        y = x.new_empty(x.shape[0], weight.shape[1])
        for group, w, out in zip(x.split(sizes), weight, y.split(sizes), strict=True):
            if len(group):
                torch.mm(group, w.t(), out=out)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        for u, (group, g, gx) in enumerate(
            zip(x.split(ctx.sizes), grad.split(ctx.sizes), grad_x.split(ctx.sizes), strict=True)
        ):
            if len(group):
                torch.mm(g, weight[u], out=gx)
                torch.mm(g.t(), group, out=grad_weight[u])
            else:
                grad_weight[u].zero_()
        return grad_x, grad_weight, None
