"""Weights generated per context, and their product with the samples: shared by `mi`, `hypernetwork` and `mixture`.

A context with features h has the weights W'(h) = V + sum_j h_j W_j. There are two ways to compute W'(h) x:

- Contexts repeat: W'(h) is computed once per context, and each sample costs one matrix product, as in a linear layer.
- Contexts hardly repeat: writing K X numbers per context would cost more than the products, so sum_j h_j (W_j x) is computed per sample.

**context_norm.** Adam gives every parameter a step of about the same size. W'(h) then moves by one such step per feature of h, while V
moves by one step. So W is stored times `context_norm`, the expected length |h|, and h is divided by it. The function and its initial
values are unchanged; only the learning speed of W relative to V changes (docs/fusion.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.segments import Segments, grouped_linear

# Samples per context below which W'(h) is not computed. At 2.1 samples computing it still is cheaper: 488 us for a sample and its
# gradients, against 788 (docs/performance.md, (1, 64), occurring).
FEW_SAMPLES = 2


def generate(h: Tensor, tensor: Tensor, base: Tensor | None, x_size: int, samples: int | None) -> Tensor:
    """W'(h) of each context [U, K, X], or h itself [U, H] if contexts hardly repeat. `apply_generated` takes either.

    Args:
        h: Features of the contexts, divided by `context_norm`, [U, H].
        tensor: W, flat and times `context_norm`: [H, K X], row j is W_j.
        base: V [K, X], or None.
        samples: Number of samples that the result will be applied to. None: unknown, assumed many.
    """
    if samples is not None and samples < FEW_SAMPLES * len(h) and h.shape[1]:
        return h
    device = h.device.type
    if base is not None and torch.is_grad_enabled() and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        return _Generated.apply(h, tensor, base, dtype).view(len(h), -1, x_size)  # type: ignore[no-any-return, no-untyped-call]
    # Column-major h: the gradient of W is a product with h^T, which then is contiguous.
    generated = torch.mm(h.t().contiguous().t(), tensor)
    if base is not None:
        # Not addmm, which would first copy V for every context.
        generated = generated + base.flatten().to(generated.dtype)
    return generated.view(len(h), -1, x_size)


class _Generated(torch.autograd.Function):
    """V + sum_j h_j W_j, flat, in `dtype`. V is one more row of W, whose feature is 1.

    So the products include the sum and its gradient, and W and V are cast together. For autocast only: torch.func, which the studies
    use in full precision, does not transform it.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, tensor: Tensor, base: Tensor, dtype: torch.dtype) -> Tensor:
        features = F.pad(h.to(dtype), (0, 1), value=1.0)
        weights = tensor.new_empty(len(tensor) + 1, tensor.shape[1], dtype=dtype)
        weights[:-1] = tensor
        weights[-1] = base.flatten()
        ctx.save_for_backward(features, weights)
        ctx.dtypes, ctx.base_shape = (h.dtype, tensor.dtype), base.shape
        return torch.mm(features, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        features, weights = ctx.saved_tensors
        h_dtype, dtype = ctx.dtypes
        # The code of a task is a constant.
        h_grad = torch.mm(grad, weights[:-1].t()).to(h_dtype) if ctx.needs_input_grad[0] else None
        weights_grad = torch.mm(features.t().contiguous(), grad).to(dtype)
        return h_grad, weights_grad[:-1], weights_grad[-1].view(ctx.base_shape), None


def apply_generated(x: Tensor, generated: Tensor, tensor: Tensor, base: Tensor | None, segments: Segments) -> Tensor:
    """W'(h) x [N, K] for samples x [N, X], from the result of `generate`."""
    if generated.dim() == 3:
        return grouped_linear(x, generated, segments)
    features = generated.shape[1]
    products = F.linear(x, tensor.view(-1, x.shape[1])).view(len(x), features, -1)
    weights = segments.rows(generated).expand(len(x), -1).unsqueeze(1)
    y = torch.matmul(weights.to(products.dtype), products).squeeze(1)
    return y if base is None else y + F.linear(x, base)
