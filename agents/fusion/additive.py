"""The additive form: what concatenation followed by a linear layer really is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import Fusion, Modulation, bias, weight
from agents.fusion.segments import Segments


class Concat(Fusion):
    """y = V x + (U z + b), exactly Linear([x; z]): the context can only shift the output.

    Jayakumar et al. (2020), section 2: the special case W = 0 of the multiplicative interaction. K(X + Z) + K parameters.
    """

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.V = weight(out_size, x_size, fan_in=x_size + z_size)
        self.U = weight(out_size, z_size, fan_in=x_size + z_size)
        self.b = bias(out_size)

    def condition(self, z: Tensor) -> Modulation:
        """z [U, Z] -> the shift U z + b, [U, K]."""
        return (F.linear(z, self.U, self.b),)

    def apply(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:  # type: ignore[override]
        """x [N, X] -> V x + shift, [N, K]."""
        (shift,) = modulation
        if segments.count == 1:
            return torch.addmm(shift, x, self.V.t())
        return F.linear(x, self.V) + segments.rows(shift)
