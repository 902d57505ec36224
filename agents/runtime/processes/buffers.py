"""Files and memory without a name that the learner shares with its processes: sets of arrays, and versioned weights.

Nothing is left behind however the processes end, and the size of /dev/shm, which is small in containers, does not matter.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from multiprocessing import reduction
from typing import Any

import torch
from torch import Tensor, nn

from agents.trajectory import Trajectory
from envs.shared_arrays import layout_size, map_arrays
from envs.spec import ArraySpec


class AnonymousFile:
    """A file of Linux's memfd_create. A child process gets its descriptor if the object is among the arguments of the process."""

    def __init__(self, inherited: Any = None) -> None:
        self.descriptor = os.memfd_create("mimpala") if inherited is None else inherited.detach()

    def text(self) -> str:
        """Everything that any process has written to it, without white space at the ends."""
        size = os.fstat(self.descriptor).st_size
        return os.pread(self.descriptor, size, 0).decode(errors="replace").strip()

    def __del__(self) -> None:
        os.close(self.descriptor)

    def __reduce__(self) -> Any:
        return AnonymousFile, (reduction.DupFd(self.descriptor),)


class SharedArrays:
    """`count` sets of zeroed arrays in shared memory; `arrays[i]` is a dict of tensors, such as a trajectory. A child process maps the same
    memory if the object is among its arguments.

    Args:
        spec: Of one set.
        file: Of another process; None makes a new one.
    """

    def __init__(self, spec: Mapping[str, ArraySpec], count: int = 1, file: AnonymousFile | None = None) -> None:
        self._spec, self._count = dict(spec), count
        size = layout_size(self._spec)
        if file is None:
            file = AnonymousFile()
            os.ftruncate(file.descriptor, size * count)
        self._file = file
        memory = memoryview(mmap.mmap(file.descriptor, size * count))
        self._sets: list[Trajectory] = []
        for number in range(count):
            arrays = map_arrays(self._spec, memory[number * size : (number + 1) * size])
            self._sets.append({key: torch.from_numpy(array) for key, array in arrays.items()})

    def __getitem__(self, number: int) -> Trajectory:
        return self._sets[number]

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> Any:
        return SharedArrays, (self._spec, self._count, self._file)


def _split(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Views of `flat`, which holds the parameters of these shapes one after the other."""
    parts = flat.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class SharedWeights:
    """The learner's weights for the actors: two copies and a stamp.

    The writer fills the copy that is not current and then changes the stamp. A reader reads again if the stamp changed while it copied.
    So half-written weights are never used, and no process waits for a lock that a killed process may hold.

    Args:
        shapes: Shape of every parameter, in order.
        arrays: Of another process; None allocates them.
    """

    def __init__(self, shapes: Sequence[torch.Size], arrays: SharedArrays | None = None) -> None:
        self.shapes = list(shapes)
        total = sum(shape.numel() for shape in self.shapes)
        self._arrays = arrays or SharedArrays(
            {"stamp": ArraySpec(shape=(), dtype="int64"), "copies": ArraySpec(shape=(2, total), dtype="float32")}
        )
        # Twice the version, plus the index of the current copy: versions may skip numbers, but the copies alternate.
        self._stamp = self._arrays[0]["stamp"]
        self._copies = self._arrays[0]["copies"]
        self._views = [_split(copy, self.shapes) for copy in self._copies]

    @property
    def version(self) -> int:
        """Version of the current weights."""
        return int(self._stamp) // 2

    @torch.no_grad()
    def publish(self, network: nn.Module, version: int) -> None:
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
    def read(self, network: nn.Module) -> int:
        """Copies the current weights into `network` and returns their version."""
        parameters = [parameter.detach() for parameter in network.parameters()]
        device = parameters[0].device
        while True:
            stamp = int(self._stamp)
            views = self._views[stamp % 2]
            if device.type != "cpu":
                # One transfer to the device, which has read the whole copy when `to` returns.
                views = _split(self._copies[stamp % 2].to(device), self.shapes)
            torch._foreach_copy_(parameters, views)
            if int(self._stamp) == stamp:
                return stamp // 2

    def __reduce__(self) -> Any:
        return SharedWeights, (self.shapes, self._arrays)
