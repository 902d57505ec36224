"""HL-Gauss (Farebrother et al. 2024, section 3.1) on PopArt's normalised targets: the value as a histogram, learned by cross-entropy.

The head (agents.network.heads.HistogramHead) has logits l = W f + b over B bins for each task, with centres c_i, and decodes

    n = a sum_i p_i c_i + d,   p = softmax(l),   v = sigma n + mu.

**Moments.** PopArt moves (mu, sigma) to (mu', sigma') and must keep v for every input. No change of W and b can: log p is then linear in
f, and the mean of p' is not an affine function of the mean of p for all f. But sum_i p_i = 1, so an affine change of the centres is exact:

    a' = sigma a / sigma',   d' = (sigma d + mu - mu') / sigma'

This is `agents.learning.popart.rescale_head` for the layer with the weight a and the bias d. The bins stay where they were in units of the
reward; their distance from the normalised targets grows with the change of the moments.

**Support.** So when a leaves [1 / MOST_RATIO, MOST_RATIO], or |d| exceeds MOST_SHIFT, the bins of the task return to a = 1 and d = 0
(`move_support`). Its logits are interpolated at the new bins by polynomials of degree 3 through the four nearest old ones. This is linear
in the logits, thus a change of W and b. It is exact for log-densities up to degree 3, among them the Gaussian that is learned. What remains
is the error of the mean of a Gaussian by sums over bins, and the mass outside of the new support, if there is any. The value of a learned
distribution changes by at most 0.02 sigma' (tests/agents/learning/test_hl_gauss.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEVIATION = 0.75
"""Standard deviation of the smoothed target in widths of a bin, as the paper recommends. About six bins then have mass."""

MOST_RATIO, MOST_SHIFT = 1.5, 1.0
"""Scale and shift of the bins against the normalised targets, above which they are moved."""

_MOST_DECAY = 10.0
"""Bound on how far logits fall outside of the old support, one per bin: Adam could not raise much lower ones soon."""


@torch.no_grad()
def histogram(targets: Tensor, centres: Tensor) -> Tensor:
    """The mass of a Gaussian around each target in every bin, [...] -> [..., B], which sums to 1 (equation 3.3 of the paper).

    Targets outside of the support count as its ends.

    Args:
        targets: In units of the centres, finite.
        centres: Of equal bins, [B].
    """
    width = centres[1] - centres[0]
    edges = torch.cat([centres[:1] - width / 2, centres + width / 2])
    targets = targets.clamp(edges[0], edges[-1])
    distribution = torch.erf((edges - targets.unsqueeze(-1)) / (math.sqrt(2) * DEVIATION * width))
    return distribution.diff(dim=-1) / (distribution[..., -1:] - distribution[..., :1])


@torch.no_grad()
def move_support(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, centres: Tensor) -> None:
    """Moves the bins of the tasks whose support fits badly back to scale 1 and shift 0, and interpolates their logits, all in place.

    Args:
        weight: W [K, B, F]; bias: b [K, B]; scale: a [K, 1]; shift: d [K]; centres: c [B].
    """
    is_moved = (scale.squeeze(1).log().abs() > math.log(MOST_RATIO)) | (shift.abs() > MOST_SHIFT)
    # Elsewhere than on the CPU, the answer would have to be waited for.
    if weight.device.type == "cpu" and not is_moved.any():
        return
    width, last = centres[1] - centres[0], len(centres) - 1
    # The new centres, counted in old bins.
    position = ((centres - shift.unsqueeze(1)) / scale - centres[0]) / width
    inside = position.clamp(0, last)
    first = (inside.floor() - 1).clamp(0, last - 3)
    share = lagrange_weights(inside - first)
    index = first.long().unsqueeze(2) + torch.arange(4, device=first.device)
    matrix = torch.zeros(*position.shape, last + 1, device=weight.device, dtype=weight.dtype).scatter(2, index, share)
    decay = ((position - inside).abs() * scale).clamp(max=_MOST_DECAY)
    new_bias = (matrix @ bias.unsqueeze(2)).squeeze(2) - decay
    weight.copy_(torch.where(is_moved[:, None, None], matrix @ weight, weight))
    bias.copy_(torch.where(is_moved.unsqueeze(1), new_bias, bias))
    scale.masked_fill_(is_moved.unsqueeze(1), 1.0)
    shift.masked_fill_(is_moved, 0.0)


def lagrange_weights(x: Tensor) -> Tensor:
    """Weights of the values at 0, 1, 2, 3 in the polynomial through them at x, [...] -> [..., 4]."""
    return torch.stack(
        [
            -(x - 1) * (x - 2) * (x - 3) / 6,
            x * (x - 2) * (x - 3) / 2,
            -x * (x - 1) * (x - 3) / 2,
            x * (x - 1) * (x - 2) / 6,
        ],
        dim=-1,
    )
