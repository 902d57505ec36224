"""Waits for conditions and processes, and actions while a program runs in the test's own process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

PATIENCE = 240.0
"""Seconds after which a test stops to wait; far more than a busy machine needs."""

T = TypeVar("T")


def is_gone(pid: int) -> bool:
    """Whether the process has ended. A zombie has: in a container no init may reap orphans."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return True


def eventually(happened: Callable[[], object]) -> None:
    """Waits until `happened()` is true; fails after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.005)


def each(processes: Iterable[psutil.Process], ask: Callable[[psutil.Process], T]) -> Iterator[tuple[psutil.Process, T]]:
    """Yields each process with `ask(process)`; leaves out those that have ended meanwhile."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield process, ask(process)


@contextlib.contextmanager
def alongside(condition: Callable[[], object], then: Callable[[], object]) -> Iterator[None]:
    """Calls `then` as soon as `condition` holds, while the block runs a program in this process. If either fails, sends SIGINT to the
    program, which may wait without end, and raises the error.
    """
    left, failures = threading.Event(), list[BaseException]()

    def wait() -> None:
        try:
            eventually(lambda: left.is_set() or condition())
            if not left.is_set():
                then()
        except BaseException as error:
            failures.append(error)
            if not left.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        if failures:
            raise failures[0]
