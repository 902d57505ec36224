"""The resident memory of processes and of the processes that they started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def resident_memory(processes: Iterable[int]) -> dict[int, float]:
    """MiB of resident memory of this process, and of those of `processes` that it started, by process id.

    Each includes its descendants. Processes that have ended are absent. Memory that processes share counts for each of them.
    """
    this = psutil.Process()
    memory = {this.pid: this.memory_info().rss / 2**20}
    wanted, root_of = set(processes), dict[int, int]()
    # Parents come before their children.
    for process in this.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            root = process.pid if process.pid in wanted else root_of.get(process.ppid())
            if root is not None:
                root_of[process.pid] = root
                memory[root] = memory.get(root, 0.0) + process.memory_info().rss / 2**20
    return memory
