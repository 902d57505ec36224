"""The interface of every fusion: `condition` runs once per distinct context, `modulate` runs for every sample.

Shapes used throughout the package: N samples, U distinct contexts, X observation features, Z context features, K output features.

    - condition(z [U, Z])                        -> modulation, tensors with leading dimension U. A form with `reads_tokens` takes Tokens.
    - modulate(x [N, X], modulation, segments)   -> y [N, K].

A form is these two methods. Everything else here follows from them, the affine form y = W'(z) x + b'(z) included.

Initialisation is the same for every form. The inputs are assumed to have unit variance per feature, each weight is drawn with variance
`share / fan_in`, and the shares of the terms sum to 1. So y starts with variance 1 for any X and Z, and all forms start with a context
term of comparable size.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.fusion.segments import Segments, identity_segments

Modulation = tuple[Tensor, ...]
"""What `condition` returns: tensors with leading dimension U, whose rows may be selected, cached and concatenated."""


class Tokens(NamedTuple):
    """Contexts as sequences, such as the words of an instruction: values [U, S, Z], and mask bool [U, S], True at tokens.

    At least one token of a sequence is no padding. The values at padding are finite, and no form may depend on them.
    """

    values: Tensor
    mask: Tensor

    def to(self, dtype: torch.dtype) -> Tokens:
        """The same with values in `dtype`."""
        return Tokens(self.values.to(dtype), self.mask)


MEAN_SQUARE_OF_RELU = 0.5
"""E[relu(u)^2] for u ~ N(0, 1). Dividing a share by it starts the layer behind a ReLU at variance 1."""

MEAN_OF_RELU = 1 / math.sqrt(2 * math.pi)
"""E[relu(u)] for the same u."""


class AffineForm(NamedTuple):
    """A fusion at given contexts: y = W'(z) x + b'(z). matrix [U, K, X], shift [U, K]."""

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
    """y = f(x, z) in one of its forms. Nearly all of them are y = W'(z) x + b'(z).

    Attributes:
        x_size, x_shape: X, features of the observation, and their shape in one sample.
        z_size: Z, features of the context. 0 means no context: only the terms in x remain.
        out_size: K, features of the output.
        linear_in_x: The form has a W'(z) and a b'(z), which `affine_form` returns.
        affine_in_z: W'(z) and b'(z) are affine in z, so `to_full_mi` returns the layer as one W, U, V and b.
        reads_tokens: `condition` takes contexts as sequences (`Tokens`). A vector is a sequence of one token.
        uses_context_norm: The constructor takes `context_norm`, the expected length |z| (weight_generation.py). None: sqrt(Z), the
            length of features of variance 1.
        needs_task: z starts with the one-hot code of the task, whatever `context.task_encoding` is, and the constructor takes
            `num_tasks`, its length. A context without the task's id is refused.
    """

    linear_in_x = True
    affine_in_z = False
    reads_tokens = False
    uses_context_norm = False
    needs_task = False

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__()
        self.x_size = x_size
        self.x_shape: tuple[int, ...] = (x_size,)
        self.z_size = z_size
        self.out_size = out_size

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.parameters()).dtype

    @classmethod
    def shared_options(cls, z_size: int, **options: Any) -> dict[str, Any]:
        """Further constructor arguments that all sites of one agent share, such as a module. Called once per agent with its options."""
        return {}

    def condition(self, z: Any, samples: int | None = None) -> Modulation:
        """The part that depends on the context alone: z [U, Z] -> modulation.

        Args:
            z: Tensor [U, Z]. With `reads_tokens` it may also be Tokens, whose modulation has the tokens S as its second dimension in each
                tensor. Zeros appended there must change nothing, because the modulations of short and long sequences are cached together.
            samples: Number of samples that the modulation will be applied to, if known. A form may prepare less for contexts that
                hardly repeat. `modulate` returns the same either way.
        """
        raise NotImplementedError  # pragma: no cover - the interface

    def modulate(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:
        """The part that runs for every sample: x [N, X] -> y [N, K]. `segments` names the row of `modulation` for each sample."""
        raise NotImplementedError  # pragma: no cover - the interface

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """The plain reading, one context per sample: x [N, X], z [N, Z] -> y [N, K]."""
        return self.modulate(x, self.condition(z, len(x)), identity_segments(len(x), x.device))

    def affine_form(self, z: Tensor) -> AffineForm:
        """W'(z) [U, K, X] and b'(z) [U, K] of contexts z [U, Z], read off at x = 0 and at the X unit vectors; TypeError without W'(z)."""
        if not self.linear_in_x:
            raise TypeError(f"{type(self).__name__} is not linear in x: there is no W'(z).")
        x = _zero_and_unit_vectors(self.x_size, z).repeat(len(z), 1).view(-1, *self.x_shape)
        context = torch.arange(len(z), device=z.device).repeat_interleave(self.x_size + 1)
        y = self.modulate(x, self.condition(z), Segments(context, len(z))).reshape(len(z), self.x_size + 1, -1)
        return AffineForm(matrix=(y[:, 1:] - y[:, :1]).transpose(1, 2), shift=y[:, 0])

    def to_full_mi(self) -> FullMI:
        """The same layer as a full multiplicative interaction, read off at z = 0 and at the Z unit vectors. TypeError if it is none."""
        if not self.affine_in_z:
            raise TypeError(
                f"{type(self).__name__} is not affine in z: it is a multiplicative interaction of x with a function of z. "
                "affine_form(z) gives W'(z) and b'(z) of each context."
            )
        matrix, shift = self.affine_form(_zero_and_unit_vectors(self.z_size, next(self.parameters())))
        V, b = matrix[0], shift[0]
        return FullMI(W=matrix[1:] - V, U=shift[1:] - b, V=V, b=b)


def weight(*shape: int, fan_in: int, share: float = 1.0) -> nn.Parameter:
    """A parameter drawn from N(0, share / fan_in)."""
    return nn.Parameter(torch.randn(*shape) * math.sqrt(share / max(fan_in, 1)))


def bias(*shape: int, value: float = 0.0) -> nn.Parameter:
    """A parameter that starts at `value`."""
    return nn.Parameter(torch.full(shape, value))


def _zero_and_unit_vectors(size: int, like: Tensor) -> Tensor:
    """[size + 1, size]: zeros, then the unit vectors, in the dtype and on the device of `like`."""
    return torch.eye(size + 1, dtype=like.dtype, device=like.device)[:, 1:]
