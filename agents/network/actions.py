"""Action distributions: from the policy head's output to actions, log-probabilities and entropies.

    - P   Outputs of the policy head per sample, and parameters of a distribution.
    - C   Features of the encoded last action. "No action" is C zeros.
    - D   Components of an action with several components.

`EnvSpec.action_kind` selects the distribution. All of them are plain data, can be pickled, and have:

    - shape, dtype                   Of one action in a trajectory.
    - num_parameters                 P.
    - no_action(slots)               The value that marks "no action", [slots, *shape].
    - for_env(action)                Actions [B, *shape] in the environment's form (`EnvSpec.action_kind`).
    - codes()                        The lookup table of `encode`, which the network keeps on its device and in its precision.
    - encode(action, codes)          [N, *shape] -> [N, C], in the dtype of `codes`.
    - parameters(logits)             The policy head's output [..., P] in normal form, [..., P], which the methods below read.
    - noise(steps, slots, generator) Random numbers for `choose`, [steps, slots, ...].
    - choose(parameters, noise)      [B, P] -> [B, *shape]: the sample that the noise determines, or the greedy action without noise.
    - log_prob(parameters, action)   log pi(a): [..., P], [..., *shape] -> [...].
    - entropy(parameters)            In nats: [..., P] -> [...].

Trajectories, `last_action` and `log_prob` hold an action in the same form. `for_env` converts it to the environment's form, which differs
for continuous actions only. These are stored before the squashing, because the inverse of tanh loses all digits near the bounds. So the
log-probability of a stored action is as exact as that of a new one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from envs.spec import EnvSpec

LEAST_STD = 0.02
"""Smallest standard deviation of a continuous action before the squashing. Below it, rounding errors dominate importance ratios."""

_SCALES = (0.3, 2.5, 10)
"""Smallest, largest and number of the quadrature points for Kolmogorov's distribution. The error of an entropy is below 1e-6 nats for
every mean and deviation.
"""


@dataclass(frozen=True)
class Categorical:
    """One of A actions. Parameters: the log-probabilities of all actions. The greedy action is the most probable one. C = P = A."""

    num_actions: int

    shape = ()
    dtype = "int64"

    @property
    def num_parameters(self) -> int:
        return self.num_actions

    def no_action(self, slots: int) -> Tensor:
        return torch.full((slots,), self.num_actions)

    def for_env(self, action: NDArray[Any]) -> NDArray[Any]:
        return action

    def codes(self) -> Tensor:
        return torch.eye(self.num_actions + 1, self.num_actions)

    def encode(self, action: Tensor, codes: Tensor) -> Tensor:
        """One-hot."""
        return codes.index_select(0, action)

    def parameters(self, logits: Tensor) -> Tensor:
        return torch.log_softmax(logits, dim=-1)

    def noise(self, steps: int, slots: int, generator: torch.Generator) -> Tensor:
        return _gumbel((steps, slots, self.num_actions), generator)

    def choose(self, parameters: Tensor, noise: Tensor | None) -> Tensor:
        # argmax(log p + g) with Gumbel noise g is a sample of p.
        return (parameters if noise is None else parameters + noise).argmax(dim=-1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        return parameters.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return -(parameters.exp() * parameters).sum(dim=-1)


@dataclass(frozen=True)
class FactoredCategorical:
    """D choices at once, independent given the observation. P = C = the sum of `sizes`.

    Parameters: the log-probabilities of each component's choices, side by side. Log-probabilities and entropies sum over components.
    The greedy action takes the most probable choice of each component.
    """

    sizes: tuple[int, ...]

    dtype = "int64"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sizes),)

    @property
    def num_parameters(self) -> int:
        return sum(self.sizes)

    def no_action(self, slots: int) -> Tensor:
        return torch.tensor(self.sizes).repeat(slots, 1)

    def for_env(self, action: NDArray[Any]) -> NDArray[Any]:
        return action

    def codes(self) -> Tensor:
        # For each component one row per choice, and a row of zeros for "no action".
        rows = [F.pad(block, (0, 0, 0, 1)) for block in torch.eye(self.num_parameters).split(self.sizes)]
        return torch.cat(rows)

    def encode(self, action: Tensor, codes: Tensor) -> Tensor:
        """The one-hot codes of the components, side by side."""
        rows = action + _firsts(tuple(size + 1 for size in self.sizes), action.device)
        return codes.index_select(0, rows.flatten()).view(*rows.shape, -1).sum(dim=1)

    def parameters(self, logits: Tensor) -> Tensor:
        return torch.cat([part.log_softmax(dim=-1) for part in logits.split(self.sizes, dim=-1)], dim=-1)

    def noise(self, steps: int, slots: int, generator: torch.Generator) -> Tensor:
        return _gumbel((steps, slots, self.num_parameters), generator)

    def choose(self, parameters: Tensor, noise: Tensor | None) -> Tensor:
        scores = parameters if noise is None else parameters + noise
        return torch.stack([part.argmax(dim=-1) for part in scores.split(self.sizes, dim=-1)], dim=-1)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        return parameters.gather(-1, action + _firsts(self.sizes, action.device)).sum(dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        return -(parameters.exp() * parameters).sum(dim=-1)


@dataclass(frozen=True)
class TanhGaussian:
    """D numbers, each tanh(u) of a Gaussian u, stretched from [-1, 1] to its bounds. P = 2 D, C = D.

    The policy head returns the mean and s. The deviation is LEAST_STD + log(1 + e^s), 0.7 for s = 0, which fills most of the range.
    Parameters: the means, then the logarithms of the deviations. Actions are stored as u.

    Probabilities are densities on [-1, 1]^D, so they and the entropy do not depend on the units of the bounds. The log-probability is:

        log pi(a) = sum_d log N(u_d; mean_d, std_d) - log(1 - tanh(u_d)^2),   log(1 - tanh(u)^2) = 2 (log 2 - u - log(1 + e^(-2u)))

    The last form neither under- nor overflows. The entropy has no closed form:

        H = sum_d log std_d + (1 + log 2 pi) / 2 + E[log(1 - tanh(u_d)^2)]

    The expectation follows from log(1 - tanh(u)^2) = 2 log 2 - 2 E|u - v|. Here v has the logistic distribution of scale 1/2. Both
    sides have the second derivative -2 (1 - tanh(u)^2), and they agree for large |u|. This v is a Gaussian whose deviation k has
    Kolmogorov's distribution (Andrews and Mallows 1974). So:

        E[log(1 - tanh(u)^2)] = 2 log 2 - 2 E_k[E|w|],   w Gaussian with u's mean and deviation (std^2 + k^2)^(1/2)
        E|w| = (2 / pi)^(1/2) s exp(-mean^2 / 2 s^2) + mean erf(mean / (2^(1/2) s)),   s the deviation of w

    The mean over k is a quadrature of a few points: no sampling noise, and an exact gradient of the sum. A quadrature over u would need
    more points for larger deviations, because tanh is steep near 0.

    The greedy action is tanh(mean), the median. The mode is unsuitable: it can be on the bounds, where the policy hardly ever acts.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    dtype = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.low),)

    @property
    def num_parameters(self) -> int:
        return 2 * len(self.low)

    def no_action(self, slots: int) -> Tensor:
        return torch.zeros(slots, len(self.low))

    def for_env(self, action: NDArray[Any]) -> NDArray[Any]:
        low, high = self._bounds
        stretched: NDArray[np.float32] = low + (np.tanh(action) + np.float32(1)) * ((high - low) / 2)
        # Rounding may move the sum past a bound.
        return stretched.clip(low, high)

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.low, np.float32), np.array(self.high, np.float32)

    def codes(self) -> Tensor:
        return torch.zeros(0)

    def encode(self, action: Tensor, codes: Tensor) -> Tensor:
        """The squashed numbers, in [-1, 1]."""
        return action.tanh().to(codes.dtype)

    def parameters(self, logits: Tensor) -> Tensor:
        mean, spread = logits.chunk(2, dim=-1)
        return torch.cat([mean, (LEAST_STD + F.softplus(spread)).log()], dim=-1)

    def noise(self, steps: int, slots: int, generator: torch.Generator) -> Tensor:
        return torch.randn(steps, slots, len(self.low), generator=generator)

    def choose(self, parameters: Tensor, noise: Tensor | None) -> Tensor:
        mean, log_std = parameters.chunk(2, dim=-1)
        return mean.clone() if noise is None else torch.addcmul(mean, log_std.exp(), noise)

    def log_prob(self, parameters: Tensor, action: Tensor) -> Tensor:
        mean, log_std = parameters.chunk(2, dim=-1)
        gaussian = -0.5 * ((action - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
        return (gaussian - _log_slope(action)).sum(dim=-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        mean, log_std = parameters.chunk(2, dim=-1)
        scales, weights = _kolmogorov(mean.dtype, mean.device)
        distance = _mean_distance(mean.unsqueeze(-1), torch.hypot(log_std.exp().unsqueeze(-1), scales)) @ weights
        squashing = 2 * (math.log(2) - distance)
        return (log_std + 0.5 * (1 + math.log(2 * math.pi)) + squashing).sum(dim=-1)


ActionDistribution: TypeAlias = Categorical | FactoredCategorical | TanhGaussian


def action_distribution(env: EnvSpec) -> ActionDistribution:
    """The distribution for the actions of `env`."""
    if env.action_kind == "multi_discrete":
        return FactoredCategorical(env.action_sizes)
    if env.action_kind == "continuous":
        return TanhGaussian(env.action_low, env.action_high)
    return Categorical(env.num_actions)


def _gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    # Never 0: noise of minus infinity would rank a legal action below a masked one.
    least = torch.finfo(torch.float32).tiny
    return torch.empty(shape).uniform_(least, 1, generator=generator).log_().neg_().log_().neg_()


@cache
def _firsts(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """The first index of each block, for D consecutive blocks of these sizes, [D]."""
    return torch.tensor([0, *np.cumsum(sizes[:-1]).tolist()], device=device)


@cache
def _kolmogorov(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points k and weights w: E[f(K)] = sum_i w_i f(k_i) for K of Kolmogorov's distribution, by the trapezoidal rule in log k.

    Its density is (2 pi)^(1/2) / k^2 sum_j (2 a_j - 1) exp(-a_j) with a_j = ((2 j - 1) pi / k)^2 / 8.
    """
    points = np.geomspace(*_SCALES)
    terms = ((2 * np.arange(1, 21)[:, None] - 1) * np.pi / points) ** 2 / 8
    # dk = k d(log k). The constant factor cancels.
    weights = ((2 * terms - 1) * np.exp(-terms)).sum(axis=0) / points
    return tuple(torch.tensor(array, dtype=dtype, device=device) for array in (points, weights / weights.sum()))  # type: ignore[return-value]


def _mean_distance(mean: Tensor, std: Tensor) -> Tensor:
    """E|w| of a Gaussian w."""
    ratio = mean / std
    return math.sqrt(2 / math.pi) * std * (-0.5 * ratio.square()).exp() + mean * (ratio / math.sqrt(2)).erf()


def _log_slope(u: Tensor) -> Tensor:
    """log(d tanh(u) / du) = log(1 - tanh(u)^2)."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))
