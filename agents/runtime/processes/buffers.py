"""Memory that the learner shares with its actors: sets of arrays, and versioned weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from agents.runtime.processes.shared_memory import SharedMemory
from agents.trajectory import Trajectory
from envs.shared_arrays import layout_size, map_arrays
from envs.spec import ArraySpec

_ALIGNMENT = 64


class SharedArrays:
    """`count` sets of arrays in shared memory; `arrays[i]` is a dict of tensors, such as a trajectory.

    Args:
        spec: Of one set.
        memory: That another process has allocated; None allocates it.
    """

    def __init__(self, spec: Mapping[str, ArraySpec], count: int, memory: SharedMemory | None = None) -> None:
        self._spec, self._count = dict(spec), count
        size = layout_size(self._spec)
        self._memory = memory or SharedMemory(size * count)
        self._sets: list[Trajectory] = []
        for number in range(count):
            part = self._memory.bytes[number * size : (number + 1) * size].numpy()
            self._sets.append({key: torch.from_numpy(array) for key, array in map_arrays(self._spec, part).items()})

    def __getitem__(self, number: int) -> Trajectory:
        return self._sets[number]

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> Any:
        return SharedArrays, (self._spec, self._count, self._memory)


class HasParameters(Protocol):
    """A network, or a stand-in that holds its parameters only."""

    def parameters(self) -> Iterable[Tensor]:
        """The parameters, always in the same order."""


def split_parameters(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Views of `flat`, which holds the parameters of these shapes one after the other."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class SharedWeights:
    """The learner's weights for the actors: two copies and a stamp.

    The writer fills the copy that is not current and then changes the stamp. A reader reads again if the stamp changed while it copied.
    So half-written weights are never used, and no process waits for a lock that a killed process may hold.

    Args:
        shapes: Shape of every parameter, in order.
        memory: That another process has allocated; None allocates it.

    Attributes:
        shapes: As given.
    """

    def __init__(self, shapes: Sequence[torch.Size], memory: SharedMemory | None = None) -> None:
        self.shapes = list(shapes)
        total = sum(shape.numel() for shape in self.shapes)
        self._memory = memory or SharedMemory(_ALIGNMENT + 2 * 4 * total)
        # Twice the version, plus the index of the current copy: versions may skip numbers, but the copies alternate.
        self._stamp = self._memory.bytes[:8].view(torch.int64)
        self._copies: Tensor = self._memory.bytes[_ALIGNMENT:].view(torch.float32).view(2, total)
        self._views = [split_parameters(copy, self.shapes) for copy in self._copies]

    @property
    def version(self) -> int:
        """Version of the current weights."""
        return int(self._stamp) // 2

    @torch.no_grad()
    def publish(self, network: HasParameters, version: int) -> None:
        """Makes the parameters of `network` the current weights, under the number `version`."""
        target = 1 - int(self._stamp) % 2
        parameters = [parameter.detach() for parameter in network.parameters()]
        if parameters[0].device.type == "cpu":
            torch._foreach_copy_(self._views[target], parameters)
        else:
            # One transfer from the device instead of one for each parameter.
            self._copies[target].copy_(torch.cat([parameter.flatten() for parameter in parameters]))
        self._stamp.fill_(2 * version + target)

    @torch.no_grad()
    def read(self, network: HasParameters) -> int:
        """Copies the current weights into `network` and returns their version."""
        parameters = [parameter.detach() for parameter in network.parameters()]
        device = parameters[0].device
        while True:
            stamp = int(self._stamp)
            views = self._views[stamp % 2]
            if device.type != "cpu":
                # One transfer to the device, which has read the whole copy when `to` returns.
                views = split_parameters(self._copies[stamp % 2].to(device), self.shapes)
            torch._foreach_copy_(parameters, views)
            if int(self._stamp) == stamp:
                return stamp // 2

    def __reduce__(self) -> Any:
        return SharedWeights, (self.shapes, self._memory)
