"""The full multiplicative interaction and two factorisations of its tensor."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import Fusion, Modulation, bias, weight
from agents.fusion.segments import Segments, grouped_linear
from agents.fusion.weight_generation import apply_generated, generate

# Shares of the initial variance: the term V x, the term z^T W x, and the term z^T U.
SHARE_X, SHARE_XZ, SHARE_Z = 0.5, 0.25, 0.25


class MultiplicativeInteraction(Fusion):
    """y = z^T W x + z^T U + V x + b.

    It is read as y = W'(z) x + b'(z) with W'(z) = z^T W + V and b'(z) = z^T U + b.

    Jayakumar et al. (2020), equation 1. KZX + KZ + KX + K parameters. W'(z) is computed once per distinct context and takes U K X
    numbers of memory. The samples of a context share one matrix product.
    """

    affine_in_z = True
    uses_context_norm = True

    def __init__(self, x_size: int, z_size: int, out_size: int, *, context_norm: float | None = None) -> None:
        super().__init__(x_size, z_size, out_size)
        self.context_norm = context_norm or math.sqrt(max(z_size, 1))
        # Stored flat, so that W'(z) is one matrix product: row j is the [K, X] matrix W_j times `context_norm`.
        self.W = weight(z_size, out_size * x_size, fan_in=z_size * x_size, share=SHARE_XZ * self.context_norm**2)
        self.U = weight(z_size, out_size, fan_in=z_size, share=SHARE_Z)
        self.V = weight(out_size, x_size, fan_in=x_size, share=SHARE_X)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> W'(z) [U, K, X] and b'(z) [U, K]. For contexts that hardly repeat, z replaces W'(z)."""
        return generate(z / self.context_norm, self.W, self.V, self.x_size, samples), torch.addmm(self.b, z, self.U)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        generated, shift = modulation
        return apply_generated(x, generated, self.W, self.V, segments) + segments.rows(shift)


class LowRank(Fusion):
    """y = C((A x) * (B z)) + V x + z^T U + b. The interaction tensor W is a sum of `rank` outer products (CP form).

    The layer has r(X + Z + K) + KX + KZ + K parameters for rank r.
    """

    affine_in_z = True

    def __init__(self, x_size: int, z_size: int, out_size: int, *, rank: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.A = weight(rank, x_size, fan_in=x_size)
        self.B = weight(rank, z_size, fan_in=z_size)
        self.C = weight(out_size, rank, fan_in=rank, share=SHARE_XZ)
        self.U = weight(z_size, out_size, fan_in=z_size, share=SHARE_Z)
        self.V = weight(out_size, x_size, fan_in=x_size, share=SHARE_X)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> B z [U, rank] and z^T U + b [U, K]."""
        return F.linear(z, self.B), torch.addmm(self.b, z, self.U)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        factor, shift = modulation
        mixed = F.linear(F.linear(x, self.A) * segments.rows(factor), self.C)
        return mixed + F.linear(x, self.V) + segments.rows(shift)


class Tucker(Fusion):
    """y = C (B z)^T G (A x) + V x + z^T U + b: a full interaction of small copies of x and z, the Tucker form of W.

    A and B reduce x and z to `rank` features, G is the full core tensor between them, and C maps `rank` features to K. This is the
    bottleneck hypernetwork without a nonlinearity. r(X + Z + K) + r^3 + KX + KZ + K parameters for rank r.
    """

    affine_in_z = True

    def __init__(self, x_size: int, z_size: int, out_size: int, *, rank: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.rank = rank
        self.A = weight(rank, x_size, fan_in=x_size)
        self.B = weight(rank, z_size, fan_in=z_size)
        # Stored flat like W of the full form, and times the context_norm of B z, sqrt(rank).
        self.G = weight(rank, rank * rank, fan_in=rank * rank, share=rank)
        self.C = weight(out_size, rank, fan_in=rank, share=SHARE_XZ)
        self.U = weight(z_size, out_size, fan_in=z_size, share=SHARE_Z)
        self.V = weight(out_size, x_size, fan_in=x_size, share=SHARE_X)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the core matrix (B z)^T G [U, rank, rank] and z^T U + b [U, K]."""
        core = torch.mm(F.linear(z, self.B) / math.sqrt(self.rank), self.G).view(-1, self.rank, self.rank)
        return core, torch.addmm(self.b, z, self.U)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        core, shift = modulation
        mixed = F.linear(grouped_linear(F.linear(x, self.A), core, segments), self.C)
        return mixed + F.linear(x, self.V) + segments.rows(shift)
