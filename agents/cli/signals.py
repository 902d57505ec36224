"""Ctrl-C, SIGTERM and the like as an orderly end, from a program's first import to its exit, and the end of a process with its parent.
Imports nothing that takes time.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import forkserver
from types import FrameType
from typing import NoReturn

from system.descendants import end_all, supervise

INTERRUPTED = 130
_PR_SET_PDEATHSIG = 1
"""Linux's prctl.h."""
SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
"""By which users, terminals and schedulers ask a program to end."""


def handle_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """From now on SIGNALS call `handler`, but for those that the process ignores: as under `nohup`, or from a shell's background."""
    for number in SIGNALS:
        # None: handled by a library, in C.
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)


def ignore_signals() -> None:
    """From now on SIGNALS do nothing: they may reach the whole process group, and another process decides when this one ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # They were held back while it started. Programs that it starts would inherit that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def leave_at_signals(code: int = INTERRUPTED) -> None:
    """From now on a signal ends the process at once, because there is nothing to save yet, or any more."""
    handle_signals(lambda number, frame: os._exit(code))


def begin_program() -> None:
    """What every program does before its other imports, which take seconds: a signal ends it, and its standard streams are open.

    Where one was closed (`>&-`), the next file would be opened in its place, and what libraries print would go into that.
    """
    leave_at_signals()
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            if nowhere != number:
                os.close(nowhere)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def raise_at_signals() -> None:
    """From now on a signal raises KeyboardInterrupt."""
    handle_signals(signal.default_int_handler)


def end_with_the_parent(parent: int | None = None) -> None:
    """From now on the kernel kills this process when its parent is gone, even inside an engine that never returns to Python.

    Args:
        parent: its process id; None where multiprocessing knows it.
    """
    known, now = multiprocessing.parent_process(), os.getppid()
    if known:
        # A fork server is the parent of its copies, whoever has asked for them, and ends with that process.
        parent = known.pid if forkserver.get_inherited_fds() is None else now
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if (parent is not None and os.getppid() != parent) or (known and not known.is_alive()):
        # It ended before it could be asked to tell.
        os._exit(1)


def outlive_the_parent(seconds: float) -> None:
    """Undoes `end_with_the_parent`, for a process that has to put things in order when its parent is gone, and has so long for it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)
    parent = multiprocessing.parent_process()

    def end_after_it() -> None:
        if parent is not None:
            parent.join()
            time.sleep(seconds)
            os._exit(1)

    threading.Thread(target=end_after_it, daemon=True).start()


def run_program(main: Callable[[], int]) -> NoReturn:
    """Ends the process with the exit code of `main`, which neither a signal that comes after it changes nor that its output cannot be
    written. Nothing that `main` has started outlives the process, however that ends.
    """
    supervise()
    code = main()
    leave_at_signals(code)
    end_all()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # Python would try once more, and have an exit code of its own.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    sys.exit(code)


class Interruption:
    """Remembers that the user wants the run to end: the first signal asks, the second insists.

    Attributes:
        wanted: whether a signal came. The training loop looks at it between updates; a second signal raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.wanted = False
        handle_signals(self._handle)

    def check(self) -> None:
        """For whoever waits, between two looks. A signal itself ends no wait, for it may come between any two lines.

        Raises:
            InterruptedWait: a signal came.
        """
        if self.wanted:
            raise InterruptedWait

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True


class InterruptedWait(BaseException):
    """Not an Exception, so that nothing on the way swallows it."""
