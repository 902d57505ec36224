"""What tests do with processes: their own, while a program runs in it, and those that others have started."""

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
"""Seconds after which what should have happened never will; far beyond what a busy machine takes."""

T = TypeVar("T")


def is_gone(pid: int) -> bool:
    """Ended; a child of a process that does not wait for it, and such are left to a lazy init, is as good as gone."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return True


def eventually(happened: Callable[[], object]) -> None:
    """Waits until something has happened."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.005)


def each(processes: Iterable[psutil.Process], ask: Callable[[psutil.Process], T]) -> Iterator[tuple[psutil.Process, T]]:
    """The processes with what is asked of them, but for those that have ended meanwhile."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield process, ask(process)


@contextlib.contextmanager
def alongside(condition: Callable[[], object], then: Callable[[], object]) -> Iterator[None]:
    """While the program inside runs in this process: does something as soon as a condition holds. Where that fails, a program that would
    wait for it for ever is interrupted, and the failure raised.
    """
    over, failures = threading.Event(), list[BaseException]()

    def wait() -> None:
        try:
            eventually(lambda: over.is_set() or condition())
            if not over.is_set():
                then()
        except BaseException as error:
            failures.append(error)
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if failures:
            raise failures[0]
