"""Ctrl-C and SIGTERM as an orderly end: the first asks, the second insists."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interruption:
    """Remembers that the user wants the run to end.

    Attributes:
        wanted: whether a signal came. The training loop looks at it between updates; a second signal raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._waiting = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    @contextlib.contextmanager
    def ends_waiting(self) -> Iterator[None]:
        """A signal inside this block leaves it at once: it is only waiting, and nothing is half done."""
        self._waiting = True
        try:
            yield
        except _Interrupted:
            pass
        finally:
            self._waiting = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        if self._waiting:
            raise _Interrupted


class _Interrupted(BaseException):
    """Not an Exception, so that nothing on the way swallows it."""
