"""Output of programs: lines of text and, on a terminal, a live part below them that changes in place."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
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
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def say(self, text: str) -> None:
        """Prints lines without wrapping or markup, so that a path in them can be copied."""
        self.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

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
        console: For output that is neither a line nor live.
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

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line above the live part."""
        self.console.say(text)

    def show(self, live: RenderableType) -> None:
        """Replaces the live part."""
        if self._live:
            self._live.update(live)


Columns = tuple[tuple[str, str, str], ...]
"""Heading, key of a row, and format of its number or of both ends of its interval."""


def task_table(
    columns: Columns, rows: Mapping[str, Mapping[str, Any]], totals: Mapping[str, Mapping[str, Any]], title: str = ""
) -> Table:
    """One row per task, then `totals` in bold. A key that a row lacks leaves its cell empty; None is shown as `-`."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"\n{title}" if title else None, title_justify="left")
    table.add_column("task", overflow="fold")
    for heading, _, _ in columns:
        table.add_column(heading, justify="right")
    for style, named_rows in (("", rows), ("bold", totals)):
        for name, row in named_rows.items():
            cells = [_cell(row[key], form) if key in row else "" for _, key, form in columns]
            # Text, because a task's name may look like markup.
            table.add_row(Text(name), *cells, style=style)
    return table


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    return " to ".join(format(number, form) for number in (value if isinstance(value, list | tuple) else (value,)))
