"""Memory that the learner and its actors share: trajectories by number, and versioned weights.

One large segment each. The segments have no name in the file system once they are mapped (torch unlinks them at once), so that
nothing is left behind however the processes end.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.trajectory import Trajectory, num_bytes
from envs.errors import InputError
from envs.spec import ArraySpec

_ALIGNMENT = 64


class TrajectoryBuffers:
    """`count` trajectories in one shared segment; `buffers[i]` is a dict of tensors that share its memory."""

    def __init__(self, spec: Mapping[str, ArraySpec], count: int, memory: Tensor | None = None) -> None:
        self.spec = dict(spec)
        self.count = count
        offsets, size = {}, 0
        for key, array in self.spec.items():
            offsets[key] = size
            size += -(-num_bytes({key: array}) // _ALIGNMENT) * _ALIGNMENT
        if memory is None:
            check_shared_memory(size * count)
            memory = torch.zeros(size * count, dtype=torch.uint8).share_memory_()
        self._memory = memory
        self._views: list[Trajectory] = []
        flat = memory.numpy()
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


class SharedWeights:
    """The learner's weights for the actors: two copies and a stamp.

    The writer fills the copy that is not current and only then changes the stamp. A reader that finds the stamp changed after its
    copy reads again, so half-written weights are never used, and neither side waits for a lock that a killed process may hold.

    Args:
        shapes: shape of every parameter, in order.
        memory, stamp: of another process's object, to share; fresh ones by default.
    """

    def __init__(self, shapes: Sequence[torch.Size], memory: Tensor | None = None, stamp: Tensor | None = None) -> None:
        self._shapes = list(shapes)
        sizes = [shape.numel() for shape in self._shapes]
        if memory is None:
            check_shared_memory(2 * 4 * sum(sizes))
            memory = torch.zeros(2, sum(sizes)).share_memory_()
        # Twice the version, plus the number of the current copy: versions may skip numbers, copies may not.
        self._stamp = torch.zeros(1, dtype=torch.int64).share_memory_() if stamp is None else stamp
        self._memory = memory
        self._views = [
            [part.view(shape) for part, shape in zip(copy.split(sizes), self._shapes, strict=True)] for copy in memory
        ]

    @property
    def version(self) -> int:
        """Version of the current weights."""
        return int(self._stamp) // 2

    @torch.no_grad()
    def publish(self, network: nn.Module, version: int) -> None:
        """Makes the parameters of `network` the current weights, under the number `version`."""
        target = 1 - int(self._stamp) % 2
        torch._foreach_copy_(self._views[target], [parameter.detach() for parameter in network.parameters()])
        self._stamp.fill_(2 * version + target)

    @torch.no_grad()
    def read(self, network: nn.Module) -> int:
        """Copies the current weights into `network` and returns their version."""
        parameters = [parameter.detach() for parameter in network.parameters()]
        while True:
            stamp = int(self._stamp)
            torch._foreach_copy_(parameters, self._views[stamp % 2])
            if int(self._stamp) == stamp:
                return stamp // 2

    def __reduce__(self) -> Any:
        return SharedWeights, (self._shapes, self._memory, self._stamp)


def check_shared_memory(size: int, path: str = "/dev/shm") -> None:
    """Refuses what does not fit into shared memory: writing past its end would kill the process without a word.

    Raises:
        InputError: `size` bytes are not free.
    """
    if not os.path.isdir(path):
        return
    stats = os.statvfs(path)
    free = stats.f_bavail * stats.f_frsize
    if size > free:
        raise InputError(
            f"runtime=local needs {size / 2**20:.0f} MiB of shared memory and {path} has {free / 2**20:.0f} MiB free: lower "
            "runtime.slots_per_actor, runtime.num_actors or learner.unroll_length, or give a container a larger --shm-size."
        )
