"""One network for each seed, trained together: the same layers on stacked parameters, so that small networks keep a core busy.

Shapes: S seeds, every tensor of the ensemble has them as its first dimension. No member knows of another: losses are summed over seeds, and
Adam works number by number, so each member is what it would have become alone (tests/studies/test_ensembles.py).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class Ensemble:
    """Networks of one architecture.

    Args:
        make: a new network, initialised from torch's global generator.
        seeds: of the initialisations [S].

    Attributes:
        parameters: by name, [S, ...].
        num_parameters: of one member.
    """

    def __init__(self, make: Callable[[], nn.Module], seeds: Sequence[int]) -> None:
        members = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(seed, "network"))
                members.append(make())
        self.parameters: dict[str, Tensor] = stack_module_state(members)[0]
        self.num_parameters = sum(parameter.numel() for parameter in members[0].parameters())
        self._network = members[0]

    def __call__(self, *inputs: Tensor, replaced: dict[str, Tensor] | None = None) -> Tensor:
        """What every member makes of its inputs, [S, ...] each; with other values [S, ...] of some parameters."""

        def one(parameters: dict[str, Tensor], *own: Tensor) -> Any:
            return functional_call(self._network, parameters, own)

        outputs: Tensor = torch.vmap(one)(self.parameters | (replaced or {}), *inputs)
        return outputs


class Streams:
    """Random numbers for S seeds, each from a generator of its own; `purpose` keeps the numbers of training and test apart."""

    def __init__(self, seeds: Sequence[int], purpose: str) -> None:
        self._generators = [torch.Generator().manual_seed(derived_seed(seed, purpose)) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), [S, *shape]."""
        return torch.stack([torch.randn(*shape, generator=generator) for generator in self._generators])

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Between low and high, [S, *shape]."""
        drawn = torch.stack([torch.rand(*shape, generator=generator) for generator in self._generators])
        return low + (high - low) * drawn


def derived_seed(seed: int, purpose: str) -> int:
    """The seed for one purpose of a run, unrelated to those for others and to those of other runs."""
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1, np.uint64)[0] >> 1)


def as_numbers(errors: Tensor) -> list[float]:
    """A tensor [S] as plain numbers; what has diverged counts as the largest there is, for JSON knows neither infinity nor NaN."""
    largest = torch.finfo(errors.dtype).max
    return errors.nan_to_num(nan=largest, posinf=largest).tolist()


def train(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    after_step: Callable[[int], object] = lambda step: None,
) -> None:
    """Adam with a cosine from `learning_rate` to zero.

    Args:
        parameters: [S, ...] each.
        loss: of a fresh batch, one number for each member, [S].
        after_step: called with the number of steps made, 1 to `steps`.
    """
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        loss().sum().backward()
        optimizer.step()
        after_step(step + 1)
