"""Files and memory without a name, which several processes share. Nothing is left behind however the processes end, and the size of
/dev/shm, which is small in containers, does not matter.
"""

from __future__ import annotations

import mmap
import os
from multiprocessing import reduction
from typing import Any

import torch
from torch import Tensor


class AnonymousFile:
    """A file of Linux's memfd_create. A child process gets its descriptor if the object is among the arguments of the process."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("mimpala") if descriptor is None else descriptor

    def text(self) -> str:
        """Everything that any process has written to it, without white space at the ends."""
        size = os.fstat(self.descriptor).st_size
        return os.pread(self.descriptor, size, 0).decode(errors="replace").strip()

    def __del__(self) -> None:
        os.close(self.descriptor)

    def __reduce__(self) -> Any:
        return _attach, (reduction.DupFd(self.descriptor),)


def _attach(descriptor: Any) -> AnonymousFile:
    return AnonymousFile(descriptor.detach())


class SharedMemory:
    """`size` zeroed bytes; a child process maps the same memory if the object is among its arguments.

    Attributes:
        bytes: uint8 [size].
    """

    def __init__(self, size: int, file: AnonymousFile | None = None) -> None:
        self.size = size
        # mmap refuses a size of 0.
        length = max(1, size)
        if file is None:
            file = AnonymousFile()
            os.ftruncate(file.descriptor, length)
        self._file = file
        self.bytes: Tensor = torch.frombuffer(mmap.mmap(file.descriptor, length), dtype=torch.uint8)[:size]

    def __reduce__(self) -> Any:
        return SharedMemory, (self.size, self._file)
