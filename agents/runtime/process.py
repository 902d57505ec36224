"""Settings that every process of a run makes for itself at its start."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker

import psutil
import torch

# glibc's names for mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@contextlib.contextmanager
def sigint_held_back() -> Iterator[None]:
    """Around the start of a process: it never gets SIGINT, not even while it imports, and this one gets it when the block is left.

    Ctrl-C reaches the whole process group, and a process that is still importing would answer with a traceback.
    """
    # multiprocessing starts it with the first process, and lets SIGINT through when it has.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_the_learner() -> None:
    """Ctrl-C reaches the whole process group; the learner decides when the other processes of a run end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def kill_with_descendants(pid: int) -> None:
    """Kills a process and all that it has started, and they in turn."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def memory_row(processes: Mapping[str, int]) -> dict[str, float]:
    """For metrics.jsonl: `memory/learner` and `memory/<name>` of processes by their ids (Runtime.processes), in MiB, each with all
    that it has started.
    """
    memory = resident_memory()
    found = {name: memory[pid] for name, pid in processes.items() if pid in memory}
    return {f"memory/{name}": size for name, size in {"learner": memory[os.getpid()], **found}.items()}


def resident_memory() -> dict[int, float]:
    """MiB of resident memory of this process and of each of its children, their descendants included, by process id."""
    this = psutil.Process()
    memory = {this.pid: _resident(this)}
    child_of: dict[int, int] = {}
    # Parents come before their children.
    for process in this.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = process.ppid()
            child_of[process.pid] = child = child_of.get(parent, process.pid)
            memory[child] = memory.get(child, 0.0) + _resident(process)
    return memory


def _resident(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def configure_process(threads: int) -> None:
    """Sets the number of compute threads, and keeps large blocks of memory from going back to the kernel.

    glibc maps and unmaps every large activation anew, and the page faults then cost more than the convolutions: training is about
    twice as fast with this. Other C libraries do without.
    """
    torch.set_num_threads(threads)
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**26)
