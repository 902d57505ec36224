"""Weights that are made for each context, and their product with its samples: what `mi`, `hypernetwork` and `mixture` share.

A context with features h has the weights W'(h) = V + sum_j h_j W_j. Where a context has many samples, W'(h) is made once and every
sample pays for one matrix product, as with a linear layer. Where contexts hardly repeat, writing K X numbers for each of them costs more
than the products they are for, and sum_j h_j (W_j x) is computed from the samples' side instead.

**Reach.** An optimiser that gives every number a step of about the same size, as Adam does, moves W'(h) by a sum of such steps, one
for each feature of h, where it moves V by one. So W is stored `context_norm` times as large and h is divided by `context_norm`, the
length |h| to be
expected. The function and where it starts are the same; what changes is the pace at which W learns beside V (docs/fusion.md).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.segments import Segments, grouped_linear

# With fewer samples for each context than this the weights are not made. At 2.1 making them still is the cheaper way: 488 us for
# a sample and its gradients against 788 (docs/performance.md, (1, 64), occurring).
FEW_SAMPLES = 2


def generate(h: Tensor, tensor: Tensor, base: Tensor | None, x_size: int, samples: int | None) -> Tensor:
    """W'(h) of each context, or h itself where it would be used too rarely.

    Args:
        h: features of the contexts, divided by the context_norm that W is stored with, [U, H].
        tensor: W, flat: [H, K X], row j the [K, X] matrix that h_j switches on.
        base: V [K, X], or None for none.
        x_size: X.
        samples: that the result will be applied to; None: not known, perhaps many.

    Returns:
        [U, K, X], or [U, H]; `apply_generated` takes either.
    """
    if samples is not None and samples < FEW_SAMPLES * len(h) and h.shape[1]:
        return h
    # h is laid out by columns: the gradient of W is a product with its transpose, which then is in order.
    generated = torch.mm(h.t().contiguous().t(), tensor)
    if base is not None:
        # Not addmm, which would first write V once for every context.
        generated = generated + base.flatten().to(generated.dtype)
    return generated.view(len(h), -1, x_size)


def apply_generated(x: Tensor, generated: Tensor, tensor: Tensor, base: Tensor | None, segments: Segments) -> Tensor:
    """x [N, X] times the weights of each sample's context, as `generate` left them -> [N, K]."""
    if generated.dim() == 3:
        return grouped_linear(x, generated, segments)
    features = generated.shape[1]
    products = F.linear(x, tensor.view(-1, x.shape[1])).view(len(x), features, -1)
    weights = segments.rows(generated).expand(len(x), -1).unsqueeze(1)
    y = torch.matmul(weights.to(products.dtype), products).squeeze(1)
    return y if base is None else y + F.linear(x, base)
