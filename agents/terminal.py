"""Where programs write: lines of text, and below them, on a terminal, something that changes in place."""

from __future__ import annotations

import contextlib
import os
import sys
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live


class TextConsole(Console):
    """Standard output. What is written to it goes nowhere when its reader is gone, as with `| head`, and the program goes on."""

    def __init__(self) -> None:
        super().__init__()
        if not self.is_terminal:
            # A file has no width: nothing is wrapped or cut.
            self.width = 1000

    def say(self, text: str) -> None:
        """Whole lines, as they are: a path that is wrapped, or loses what looks like markup, cannot be copied."""
        # Where the output goes into a file on a full disk the program goes on, too.
        with contextlib.suppress(OSError):
            self.print(text, highlight=False, markup=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """rich would end the program."""
        self.quiet = True
        # Python tries once more at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def warn(text: str) -> None:
    """A line on stderr, where it stands apart from what a program prints."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


class Terminal:
    """Standard output with a live part, as a context manager; the live part is there inside.

    Args:
        live: whether there is a live part, if it is a terminal.
        refresh_per_second: of the live part.

    Attributes:
        console: for what is neither a line nor live.
    """

    def __init__(self, *, live: bool, refresh_per_second: float = 2) -> None:
        self.console = TextConsole()
        shown = live and self.console.is_terminal
        self._live = Live(console=self.console, refresh_per_second=refresh_per_second) if shown else None

    @property
    def is_live(self) -> bool:
        """Whether `show` shows anything."""
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line above the live part."""
        self.console.say(text)

    def show(self, live: RenderableType) -> None:
        """Puts this in place of the live part."""
        if self._live:
            self._live.update(live)
