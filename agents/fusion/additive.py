"""Additive forms: the context adds a vector, to the output, to x, or to a hidden layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import MEAN_SQUARE_OF_RELU, Fusion, Modulation, bias, weight
from agents.fusion.segments import Segments


class Concat(Fusion):
    """y = V x + (U z + b), exactly Linear([x; z]): the context can only shift the output.

    Jayakumar et al. (2020), section 2: the special case W = 0 of the multiplicative interaction. K(X + Z) + K parameters.
    """

    affine_in_z = True

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.V = weight(out_size, x_size, fan_in=x_size + z_size)
        self.U = weight(out_size, z_size, fan_in=x_size + z_size)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the shift U z + b, [U, K]."""
        return (F.linear(z, self.U, self.b),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        (shift,) = modulation
        if segments.count == 1:
            return torch.addmm(shift, x, self.V.t())
        return F.linear(x, self.V) + segments.rows(shift)


class Sum(Fusion):
    """y = V (x + U z) + b: the context is brought to the size of x and added to it.

    W = 0 as in `concat`, and U of the full form is V U: the context term passes through the weights of x. KX + XZ + K parameters.
    """

    affine_in_z = True

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        # x and its shift have variance 1 each.
        self.V = weight(out_size, x_size, fan_in=x_size, share=0.5 if z_size else 1.0)
        self.U = weight(x_size, z_size, fan_in=z_size)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the vector U z that is added to x, [U, X]."""
        return (F.linear(z, self.U),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        (added,) = modulation
        return F.linear(x + segments.rows(added), self.V, self.b)


class ConcatMLP(Fusion):
    """y = C relu(V x + U z + c) + b: concatenation with one hidden layer, the baseline of most papers.

    H(X + Z) + H + KH + K parameters with H hidden units. It is not linear in x, so it has no W'(z). With enough units it approximates
    the other forms; Jayakumar et al. (2020, theorem 1) bound the number of units.
    """

    linear_in_x = False

    def __init__(self, x_size: int, z_size: int, out_size: int, *, hidden: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.V = weight(hidden, x_size, fan_in=x_size + z_size)
        self.U = weight(hidden, z_size, fan_in=x_size + z_size)
        self.c = bias(hidden)
        self.C = weight(out_size, hidden, fan_in=hidden, share=1 / MEAN_SQUARE_OF_RELU)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the shift of the hidden layer, U z + c, [U, H]."""
        return (F.linear(z, self.U, self.c),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        (shift,) = modulation
        hidden = F.linear(x, self.V) + segments.rows(shift)
        return F.linear(hidden.relu(), self.C, self.b)
