"""Where programs write: lines of text, and below them, on a terminal, something that changes in place."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and newline, marks that turn the direction of writing, and halves of characters."""


def printable(text: str) -> str:
    """The text with escapes in place of what could command a terminal, or could not be encoded. Names in files may come from somebody
    else.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class TextConsole(Console):
    """Standard output. What cannot be written is lost, on a full disk or with a reader that is gone (`| head`), and the program goes on.

    Every text that is shown is `printable`, wherever it comes from.
    """

    def __init__(self) -> None:
        super().__init__()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # One that knows ASCII alone shall not end the program.
            sys.stdout.reconfigure(errors="backslashreplace")
        if not self.is_terminal:
            # A file has no width: nothing is wrapped or cut.
            self.width = 1000

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does."""
        with contextlib.suppress(OSError):
            super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, whose own control codes are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def say(self, text: str) -> None:
        """Whole lines, as they are: a path that is wrapped, or loses what looks like markup, cannot be copied."""
        self.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """rich would end the program."""
        self.quiet = True


def warn(*lines: str) -> None:
    """Lines on stderr, where they stand apart from what a program prints."""
    with contextlib.suppress(OSError):
        print(*map(printable, lines), sep="\n", file=sys.stderr)


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
