"""One network for each seed, trained together on stacked parameters, so that small networks keep a core busy.

Shapes: S seeds, the first dimension of every tensor of the ensemble. Members are independent: losses are summed over seeds and Adam works
element by element, so each member equals one that is trained alone (tests/studies/test_ensembles.py).
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
        make: Returns a new network, initialized from torch's global generator.
        seeds: Of the initializations [S].

    Attributes:
        parameters: Name -> [S, ...].
        num_parameters: Of one member.
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
        """The outputs [S, ...] of all members for their inputs [S, ...]. `replaced` has other values [S, ...] for some parameters."""

        def one(parameters: dict[str, Tensor], *own: Tensor) -> Any:
            return functional_call(self._network, parameters, own)

        outputs: Tensor = torch.vmap(one)(self.parameters | (replaced or {}), *inputs)
        return outputs


class Streams:
    """Random numbers for S seeds, each from its own generator. Each purpose, such as training or test, has other numbers."""

    def __init__(self, seeds: Sequence[int], purpose: str) -> None:
        self._generators = [torch.Generator().manual_seed(derived_seed(seed, purpose)) for seed in seeds]

    def normal(self, *shape: int) -> Tensor:
        """Draws from N(0, 1), [S, *shape]."""
        return torch.stack([torch.randn(*shape, generator=generator) for generator in self._generators])

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draws uniformly between low and high, [S, *shape]."""
        drawn = torch.stack([torch.rand(*shape, generator=generator) for generator in self._generators])
        return low + (high - low) * drawn


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for one purpose, unrelated to the seeds that other purposes or other seeds give."""
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1, np.uint64)[0] >> 1)


def as_numbers(errors: Tensor) -> list[float]:
    """A tensor [S] as plain numbers. NaN and infinity become the largest number of the type, because JSON has neither."""
    largest = torch.finfo(errors.dtype).max
    return errors.nan_to_num(nan=largest, posinf=largest).tolist()


def curve_points(first: int, last: int, most: int) -> list[int]:
    """At most `most` numbers of steps after which a learning curve is measured, evenly spread over their logarithm."""
    return sorted({round(step) for step in np.geomspace(min(first, last), last, most)})


def anneal(optimizer: torch.optim.Optimizer, learning_rate: float, step: int, steps: int) -> None:
    """Sets the learning rate of a step, on a cosine from `learning_rate` to zero."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))


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
        loss: Returns the loss [S] of a new batch.
        after_step: Called with the number of finished steps, 1 to `steps`.
    """
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    for step in range(steps):
        anneal(optimizer, learning_rate, step, steps)
        optimizer.zero_grad()
        loss().sum().backward()
        optimizer.step()
        after_step(step + 1)
