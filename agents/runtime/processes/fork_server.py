"""The fork server: a process that has imported what actors and inference servers need (agents/setup/preload.py). They are forked from
it, so each starts in a moment and shares its memory.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

import psutil

from agents.cli.signals import end_with_the_parent
from agents.runtime.base import ActorError
from agents.runtime.processes.process import (
    SAVING_SECONDS,
    configure_process,
    kill_with_descendants,
    leave_signals_to_the_learner,
    signals_blocked,
)
from envs.faults import signal_name
from system import descendants
from system.errors import ErrorReport
from system.python_paths import SAFE_PATH_OF_FORK_SERVER, child_environment

_PATIENCE = 10.0
"""Seconds that a new fork server may take to replace a killed one, on a busy machine."""

ENDING_SECONDS = 5.0
"""Time after which the end of a process that was killed, or whose pipe has ended, is no longer waited for."""

_LOOKS, _LOOK_SECONDS = 20, 0.5
"""A fork server is killed if it is found stopped at so many consecutive looks; seconds between two looks."""


def fork_server_context() -> ForkServerContext:
    """The multiprocessing context whose processes are forked from the fork server."""
    # Before the first process starts, because processes inherit their owner.
    descendants.own()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agents.setup.preload"])
    return context


def start_fork_server() -> None:
    """Starts the fork server if it does not run. Its imports take seconds; this function does not wait for them."""
    fork_server_context()
    before, tempfile.tempdir = tempfile.tempdir, descendants.temporary_folder() or tempfile.tempdir
    try:
        # multiprocessing chooses the folder of the fork server's socket here.
        util.get_temp_dir()
    finally:
        tempfile.tempdir = before
    with signals_blocked(), _own_packages_first():
        forkserver.ensure_running()


@contextlib.contextmanager
def _own_packages_first() -> Iterator[None]:
    """A Python process that starts in the block finds the project's packages before those of the working directory.

    The fork server is a `python -c`, which would search the working directory first. multiprocessing gives it neither the option -P nor
    sys.path. agents/setup/preload.py removes PYTHONSAFEPATH again, which is not meant for programs of environments.
    """
    before = dict(os.environ)
    os.environ.update({"PYTHONSAFEPATH": SAFE_PATH_OF_FORK_SERVER} | child_environment())
    try:
        yield
    finally:
        for name in ("PYTHONSAFEPATH", "PYTHONPATH"):
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def start_child(
    name: str, main: Callable[..., None], *arguments: Any, threads: int
) -> tuple[ForkServerProcess, Connection]:
    """Starts a process that runs `main(connection, *arguments)` with so many compute threads and this process's limit of open files.
    Returns it and our end of the connection.

    If `main` raises, the last message of the process is an ErrorReport.
    """
    context = fork_server_context()
    connection, theirs = context.Pipe()
    # The limit may have been raised (machine.allow_open_files) since the fork server started.
    open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = context.Process(
        target=_run_child, args=(main, threads, open_files, theirs, *arguments), name=name, daemon=True
    )
    start_process(process)
    # If this process kept its copy open, the connection would not end with the child.
    theirs.close()
    return process, connection


def _run_child(
    main: Callable[..., None], threads: int, open_files: tuple[int, int], connection: Connection, *arguments: Any
) -> None:
    end_with_the_parent()
    descendants.own()
    resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    leave_signals_to_the_learner(patience=SAVING_SECONDS)
    configure_process(threads)
    try:
        main(connection, *arguments)
    except Exception as error:
        # The parent may be gone.
        with contextlib.suppress(OSError):
            connection.send(ErrorReport.of(error))


def start_process(process: ForkServerProcess) -> None:
    """Starts a process of `fork_server_context`. Raises ActorError if the machine cannot start it.

    Signals are not blocked: a stopped fork server may delay the start, and a second Ctrl-C ends the wait.
    """
    until = math.inf
    while True:
        try:
            start_fork_server()
            with _killed_if_stopped(), hidden_main_module():
                process.start()
            return
        except (EOFError, OSError) as error:
            # The fork server was killed. multiprocessing starts another one as soon as the kernel has reaped it.
            killed = isinstance(error, EOFError | ConnectionError | FileNotFoundError)
            # Counts from the first failure: a stopped fork server has already been waited for before it was killed.
            until = min(until, time.monotonic() + _PATIENCE)
            if not killed or time.monotonic() > until:
                raise ActorError(f"{process.name} cannot be started: {str(error) or 'its fork server ends'}") from error
        time.sleep(0.01)


@contextlib.contextmanager
def hidden_main_module() -> Iterator[None]:
    """Keeps a process that starts inside the block from importing the main module of the program, which takes 0.3 s and is not used.

    A script without a main guard would begin its run again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _killed_if_stopped() -> Iterator[None]:
    """Kills the fork server if it stays stopped (SIGSTOP) inside the block, which would otherwise wait for it without end."""
    left = threading.Event()

    def watch() -> None:
        looks = 0
        while looks < _LOOKS:
            if left.wait(_LOOK_SECONDS):
                return
            # Counts looks and not seconds, which also pass while the whole program is stopped.
            looks = looks + 1 if _has_status(_fork_server_pid(), psutil.STATUS_STOPPED) else 0
        _kill_fork_server()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        left.set()
        watching.join()


def _fork_server_pid() -> int:
    """Process id; 0 if it does not run. multiprocessing has no public name for it."""
    return getattr(forkserver._forkserver, "_forkserver_pid", None) or 0


def _kill_fork_server() -> None:
    """Kills it; the processes that it has forked end with it."""
    if pid := _fork_server_pid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _has_status(pid: int, status: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == status)
    return False


def kill(process: BaseProcess) -> None:
    """Kills a process of `fork_server_context` with its descendants, and waits for its end.

    The wait is limited: a process in an uninterruptible system call, as on a broken disk, survives SIGKILL.
    """
    pid = process.pid
    if process.is_alive() and pid:
        kill_with_descendants(pid)
    process.join(ENDING_SECONDS)
    if process.is_alive() and pid and _has_status(pid, psutil.STATUS_ZOMBIE):
        # It is dead, but the fork server, which reports its end, is stopped.
        _kill_fork_server()
        process.join(ENDING_SECONDS)


def ending(process: BaseProcess) -> tuple[str, str]:
    """Cause (envs.faults.CAUSES) and description of the end of a process whose pipe has ended."""
    process.join(ENDING_SECONDS)
    code = process.exitcode
    if code is None:
        return "exited", "it closed its pipe and was still running"
    return ("killed", signal_name(-code)) if code < 0 else ("exited", f"exit code {code}")
