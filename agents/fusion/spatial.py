"""Fusions on the torso's feature map, between its last convolution and its linear layer. Input and output map have the same shape.

Further shapes: C channels, P = height x width positions. Seen as a layer on the flattened map, X = K = C P.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import Fusion, Modulation, bias, weight
from agents.fusion.gating import FILM_SHARE
from agents.fusion.multiplicative import SHARE_X, SHARE_XZ, SHARE_Z
from agents.fusion.segments import Segments, grouped_linear

# Attention starts nearly uniform: with scores of this variance a position's weight varies by a third.
_QUERY_SHARE = 0.1


class SpatialFusion(Fusion):
    """y = f(x, z) for feature maps.

    Attributes:
        channels, height, width, positions: Shape of the map, and P. x_size and out_size count the flattened map.
    """

    def __init__(self, shape: Sequence[int], z_size: int) -> None:
        super().__init__(math.prod(shape), z_size, math.prod(shape))
        self.channels, self.height, self.width = self.x_shape = tuple(shape)
        self.positions = self.height * self.width


class SpatialFiLM(SpatialFusion):
    """y_cp = (1 + gamma_c(z)) x_cp + beta_c(z): one scale and one shift for each channel of the map.

    Perez et al. (2018), in the residual form. 2C(Z + 1) parameters.
    """

    affine_in_z = True

    def __init__(self, shape: Sequence[int], z_size: int) -> None:
        super().__init__(shape, z_size)
        self.G = weight(self.channels, z_size, fan_in=z_size, share=FILM_SHARE)
        self.g = bias(self.channels)
        self.U = weight(self.channels, z_size, fan_in=z_size, share=FILM_SHARE)
        self.b = bias(self.channels)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> 1 + gamma [U, C] and beta [U, C]."""
        return 1 + F.linear(z, self.G, self.g), F.linear(z, self.U, self.b)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        scale, shift = (segments.rows(part)[:, :, None, None] for part in modulation)
        return torch.addcmul(shift, scale, x)


class GatedAttention(SpatialFusion):
    """y_cp = 2 sigmoid(U z + c)_c x_cp: a gate on every channel of the map (Chaplot et al. 2018).

    With the factor 2 it starts around the identity. C(Z + 1) parameters.
    """

    def __init__(self, shape: Sequence[int], z_size: int) -> None:
        super().__init__(shape, z_size)
        self.U = weight(self.channels, z_size, fan_in=z_size)
        self.c = bias(self.channels)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the gate [U, C]."""
        return (2 * torch.sigmoid(F.linear(z, self.U, self.c)),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        (gate,) = modulation
        return segments.rows(gate)[:, :, None, None] * x


class Attention(SpatialFusion):
    """y_p = P a_p (V x_p + b), a = softmax over positions of q . k_p / sqrt(D): the context asks where to look.

    The query q = Q z + q_0 has D = C features. With `keys="content"` the key of a position is A x_p + r_p, its content and its place.
    With `keys="position"` it is r_p alone, and the layer is linear in x. Uniform attention gives V x_p + b.
    CZ + C + CP + C^2 + C parameters, and C^2 more for A.
    """

    def __init__(self, shape: Sequence[int], z_size: int, *, keys: str = "content") -> None:
        super().__init__(shape, z_size)
        channels = self.channels
        self.linear_in_x = keys == "position"
        self.Q = weight(channels, z_size, fan_in=z_size, share=_QUERY_SHARE)
        self.q = bias(channels)
        if keys == "content":
            self.A = weight(channels, channels, fan_in=channels, share=0.5)
        self.r = weight(self.positions, channels, fan_in=1, share=0.5 if keys == "content" else 1.0)
        self.V = weight(channels, channels, fan_in=channels)
        self.b = bias(channels)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the query, divided by sqrt(D), [U, C]."""
        return (F.linear(z, self.Q, self.q) / math.sqrt(self.channels),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        query = segments.rows(modulation[0])
        x = x.flatten(2).transpose(1, 2)
        if self.linear_in_x:
            scores = F.linear(query, self.r)
        else:
            # q . (A x_p + r_p): A multiplies the one query instead of the P positions.
            scores = F.linear(query, self.r) + torch.matmul(x, (query @ self.A).unsqueeze(2)).squeeze(2)
        attention = torch.softmax(scores, dim=1) * self.positions
        y = attention.unsqueeze(2) * F.linear(x, self.V, self.b)
        return y.transpose(1, 2).reshape(-1, self.channels, self.height, self.width)


class DynamicConvolution(SpatialFusion):
    """y = kernel(z) * x + b'(z), a convolution with kernel(z) = V + z^T W: a multiplicative interaction at every position.

    Zero padding keeps the size of the map. (Z + 1) C^2 k^2 + (Z + 1) C parameters for kernels of size k x k, which is odd.
    """

    affine_in_z = True
    uses_context_norm = True

    def __init__(
        self, shape: Sequence[int], z_size: int, *, kernel: int = 3, context_norm: float | None = None
    ) -> None:
        super().__init__(shape, z_size)
        self.kernel = kernel
        self.context_norm = context_norm or math.sqrt(max(z_size, 1))
        channels, fan_in = self.channels, self.channels * kernel**2
        # Flat, so that the kernels of all contexts are one matrix product: row j is the [C, C, k, k] kernel W_j times `context_norm`.
        self.W = weight(z_size, channels * fan_in, fan_in=z_size * fan_in, share=SHARE_XZ * self.context_norm**2)
        self.U = weight(z_size, channels, fan_in=z_size, share=SHARE_Z)
        self.V = weight(channels, fan_in, fan_in=fan_in, share=SHARE_X)
        self.b = bias(channels)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> kernels [U, C, C k k] and b'(z) [U, C]."""
        kernels = torch.mm(z / self.context_norm, self.W) + self.V.flatten().to(self.dtype)
        return kernels.view(-1, *self.V.shape), torch.addmm(self.b, z, self.U)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        # Each patch of a map is a sample of the map's context.
        kernels, shift = modulation
        patches = F.unfold(x, self.kernel, padding=self.kernel // 2).transpose(1, 2).flatten(0, 1)
        y = grouped_linear(patches, kernels, segments.repeated(self.positions)).view(
            -1, self.height, self.width, self.channels
        )
        return y.permute(0, 3, 1, 2) + segments.rows(shift)[:, :, None, None]


SPATIAL_FUSIONS: dict[str, type[SpatialFusion]] = {
    "film": SpatialFiLM,
    "gated_attention": GatedAttention,
    "attention": Attention,
    "dynamic_conv": DynamicConvolution,
}
"""Name in the config -> class. All take (shape, z_size) and the options that OPTIONS names."""
