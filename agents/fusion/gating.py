"""Diagonal forms: the context scales each output feature, or all output features by one number."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import Fusion, Modulation, bias, weight
from agents.fusion.segments import Segments

# E[sigmoid(u)^2] for u ~ N(0, 1): dividing the share of V by it starts the gated output at variance 1.
MEAN_SQUARE_OF_GATE = 0.2934
# FiLM starts near the identity. With weights of exactly zero no gradient would reach the context.
FILM_SHARE = 0.01


class Gated(Fusion):
    """y = sigmoid(U z + c) * (V x + b): a gate between 0 and 1 on every feature.

    In Jayakumar et al. (2020) it is the diagonal form followed by a nonlinearity. K(Z + 1) + K(X + 1) parameters.
    """

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.V = weight(out_size, x_size, fan_in=x_size, share=1 / MEAN_SQUARE_OF_GATE)
        self.b = bias(out_size)
        self.U = weight(out_size, z_size, fan_in=z_size)
        self.c = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the gate, [U, K]."""
        return (torch.sigmoid(F.linear(z, self.U, self.c)),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        (gate,) = modulation
        return segments.rows(gate) * F.linear(x, self.V, self.b)


class Diagonal(Fusion):
    """y = (U z + c) * (V x + b): the gate without its sigmoid, the diagonal multiplicative interaction.

    Jayakumar et al. (2020), section 3: W_j = diag(U_j) V. K(Z + 1) + K(X + 1) parameters. The factors start around 1.
    """

    affine_in_z = True

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        # The factor c + U z has mean 1 and variance 1/2: the mean square is 3/2.
        self.V = weight(out_size, x_size, fan_in=x_size, share=2 / 3 if z_size else 1.0)
        self.b = bias(out_size)
        self.U = weight(out_size, z_size, fan_in=z_size, share=0.5)
        self.c = bias(out_size, value=1.0)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the factor U z + c, [U, K]."""
        return (F.linear(z, self.U, self.c),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        (factor,) = modulation
        return segments.rows(factor) * F.linear(x, self.V, self.b)


class FiLM(Fusion):
    """y = (1 + gamma(z)) * V x + beta(z): feature-wise linear modulation (Perez et al., 2018) in the residual form.

    Both gamma(z) = G z + g and beta(z) = U z + b are affine. With z = 0 the layer starts as the linear layer V x.
    2K(Z + 1) + KX parameters.
    """

    affine_in_z = True

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.V = weight(out_size, x_size, fan_in=x_size)
        self.G = weight(out_size, z_size, fan_in=z_size, share=FILM_SHARE)
        self.g = bias(out_size)
        self.U = weight(out_size, z_size, fan_in=z_size, share=FILM_SHARE)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> 1 + gamma [U, K] and beta [U, K]."""
        return 1 + F.linear(z, self.G, self.g), F.linear(z, self.U, self.b)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        scale, shift = modulation
        return torch.addcmul(segments.rows(shift), segments.rows(scale), F.linear(x, self.V))


class ScaleShift(FiLM):
    """y = (1 + gamma(z)) V x + beta(z) with one number gamma and one number beta for all features.

    The smallest multiplicative form: the context scales the whole layer. 2(Z + 1) + KX parameters.
    """

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.G = weight(1, z_size, fan_in=z_size, share=FILM_SHARE)
        self.g = bias(1)
        self.U = weight(1, z_size, fan_in=z_size, share=FILM_SHARE)
        self.b = bias(1)
