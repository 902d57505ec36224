"""Settings that every process of a run makes for itself at its start."""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from types import FrameType

import psutil
import torch

from agents.cli.signals import SIGNALS, ignore_signals
from agents.runtime.base import ActorError
from system import descendants
from system.memory import resident_memory

# glibc's names for mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

SAVING_SECONDS = 30.0
"""In which a learner that a signal has asked to end has saved and ended its actors."""

_PATIENCE = 10.0
"""Seconds in which a process that was killed is gone, and the one in its place answers, on a busy machine."""

_ENDING_SECONDS = 5.0
"""In which one knows of the end of a process that was killed."""

_LOOKS, _LOOK_SECONDS = 20, 0.5
"""How often, and in what distance, a fork server is found stopped before it is killed."""


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Around the start of a process, which calls `ignore_signals` once it can: none of SIGNALS gets through to it, not even while it
    imports, and this process gets them when the block is left.

    They may be sent to the whole process group, and a process that is still importing would end, or answer with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        # multiprocessing starts it with the first process, and lets SIGINT and SIGTERM through when it has.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def copies() -> ForkServerContext:
    """Makes processes that are copies of one that has imported what actors need (agents/setup/preload.py)."""
    # Before they are there, or they would be nobody's.
    descendants.own()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agents.setup.preload"])
    return context


def prepare_copies() -> None:
    """Lets the process that others will be copies of begin to import, if it has not: it takes seconds, and they need not be waited for."""
    copies()
    with _temporary_files_in(descendants.temporary_folder()):
        # Of the fork server's socket.
        util.get_temp_dir()
    with signals_held_back():
        forkserver.ensure_running()


@contextlib.contextmanager
def _temporary_files_in(folder: str | None) -> Iterator[None]:
    """None: where they usually are."""
    before, tempfile.tempdir = tempfile.tempdir, folder or tempfile.tempdir
    try:
        yield
    finally:
        tempfile.tempdir = before


def start(process: ForkServerProcess) -> None:
    """Starts a process of `copies`. Signals get through meanwhile: the fork server, which ignores them, may keep one waiting.

    Raises:
        ActorError: the machine does not let it.
    """
    until = math.inf
    while True:
        try:
            prepare_copies()
            with _not_stopped():
                process.start()
            return
        except (EOFError, OSError) as error:
            # The process that it should be a copy of was killed. There is another one as soon as the kernel has cleared it away.
            killed = isinstance(error, EOFError | ConnectionError | FileNotFoundError)
            # From the first failure on: one that is killed because it is stopped has been waited for as long before.
            until = min(until, time.monotonic() + _PATIENCE)
            if not killed or time.monotonic() > until:
                raise ActorError(f"{process.name} cannot be started: {str(error) or 'its fork server ends'}") from error
        time.sleep(0.01)


@contextlib.contextmanager
def _not_stopped() -> Iterator[None]:
    """Inside, a fork server that is found stopped (SIGSTOP) again and again is killed: it would be waited for for ever."""
    over = threading.Event()

    def watch() -> None:
        looks = 0
        while looks < _LOOKS:
            if over.wait(_LOOK_SECONDS):
                return
            # Looks and no seconds, which pass for a program that is stopped as a whole, too.
            looks = looks + 1 if _has_status(_fork_server(), psutil.STATUS_STOPPED) else 0
        _kill_fork_server()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _fork_server() -> int:
    """Its process id; 0 for none. multiprocessing has no other name for it."""
    return getattr(forkserver._forkserver, "_forkserver_pid", None) or 0


def _kill_fork_server() -> None:
    """Kills it, and with it its copies."""
    if pid := _fork_server():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _has_status(pid: int, status: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == status)
    return False


def kill(process: BaseProcess) -> None:
    """Kills a process of `copies` with all that it has started, and waits until one knows of its end.

    Not for ever: one that waits for a broken disk does not even die of this.
    """
    pid = process.pid
    if process.is_alive() and pid:
        kill_with_descendants(pid)
    process.join(_ENDING_SECONDS)
    if process.is_alive() and pid and _has_status(pid, psutil.STATUS_ZOMBIE):
        # It is dead. The fork server, which should have said so, is stopped.
        _kill_fork_server()
        process.join(_ENDING_SECONDS)


def leave_signals_to_the_learner(*, patience: float = 0.0) -> None:
    """Signals reach the whole process group; the learner decides when the other processes of a run end.

    Args:
        patience: seconds after SIGTERM that this process stays, so that the learner can save first. multiprocessing sends the signal, too,
            where a learner ends that has not ended the others.
    """
    ignore_signals()
    signal.signal(signal.SIGTERM, partial(_end_after, patience) if patience else signal.SIG_DFL)


def _end_after(patience: float, number: int, frame: FrameType | None) -> None:
    timer = threading.Timer(patience, os._exit, [1])
    timer.daemon = True
    timer.start()


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
