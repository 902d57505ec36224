"""The interface of every fusion: *condition* on the context once per distinct context, then *apply* to every sample.

Shapes used throughout the package: N samples, U distinct contexts, X observation features, Z context features, K output features.

Initialisation, the same idea for every form: inputs are taken to have unit variance per feature, every weight is drawn with
variance `share / fan_in`, and the shares of the terms add up to 1. The output then starts with variance 1 whatever the sizes of
x and z, and no form begins with a louder voice for the context than another.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from agents.fusion.segments import Segments, identity_segments

Modulation = tuple[Tensor, ...]
"""What `condition` returns: tensors with leading dimension U. Rows may be selected, cached and concatenated."""


class Fusion(nn.Module):
    """y = W'(z) x + b'(z), in one of its forms.

    Attributes:
        x_size: X, features of the observation.
        z_size: Z, features of the context; 0 means that there is no context and leaves only the terms in x.
        out_size: K, features of the output.
    """

    def __init__(self, x_size: int, z_size: int, out_size: int) -> None:
        super().__init__()
        self.x_size = x_size
        self.z_size = z_size
        self.out_size = out_size

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(self.parameters()).dtype

    def condition(self, z: Tensor) -> Modulation:
        """The part that depends on the context alone: z [U, Z] -> modulation."""
        raise NotImplementedError  # pragma: no cover - the interface

    def apply(self, x: Tensor, modulation: Modulation, segments: Segments) -> Tensor:  # type: ignore[override]
        """The part that runs for every sample: x [N, X] -> y [N, K].

        The name hides `nn.Module.apply(fn)`, which this project does not use; `condition` and `apply` are the words of the design.
        """
        raise NotImplementedError  # pragma: no cover - the interface

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """The plain reading, one context per sample: x [N, X], z [N, Z] -> y [N, K]."""
        return self.apply(x, self.condition(z), identity_segments(x.shape[0], x.device))


def weight(*shape: int, fan_in: int, share: float = 1.0) -> nn.Parameter:
    """A parameter drawn from N(0, share / fan_in)."""
    return nn.Parameter(torch.randn(*shape) * math.sqrt(share / max(fan_in, 1)))


def bias(size: int) -> nn.Parameter:
    """A parameter that starts at zero."""
    return nn.Parameter(torch.zeros(size))
