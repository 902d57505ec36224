"""Functions drawn from a Gaussian process, and their exact log-likelihood under it.

The kernel is exp(-(x - x')^2 / (2 length_scale^2)); observed values have additional noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from studies.models.ensembles import Streams

REACH = 2.0
"""x is uniform between -REACH and REACH."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianProcess:
    """`noise` is the standard deviation of the observation noise."""

    length_scale: float
    noise: float

    def sample(self, functions: int, points: int, streams: Streams) -> tuple[Tensor, Tensor]:
        """Draws functions for each of S seeds, each observed at its own random points: x and y [S, functions, points, 1]."""
        x = streams.uniform(functions, points, 1, low=-REACH, high=REACH)
        factor = torch.linalg.cholesky(self._covariance(x))
        return x, factor @ streams.normal(functions, points, 1)

    def log_density(self, x: Tensor, y: Tensor) -> Tensor:
        """Log density of values y at points x, both [..., N, 1] -> [...], in double precision."""
        x, y = x.double(), y.double()
        factor = torch.linalg.cholesky(self._covariance(x))
        white = torch.linalg.solve_triangular(factor, y, upper=False)
        logarithms = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        density: Tensor = -0.5 * white.square().sum((-2, -1)) - logarithms - 0.5 * x.shape[-2] * math.log(2 * math.pi)
        return density

    def predictive(self, x: Tensor, y: Tensor, context: int) -> Tensor:
        """log p(other points | first `context` points): [..., N, 1] -> [...]."""
        return self.log_density(x, y) - self.log_density(x[..., :context, :], y[..., :context, :])

    def _covariance(self, x: Tensor) -> Tensor:
        distance = (x - x.transpose(-1, -2)) / self.length_scale
        noise = self.noise**2 * torch.eye(x.shape[-2], dtype=x.dtype)
        return torch.exp(-0.5 * distance.square()) + noise
