"""Forms whose weights are a nonlinear function of the context: a hypernetwork and a mixture of experts.

Both are the full multiplicative interaction of x with features h(z) instead of z, and run the same way (weight_generation.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import MEAN_SQUARE_OF_RELU, Fusion, Modulation, bias, weight
from agents.fusion.multiplicative import SHARE_X, SHARE_XZ, SHARE_Z
from agents.fusion.segments import Segments
from agents.fusion.weight_generation import apply_generated, generate

# Variance of the experts' logits at the start. The weights are nearly equal, so every expert gets a gradient from every context.
_LOGIT_SHARE = 0.01


class Hypernetwork(Fusion):
    """y = W'(z) x + b'(z) from one hidden layer: h = relu(A z + a), W' = V + h^T W, b' = b + h^T U.

    Ha et al. (2017) with a linear layer as the generated network. HZ + H + HKX + HK + KX + K parameters with H hidden units. With
    A = 1, a = 0 and no ReLU it is `mi`.
    """

    uses_context_norm = True

    def __init__(
        self, x_size: int, z_size: int, out_size: int, *, hidden: int, context_norm: float | None = None
    ) -> None:
        super().__init__(x_size, z_size, out_size)
        self.A = weight(hidden, z_size, fan_in=1, share=1 / (context_norm**2 if context_norm else max(z_size, 1)))
        self.a = bias(hidden)
        # Expected length of h.
        self.context_norm = math.sqrt(hidden * MEAN_SQUARE_OF_RELU)
        share = SHARE_XZ / MEAN_SQUARE_OF_RELU * self.context_norm**2
        self.W = weight(hidden, out_size * x_size, fan_in=hidden * x_size, share=share)
        self.U = weight(hidden, out_size, fan_in=hidden, share=SHARE_Z / MEAN_SQUARE_OF_RELU)
        self.V = weight(out_size, x_size, fan_in=x_size, share=SHARE_X)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> W'(z) [U, K, X] and b'(z) [U, K]. For contexts that hardly repeat, h replaces W'(z)."""
        hidden = F.linear(z, self.A, self.a).relu()
        return generate(hidden / self.context_norm, self.W, self.V, self.x_size, samples), torch.addmm(
            self.b, hidden, self.U
        )

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        generated, shift = modulation
        return apply_generated(x, generated, self.W, self.V, segments) + segments.rows(shift)


class Mixture(Fusion):
    """y = sum_e p_e(z) (W_e x + U_e), p = softmax(A z + a): a mixture of linear experts, weighted by the context.

    As in soft modularisation (Yang et al. 2020) and PaCo (Sun et al. 2022), tasks share experts in different proportions. With as many
    experts as contexts it can represent one layer per context. EZ + E + EKX + EK parameters with E experts.
    """

    uses_context_norm = True

    def __init__(
        self, x_size: int, z_size: int, out_size: int, *, experts: int, context_norm: float | None = None
    ) -> None:
        super().__init__(x_size, z_size, out_size)
        self.A = weight(
            experts, z_size, fan_in=1, share=_LOGIT_SHARE / (context_norm**2 if context_norm else max(z_size, 1))
        )
        self.a = bias(experts)
        # The mixture's variance is the experts' variance times sum_e p_e^2, which is exp(variance of the logits) / E and at most 1.
        spread = min(1.0, math.exp(_LOGIT_SHARE if z_size else 0.0) / experts)
        self.W = weight(experts, out_size * x_size, fan_in=x_size, share=1 / spread)
        self.U = bias(experts, out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> W'(z) = sum_e p_e W_e [U, K, X] and b'(z) = sum_e p_e U_e [U, K]."""
        # Under autocast, softmax returns float32.
        weights = torch.softmax(F.linear(z, self.A, self.a), dim=-1).to(self.dtype)
        return generate(weights, self.W, None, self.x_size, samples), torch.mm(weights, self.U)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        generated, shift = modulation
        return apply_generated(x, generated, self.W, None, segments) + segments.rows(shift)
