"""Settings that every process of a run makes for itself at its start."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess

import psutil
import torch

from agents.runtime.base import ActorError

# glibc's names for mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

_PATIENCE = 10.0
"""Seconds in which a process that was killed is gone, and the one in its place answers, on a busy machine."""


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


def copies() -> ForkServerContext:
    """Makes processes that are copies of one that has imported what actors need (agents/fork_server.py)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agents.fork_server"])
    return context


def prepare_copies() -> None:
    """Lets the process that others will be copies of begin to import, if it has not: it takes seconds, and they need not be waited for."""
    copies()
    with sigint_held_back():
        forkserver.ensure_running()


def start(process: ForkServerProcess) -> None:
    """Starts a process of `copies`.

    Raises:
        ActorError: the machine does not let it.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with sigint_held_back():
                process.start()
            return
        except (EOFError, OSError) as error:
            # The process that it should be a copy of was killed. There is another one as soon as the kernel has cleared it away.
            killed = isinstance(error, EOFError | ConnectionError | FileNotFoundError)
            if not killed or time.monotonic() > until:
                raise ActorError(f"{process.name} cannot be started: {str(error) or 'its fork server ends'}") from error
        time.sleep(0.01)


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
    memory = resident_memory(processes.values())
    found = {name: memory[pid] for name, pid in processes.items() if pid in memory}
    return {f"memory/{name}": size for name, size in {"learner": memory[os.getpid()], **found}.items()}


def resident_memory(processes: Iterable[int]) -> dict[int, float]:
    """MiB of resident memory of this process, and of those among `processes` that it has started, each with its descendants, by process
    id. Memory that processes share counts for each of them.
    """
    this = psutil.Process()
    memory = {this.pid: _resident(this)}
    wanted, root_of = set(processes), dict[int, int]()
    # Parents come before their children.
    for process in this.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            root = process.pid if process.pid in wanted else root_of.get(process.ppid())
            if root is not None:
                root_of[process.pid] = root
                memory[root] = memory.get(root, 0.0) + _resident(process)
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
