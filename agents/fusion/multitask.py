"""The forms of the literature on many tasks: a head for each task, and modules that tasks share in proportions of their own.

In `multi_head`, `paco` and `mixture` the context weights matrices, so a form is linear in x. In `care`, `soft_modularization` and `moore`
it weights features, which are not linear in x, and a last layer maps them to the output.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import MEAN_OF_RELU, MEAN_SQUARE_OF_RELU, Fusion, Modulation, bias, weight
from agents.fusion.multiplicative import SHARE_Z
from agents.fusion.segments import Segments
from agents.fusion.weight_generation import apply_generated, generate

# Variance of the logits of routes and encoders at the start. The largest of eight weights is then about a third: tasks start apart.
_LOGIT_SHARE = 1.0


class MultiHead(Fusion):
    """y = sum_t z_t W_t x + z^T U over the tasks t: a linear layer of its own for each task, whose one-hot code z starts with.

    At the site `policy` these are the heads of a multi-head agent. With z = [code of task t; c] it is W_t x + U_t + c^T U_c, where c is the
    instruction, if the context has one. The form is `mi` with V = 0, b = 0, and W = 0 for c. TKX + ZK parameters for T tasks.

    Args:
        num_tasks: T, the first features of z. None: all of them, with variance 1 each.
    """

    affine_in_z = True
    needs_task = True

    def __init__(self, x_size: int, z_size: int, out_size: int, *, num_tasks: int | None = None) -> None:
        super().__init__(x_size, z_size, out_size)
        # Without a context there is one head.
        self.num_tasks = min(num_tasks or z_size, z_size)
        heads, rest = max(self.num_tasks, 1), z_size - self.num_tasks
        squared_norm = 1 if num_tasks else heads
        self.W = weight(heads, out_size * x_size, fan_in=squared_norm * x_size, share=1 - SHARE_Z if rest else 1.0)
        self.U = nn.Parameter(torch.cat([bias(heads, out_size), weight(rest, out_size, fan_in=rest, share=SHARE_Z)]))

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> sum_t z_t W_t [U, K, X] and z^T U [U, K]. For contexts that hardly repeat, the code replaces the matrix."""
        if not self.z_size:
            z = F.pad(z, (0, 1), value=1.0)
        code = z[:, : len(self.W)].contiguous()
        return generate(code, self.W, None, self.x_size, samples), torch.mm(z, self.U)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        generated, shift = modulation
        return apply_generated(x, generated, self.W, None, segments) + segments.rows(shift)


class Composition(nn.Module):
    """w(z) = A z + a, the weights of the parameter sets of `PaCo`: z [U, Z] -> w [U, E]. It starts with the mean square 1 / E."""

    def __init__(self, z_size: int, experts: int, context_norm: float | None = None) -> None:
        super().__init__()
        self.A = weight(
            experts, z_size, fan_in=1, share=0.5 / experts / (context_norm**2 if context_norm else max(z_size, 1))
        )
        self.a = bias(experts, value=math.sqrt((0.5 if z_size else 1.0) / experts))

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z.to(self.A.dtype), self.A, self.a)


class PaCo(Fusion):
    """y = sum_e w_e(z) (W_e x + U_e), w = A z + a: parameters composed of E parameter sets (Sun et al. 2022, theta = Phi w).

    All sites of an agent share A and a: one composition w of the context for all fused layers. w is not confined to a simplex, so one
    site is `mi` whose tensor W has rank E between z and the rest, and `mixture` is one site whose w is a softmax.
    EZ + E + EKX + EK parameters with E sets, of which EZ + E are shared.

    Args:
        composition: The composition of the agent's other sites. None: one of its own.
    """

    affine_in_z = True
    uses_context_norm = True

    def __init__(
        self,
        x_size: int,
        z_size: int,
        out_size: int,
        *,
        experts: int,
        context_norm: float | None = None,
        composition: Composition | None = None,
    ) -> None:
        super().__init__(x_size, z_size, out_size)
        self.W = weight(experts, out_size * x_size, fan_in=x_size)
        self.U = bias(experts, out_size)
        self.composition = composition or Composition(z_size, experts, context_norm)

    @classmethod
    def shared_options(cls, z_size: int, **options: Any) -> dict[str, Any]:
        return {"composition": Composition(z_size, options["experts"], options.get("context_norm"))}

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> sum_e w_e W_e [U, K, X] and sum_e w_e U_e [U, K]. For contexts that hardly repeat, w replaces the matrix."""
        weights = self.composition(z).to(self.dtype)
        return generate(weights, self.W, None, self.x_size, samples), torch.mm(weights, self.U)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        generated, shift = modulation
        return apply_generated(x, generated, self.W, None, segments) + segments.rows(shift)


class Care(Fusion):
    """y = C sum_e p_e(z) relu(A_e x + a_e) + U z + b, p = softmax(Q z + q): the context chooses among E encoders of x and is appended.

    Sodhani et al. (2021), with one layer as an encoder. The attention p reads the context alone, as in their code; their figure 3 compares
    the context with each encoding. EH(X + 1) + E(Z + 1) + KH + KZ + K parameters for encodings of H features.
    """

    linear_in_x = False

    def __init__(self, x_size: int, z_size: int, out_size: int, *, hidden: int, experts: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.A = weight(experts * hidden, x_size, fan_in=x_size)
        self.a = bias(experts * hidden)
        self.Q = weight(experts, z_size, fan_in=z_size, share=_LOGIT_SHARE)
        self.q = bias(experts)
        share = 1 - SHARE_Z if z_size else 1.0
        self.C = weight(
            out_size, hidden, fan_in=hidden, share=share / _mean_square(experts, _LOGIT_SHARE if z_size else 0.0)
        )
        self.U = weight(out_size, z_size, fan_in=z_size, share=SHARE_Z)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the attention p [U, E] and U z + b [U, K]."""
        return torch.softmax(F.linear(z, self.Q, self.q), dim=-1), F.linear(z, self.U, self.b)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        attention, shift = (segments.rows(part) for part in modulation)
        encodings = F.linear(x, self.A, self.a).relu().view(len(x), len(self.q), -1)
        mixed = torch.matmul(attention.to(encodings.dtype).unsqueeze(1), encodings).squeeze(1)
        return F.linear(mixed, self.C) + shift


