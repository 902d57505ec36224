"""What the learner and its actors share: trajectories by number, and versioned weights. One piece of memory each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from agents.runtime.processes.shared_memory import SharedMemory
from agents.trajectory import Trajectory, num_bytes
from envs.spec import ArraySpec

_ALIGNMENT = 64


class TrajectoryBuffers:
    """`count` trajectories in shared memory; `buffers[i]` is a dict of tensors that lie in it.

    Args:
        spec: of one trajectory.
        memory: of another process's object, to share; fresh memory by default.
    """

    def __init__(self, spec: Mapping[str, ArraySpec], count: int, memory: SharedMemory | None = None) -> None:
        self.spec = dict(spec)
        self.count = count
        offsets, size = {}, 0
        for key, array in self.spec.items():
            offsets[key] = size
            size += -(-num_bytes({key: array}) // _ALIGNMENT) * _ALIGNMENT
        self._memory = memory or SharedMemory(size * count)
        self._views: list[Trajectory] = []
        flat = self._memory.bytes.numpy()
        for number in range(count):
            views = {}
            for key, array in self.spec.items():
                begin = number * size + offsets[key]
                raw = flat[begin : begin + num_bytes({key: array})]
                views[key] = torch.from_numpy(raw.view(np.dtype(array.dtype)).reshape(array.shape))
            self._views.append(views)

    def __getitem__(self, number: int) -> Trajectory:
        return self._views[number]

    def __len__(self) -> int:
        return self.count

    def __reduce__(self) -> Any:
        return TrajectoryBuffers, (self.spec, self.count, self._memory)


class HasParameters(Protocol):
    """A network, as far as weights are concerned."""

    def parameters(self) -> Iterable[Tensor]:
        """In an order that never changes."""


class SharedWeights:
    """The learner's weights for the actors: two copies and a stamp.

    The writer fills the copy that is not current and only then changes the stamp. A reader that finds the stamp changed after its
    copy reads again, so half-written weights are never used, and neither side waits for a lock that a killed process may hold.

    Args:
        shapes: shape of every parameter, in order.
        memory: of another process's object, to share; fresh memory by default.

    Attributes:
        shapes: as given.
    """

    def __init__(self, shapes: Sequence[torch.Size], memory: SharedMemory | None = None) -> None:
        self.shapes = list(shapes)
        sizes = [shape.numel() for shape in self.shapes]
        self._memory = memory or SharedMemory(_ALIGNMENT + 2 * 4 * sum(sizes))
        # Twice the version, plus the number of the current copy: versions may skip numbers, copies may not.
        self._stamp = self._memory.bytes[:8].view(torch.int64)
        self._copies: Tensor = self._memory.bytes[_ALIGNMENT:].view(torch.float32).view(2, sum(sizes))
        self._views = [self._parts(copy) for copy in self._copies]

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
            # Joined on their device: one copy from there in place of one for each.
            self._copies[target].copy_(torch.cat([parameter.flatten() for parameter in parameters]))
        self._stamp.fill_(2 * version + target)

    @torch.no_grad()
    def read(self, network: HasParameters) -> int:
        """Copies the current weights into `network` and returns their version."""
        parameters = [parameter.detach() for parameter in network.parameters()]
        device = parameters[0].device
        while True:
            stamp = int(self._stamp)
            # To a device in one copy, too, which has read all of it when it returns.
            there = device.type == "cpu"
            views = self._views[stamp % 2] if there else self._parts(self._copies[stamp % 2].to(device))
            torch._foreach_copy_(parameters, views)
            if int(self._stamp) == stamp:
                return stamp // 2

    def _parts(self, copy: Tensor) -> list[Tensor]:
        """The parameters in one copy."""
        sizes = [shape.numel() for shape in self.shapes]
        return [part.view(shape) for part, shape in zip(copy.split(sizes), self.shapes, strict=True)]

    def __reduce__(self) -> Any:
        return SharedWeights, (self.shapes, self._memory)
