"""How signals end a program, from its first import to its exit, and how a process ends with its parent. Imports nothing slow, because
programs import it before torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from types import FrameType
from typing import NoReturn

from system.descendants import end_all, supervise
from system.imports import without_collection

INTERRUPTED = 130
_PR_SET_PDEATHSIG = 1
"""The constant of Linux's prctl.h."""
SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)
"""Signals by which users, terminals and schedulers ask a program to end."""
_ONE_REQUEST_SECONDS = 1.0
"""Signals within this time are one request: `timeout` signals a program and its group, systemd sends SIGTERM and SIGHUP, and Linux sends
a parent-death signal for each thread of the parent."""

_CLEANUPS: list[Callable[[], object]] = []
"""See `cleaned_when_left`."""


def handle_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Sets `handler` for all SIGNALS except ignored ones, as under `nohup` or as a background job of a shell."""
    for number in SIGNALS:
        # None: a library has set a handler in C.
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Ignores SIGNALS, which may reach the whole process group: another process decides when this one ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # They were blocked while the process started (runtime's signals_blocked), and its own children would inherit that.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def leave_at_signals(code: int = INTERRUPTED) -> None:
    """Makes signals end the process at once, after the cleanups of `cleaned_when_left`. For times when there is nothing to save."""

    def leave(number: int, frame: FrameType | None) -> None:
        try:
            for cleanup in reversed(_CLEANUPS):
                cleanup()
        finally:
            os._exit(code)

    handle_signals(leave)


@contextlib.contextmanager
def cleaned_when_left(cleanup: Callable[[], object]) -> Iterator[None]:
    """Calls `cleanup` if a signal ends the process at once within the block (`leave_at_signals`), which runs no `finally`."""
    _CLEANUPS.append(cleanup)
    try:
        yield
    finally:
        _CLEANUPS.remove(cleanup)


def begin_program() -> None:
    """Prepares a program before its slow imports: signals end it, the garbage collector is off, and closed standard streams are opened on
    /dev/null.

    Otherwise the next file would get the descriptor of a closed stream (`>&-`), and the output of libraries would go into that file.
    """
    leave_at_signals()
    # It would search the modules of the imports that follow, which stay.
    gc.disable()
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _open_null(descriptor: int) -> None:
    """Opens /dev/null under this descriptor, which child processes inherit."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    os.set_inheritable(descriptor, True)


@contextlib.contextmanager
def slow_imports() -> Iterator[None]:
    """For imports inside functions: signals end the program at once, because an import may lose a KeyboardInterrupt, and the garbage
    collector is off (without_collection).
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    leave_at_signals()
    try:
        with without_collection():
            yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)


def raise_at_signals() -> None:
    """Makes signals raise KeyboardInterrupt."""
    handle_signals(signal.default_int_handler)


def end_with_the_parent(parent: int | None = None, number: int = signal.SIGKILL) -> None:
    """Lets the kernel send this process the signal `number` when its parent dies; SIGKILL ends it even inside an engine that never returns
    to Python. `parent` is its process id; None if multiprocessing has started this process.
    """
    known, now = multiprocessing.parent_process(), os.getppid()
    if known:
        # The parent of a forked process is the fork server, which itself ends with the program.
        parent = known.pid if forkserver.get_inherited_fds() is None else now
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if (parent is not None and os.getppid() != parent) or (known and not known.is_alive()):
        # The parent died before prctl took effect.
        os._exit(1)


def outlive_the_parent(seconds: float) -> None:
    """Undoes `end_with_the_parent`: this process may clean up for `seconds` after its parent's end, and then exits."""
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
    """Runs `main` and exits with its exit code, even if a signal comes afterwards or the output cannot be written. No process that `main`
    has started outlives this one.
    """
    gc.enable()
    supervise()
    code = main()
    leave_at_signals(code)
    end_all()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # At exit Python would flush again, and change the exit code.
            _open_null(stream.fileno())
    sys.exit(code)


class Interruption:
    """Handles signals during training: the first one requests an orderly end. A later SIGINT raises KeyboardInterrupt; other signals do
    not, because schedulers repeat them and end an impatient wait with SIGKILL.

    Attributes:
        wanted: Whether a signal came. The training loop reads it between updates.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._first = 0.0
        handle_signals(self._handle)

    def check(self) -> None:
        """Raises InterruptedWait if a signal came. Called by loops that wait: the handler itself may run between any two lines."""
        if self.wanted:
            raise InterruptedWait

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.wanted:
            self.wanted, self._first = True, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first >= _ONE_REQUEST_SECONDS:
            raise KeyboardInterrupt


class InterruptedWait(BaseException):
    """Raised by `Interruption.check`. Not an Exception, so that `except Exception` does not catch it."""