class SoftModularization(Fusion):
    """y = sum_i C_i sum_j p_ij relu(A_j x + a_j) + b, p_i = softmax over j of D relu((F x + f) * (H z + h)) + d: routed modules.

    Yang et al. (2020), equations 4, 6, 7 and 8, with their smallest number of layers, two: E modules of H units, and E outputs C_i.
    Observation and context choose the route p, for every sample.
    EH(X + 1) + KEH + K + H(X + 1) + H(Z + 1) + E^2(H + 1) parameters.
    """

    linear_in_x = False

    def __init__(self, x_size: int, z_size: int, out_size: int, *, hidden: int, experts: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.experts = experts
        self.A = weight(experts * hidden, x_size, fan_in=x_size)
        self.a = bias(experts * hidden)
        self.F = weight(hidden, x_size, fan_in=x_size, share=0.5)
        self.f = bias(hidden, value=math.sqrt(0.5))
        self.H = weight(hidden, z_size, fan_in=z_size, share=0.5)
        self.h = bias(hidden, value=math.sqrt(0.5))
        self.D = weight(experts**2, hidden, fan_in=hidden, share=_LOGIT_SHARE / MEAN_SQUARE_OF_RELU)
        self.d = bias(experts**2)
        features = experts * hidden
        self.C = weight(out_size, features, fan_in=features, share=1 / _mean_square(experts, _LOGIT_SHARE))
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the embedding H z + h [U, H]."""
        return (F.linear(z, self.H, self.h),)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        route = F.linear(x, self.F, self.f) * segments.rows(modulation[0])
        logits = F.linear(route.relu(), self.D, self.d).view(len(x), self.experts, self.experts)
        modules = F.linear(x, self.A, self.a).relu().view(len(x), self.experts, -1)
        routed = torch.bmm(torch.softmax(logits, dim=-1).to(modules.dtype), modules)
        return F.linear(routed.flatten(1), self.C, self.b)


class Moore(Fusion):
    """y = C sum_e w_e(z) v_e(x) + U z + b, w = B z + g: v_1(x), ..., v_E(x) are the experts A_e x + a_e, made orthogonal for each x.

    Hendawy et al. (2024): the Gram-Schmidt process (`orthogonalize`) gives every expert a direction of its own. The form is their
    single-head agent, whose output layer reads the context, too. The v_e have the length sqrt(H), so x acts by direction, not by size.
    EH(X + 1) + E(Z + 1) + KH + KZ + K parameters for experts of H features, at least E.
    """

    linear_in_x = False

    def __init__(self, x_size: int, z_size: int, out_size: int, *, hidden: int, experts: int) -> None:
        super().__init__(x_size, z_size, out_size)
        self.A = weight(experts * hidden, x_size, fan_in=x_size)
        self.a = bias(experts * hidden)
        self.B = weight(experts, z_size, fan_in=z_size, share=0.5 / experts)
        self.g = bias(experts, value=math.sqrt((0.5 if z_size else 1.0) / experts))
        self.C = weight(out_size, hidden, fan_in=hidden, share=1 - SHARE_Z if z_size else 1.0)
        self.U = weight(out_size, z_size, fan_in=z_size, share=SHARE_Z)
        self.b = bias(out_size)

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """z [U, Z] -> the weights w [U, E] and U z + b [U, K]."""
        return F.linear(z, self.B, self.g), F.linear(z, self.U, self.b)

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        weights, shift = (segments.rows(part) for part in modulation)
        experts = F.linear(x, self.A, self.a).view(len(x), len(self.g), -1)
        basis = orthogonalize(experts) * math.sqrt(experts.shape[2])
        mixed = (weights.unsqueeze(2) * basis).sum(dim=1)
        return F.linear(mixed.to(self.dtype), self.C) + shift


def orthogonalize(vectors: Tensor) -> Tensor:
    """The Gram-Schmidt process: vectors [N, E, H] -> orthonormal vectors [N, E, H] with the same spans of the first 1, 2, ..., E.

    In at least single precision, because errors add up over the vectors.
    """
    rest = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    basis = []
    while rest.shape[1]:
        # Each finished direction is removed from all later vectors: the modified process, whose rounding errors stay small.
        direction = F.normalize(rest[:, :1], dim=2)
        basis.append(direction)
        rest = rest[:, 1:] - (rest[:, 1:] * direction).sum(dim=2, keepdim=True) * direction
    return torch.cat(basis, dim=1)


def _mean_square(experts: int, share: float) -> float:
    """E[(sum_e p_e relu(u_e))^2] for u_e ~ N(0, 1) and p the softmax of E logits of variance `share`: sum_e p_e^2 is exp(share) / E."""
    spread = min(1.0, math.exp(share) / experts)
    return MEAN_OF_RELU**2 + spread * (MEAN_SQUARE_OF_RELU - MEAN_OF_RELU**2)
