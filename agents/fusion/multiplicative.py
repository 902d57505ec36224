"""The full multiplicative interaction and its low-rank factorisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import Fusion, Modulation, bias, weight
from agents.fusion.segments import Segments, grouped_linear

# How the starting variance is shared between the term in x alone and the two terms in which z takes part.
_SHARE_X, _SHARE_XZ, _SHARE_Z = 0.5, 0.25, 0.25


class MultiplicativeInteraction(Fusion):
    """y = z^T W x + z^T U + V x + b, read as y = W'(z) x + b'(z) with W'(z) = z^T W + V and b'(z) = z^T U + b.

    Jayakumar et al. (2020), equation 1. KZX + KZ + KX + K parameters. W'(z) is made once per distinct context: its U K X numbers
    are the memory price, and the samples of a context share one matrix product.
    """

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        # Stored flat, so that W'(z) is one matrix product: row j holds the [K, X] matrix that z_j switches on.
        self.W = weight(z_size, out_size * x_size, fan_in=z_size * x_size, share=_SHARE_XZ)
        self.U = weight(z_size, out_size, fan_in=z_size, share=_SHARE_Z)
        self.V = weight(out_size, x_size, fan_in=x_size, share=_SHARE_X)
        self.b = bias(out_size)

    def condition(self, z: Tensor) -> Modulation:
        """z [U, Z] -> W'(z) [U, K, X] and b'(z) [U, K]."""
        # z is laid out by columns: the gradient of W is a product with its transpose, which then is in order.
        generated = torch.mm(z.t().contiguous().t(), self.W)
        # Not addmm, which would first write V once for every context.
        generated = generated + self.V.flatten().to(generated.dtype)
        return generated.view(-1, self.out_size, self.x_size), torch.addmm(self.b, z, self.U)

    def apply(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:  # type: ignore[override]
        """x [N, X] -> W'(z) x + b'(z), [N, K]."""
        generated, shift = modulation
        return grouped_linear(x, generated, segments) + segments.rows(shift)


class LowRank(Fusion):
    """y = C((A x) * (B z)) + V x + z^T U + b: the interaction tensor W as a sum of `rank` outer products (CP form).

    r(X + Z + K) + KX + KZ + K parameters for rank r.
    """

    def __init__(self, x_size: int, z_size: int, out_size: int, *, rank: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.A = weight(rank, x_size, fan_in=x_size)
        self.B = weight(rank, z_size, fan_in=z_size)
        self.C = weight(out_size, rank, fan_in=rank, share=_SHARE_XZ)
        self.U = weight(z_size, out_size, fan_in=z_size, share=_SHARE_Z)
        self.V = weight(out_size, x_size, fan_in=x_size, share=_SHARE_X)
        self.b = bias(out_size)

    def condition(self, z: Tensor) -> Modulation:
        """z [U, Z] -> B z [U, rank] and z^T U + b [U, K]."""
        return F.linear(z, self.B), torch.addmm(self.b, z, self.U)

    def apply(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:  # type: ignore[override]
        """x [N, X] -> C((A x) * (B z)) + V x + z^T U + b, [N, K]."""
        factor, shift = modulation
        mixed = F.linear(F.linear(x, self.A) * segments.rows(factor), self.C)
        return mixed + F.linear(x, self.V) + segments.rows(shift)
