"""Memory that several processes share. It has no name in the file system, so that nothing is left behind however they end, and no
limit but the machine's own: a container's small /dev/shm does not matter.
"""

from __future__ import annotations

import mmap
import os
from multiprocessing import reduction
from typing import Any

import torch
from torch import Tensor


class SharedMemory:
    """`size` bytes, zero at first, behind the descriptor of an anonymous file, which processes pass on when this object is pickled.

    Attributes:
        bytes: uint8 [size], the same memory in every process.
    """

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size = size
        if descriptor is None:
            descriptor = os.memfd_create("mimpala")
            # Never of no bytes, which cannot be mapped.
            os.ftruncate(descriptor, max(1, size))
        self._descriptor = descriptor
        self.bytes: Tensor = torch.frombuffer(mmap.mmap(self._descriptor, max(1, size)), dtype=torch.uint8)[:size]

    def __del__(self) -> None:
        # The mapping stays until the last tensor in it is gone.
        os.close(self._descriptor)

    def __reduce__(self) -> Any:
        return _attach, (self.size, reduction.DupFd(self._descriptor))


def _attach(size: int, descriptor: Any) -> SharedMemory:
    return SharedMemory(size, descriptor.detach())
