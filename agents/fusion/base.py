"""The interface of every fusion: *condition* on the context once per distinct context, then *modulate* to every sample.

Shapes used throughout the package: N samples, U distinct contexts, X observation features, Z context features, K output features.

Initialisation, the same idea for every form: inputs are taken to have unit variance per feature, every weight is drawn with
variance `share / fan_in`, and the shares of the terms add up to 1. The output then starts with variance 1 whatever the sizes of
x and z, and no form begins with a louder voice for the context than another.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.fusion.segments import Segments, identity_segments

Modulation = tuple[Tensor, ...]
"""What `condition` returns: tensors with leading dimension U. Rows may be selected, cached and concatenated."""


class AffineForm(NamedTuple):
    """What a fusion is for a given context: y = W'(z) x + b'(z). matrix [U, K, X], shift [U, K]."""

    matrix: Tensor
    shift: Tensor


class FullMI(NamedTuple):
    """The general form y = z^T W x + z^T U + V x + b (Jayakumar et al. 2020, equation 1). W [Z, K, X], U [Z, K], V [K, X], b [K]."""

    W: Tensor
    U: Tensor
    V: Tensor
    b: Tensor

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """One context per sample: x [N, X], z [N, Z] -> y [N, K]."""
        return torch.einsum("nz,zkx,nx->nk", z, self.W, x) + z @ self.U + x @ self.V.t() + self.b


class Fusion(nn.Module):
    """y = f(x, z), in one of its forms; nearly all of them are y = W'(z) x + b'(z).

    Attributes:
        x_size: X, features of the observation.
        z_size: Z, features of the context; 0 means that there is no context and leaves only the terms in x.
        out_size: K, features of the output.
        linear_in_x: whether there is a W'(z) and a b'(z): `affine_form` gives them.
        uses_context_norm: whether the constructor takes `context_norm`, the length |z| to be expected (weight_generation.py).
        affine_in_z: whether these in turn are affine in z: `to_full_mi` writes the whole layer as one W, U, V and b.
    """

    linear_in_x = True
    affine_in_z = False
    uses_context_norm = False

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__()
        self.x_size = x_size
        self.z_size = z_size
        self.out_size = out_size

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.parameters()).dtype

    def condition(self, z: Tensor, samples: int | None = None) -> Modulation:
        """The part that depends on the context alone: z [U, Z] -> modulation.

        Args:
            samples: how many samples the modulation will be applied to, where that is known. A form may then prepare less for contexts
                that hardly repeat; the result of `modulate` is the same.
        """
        raise NotImplementedError  # pragma: no cover - the interface

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        """The part that runs for every sample: x [N, X] -> y [N, K]."""
        raise NotImplementedError  # pragma: no cover - the interface

    def affine_form(self, z: Tensor) -> AffineForm:
        """W'(z) [U, K, X] and b'(z) [U, K] of contexts z [U, Z], written down from the form's own equation.

        Raises:
            TypeError: the form is not linear in x, so it has none.
        """
        raise TypeError(f"{type(self).__name__} is not linear in x: there is no W'(z).")

    def to_full_mi(self) -> FullMI:
        """The same layer as a full multiplicative interaction, which is what makes the forms one family.

        W'(z) = V + sum_j z_j W_j is affine in z, so its values at zero and at the Z unit vectors are all there is to know.

        Raises:
            TypeError: W'(z) is not affine in z; `affine_form` then states what the layer is for each context.
        """
        if not self.affine_in_z:
            raise TypeError(
                f"{type(self).__name__} is not affine in z: it is a multiplicative interaction of x with a function of z. "
                "affine_form(z) gives W'(z) and b'(z) of each context."
            )
        like = next(self.parameters())
        zero_and_units = torch.eye(self.z_size + 1, dtype=like.dtype, device=like.device)[:, 1:]
        matrix, shift = self.affine_form(zero_and_units)
        V, b = matrix[0], shift[0]
        return FullMI(W=matrix[1:] - V, U=shift[1:] - b, V=V, b=b)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """The plain reading, one context per sample: x [N, X], z [N, Z] -> y [N, K]."""
        return self.modulate(x, self.condition(z, len(x)), identity_segments(len(x), x.device))


def weight(*shape: int, fan_in: int, share: float = 1.0) -> nn.Parameter:
    """A parameter drawn from N(0, share / fan_in)."""
    return nn.Parameter(torch.randn(*shape) * math.sqrt(share / max(fan_in, 1)))


def bias(*shape: int, value: float = 0.0) -> nn.Parameter:
    """A parameter that starts at `value`."""
    return nn.Parameter(torch.full(shape, value))
