"""Settings that each process of a run makes at its start: signals, compute threads, the memory allocator."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from types import FrameType

import psutil

from agents.cli.signals import SIGNALS, ignore_signals
from system.memory import resident_memory

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

SAVING_SECONDS = 30.0
"""Time after a signal in which the learner saves and ends its actors."""


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Blocks SIGNALS while the block starts a process; this process receives them when the block ends.

    The new process inherits the blocked mask until it calls `ignore_signals`. A signal to the whole process group would otherwise end it,
    or print a traceback, while it still imports.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # multiprocessing starts the tracker with the first process, and then unblocks SIGINT and SIGTERM.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_the_learner(*, patience: float = 0.0) -> None:
    """Ignores SIGNALS but SIGTERM: they reach the whole process group, and the learner decides when its processes end.

    Args:
        patience: Seconds from SIGTERM to the end of this process, so that the learner can save first. multiprocessing also sends SIGTERM
            to daemons when the learner exits.
    """
    ignore_signals()

    def end_later(number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(patience, os._exit, [1])
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, end_later if patience else signal.SIG_DFL)


def kill_with_descendants(pid: int, before: Callable[[], object] = lambda: None) -> None:
    """Kills a process and all its descendants. Calls `before` first, in which the process may end."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        process = psutil.Process(pid)
        # Listed before its end, after which they are no longer its children.
        descendants = process.children(recursive=True)
        before()
        for one in (*descendants, process):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def memory_row(processes: Mapping[str, int]) -> dict[str, float]:
    """`memory/learner` and `memory/<name>` of Runtime.processes for metrics.jsonl, in MiB, each with its descendants."""
    memory = resident_memory(processes.values())
    found = {name: memory[pid] for name, pid in processes.items() if pid in memory}
    return {f"memory/{name}": size for name, size in {"learner": memory[os.getpid()], **found}.items()}


def configure_process(threads: int) -> None:
    """Sets the number of compute threads, and lets glibc keep large blocks of freed memory.

    By default glibc maps and unmaps every large activation, and the page faults cost more than the convolutions: training is about twice
    as fast with this setting. Other C libraries are left alone.
    """
    # Imported here, because the fork server starts before torch is imported.
    import torch

    torch.set_num_threads(threads)
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**26)
