"""Output of programs: lines of text and, on a terminal, a live part below them that changes in place."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks of writing direction, and surrogates."""


def printable(text: str) -> str:
    """Escapes characters that control a terminal or cannot be encoded. Names in files may come from a stranger."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class TextConsole(Console):
    """Standard output, with `printable` text. On a full disk, or after the reader has gone (`| head`), output is lost and the program
    continues.
    """

    def __init__(self) -> None:
        super().__init__()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # An ASCII stream would raise UnicodeEncodeError.
            sys.stdout.reconfigure(errors="backslashreplace")
        if not self.is_terminal:
            # Lines in a file are neither wrapped nor cut.
            self.width = 1000

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's, but ignores errors of the stream."""
        with contextlib.suppress(OSError):
            super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's, with `printable` text; rich's own control codes stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(self._encodable(printable(segment.text)), segment.style)

    def say(self, text: str) -> None:
        """Prints lines of prose without markup. A terminal breaks them between words only, so that a path in them can be copied."""
        if self.is_terminal:
            lines = (
                textwrap.wrap(line, self.width, break_long_words=False, break_on_hyphens=False) or [""]
                for line in text.split("\n")
            )
            text = "\n".join(itertools.chain.from_iterable(lines))
        self.verbatim(text)

    def verbatim(self, text: str) -> None:
        """Prints lines as they are, such as a command to copy."""
        self.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def _encodable(self, text: str) -> str:
        """The text with an ellipsis as wide as rich's where the stream has no such character."""
        return text.replace("…", "~") if self.options.ascii_only else text

    def on_broken_pipe(self) -> None:
        """Keeps rich from ending the program."""
        self.quiet = True


def warn(*lines: str) -> None:
    """Prints lines on stderr."""
    with contextlib.suppress(OSError):
        print(*map(printable, lines), sep="\n", file=sys.stderr)


class Terminal:
    """Standard output with a live part while the context manager is entered, if `live` and standard output is a terminal.

    Attributes:
        console: For output that is neither an event nor live, such as results.
    """

    def __init__(self, *, live: bool, refresh_per_second: float = 2) -> None:
        self.console = TextConsole()
        shown = live and self.console.is_terminal
        self._live = (
            Live(console=self.console, refresh_per_second=refresh_per_second, transient=True) if shown else None
        )

    @property
    def is_live(self) -> bool:
        """Whether `show` shows anything."""
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Removes the live part for good. Results and the next command follow it."""
        if self._live:
            # A part that is higher than the terminal would leave lines behind.
            self._live.update(Text(""))
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints an event: a line above the live part, or without a terminal a line that begins with the time."""
        self.console.say(text if self.console.is_terminal else f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}")

    def show(self, live: RenderableType) -> None:
        """Replaces the live part."""
        if self._live:
            self._live.update(live)
