"""Tables and lines that fit the width of the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from system.words import shorten_all

_GAP = 2
_LEAST_NAME = 16
"""Cells between columns, and those of a name below which a column is left out rather than the name shortened further."""

_BLANK = ("", "-")

LABEL_WIDTH = 9
"""Cells of the label of a fitted line."""


class Row(NamedTuple):
    """A name, its cells, and the style of both."""

    name: str
    cells: Sequence[Text | str]
    style: str = ""


class FittedTable:
    """A table without wrapped lines. Columns without content are left out.

    Names are shortened in the middle. Where that is not enough, the last columns are left out.

    Args:
        headings: Of the names and of each cell.
        totals: Rows at the end, which are always shown.
        title: A line above the table.
        height: Most lines of the table; then the last rows are left out, and a line counts them. 0 = no limit.

    Attributes:
        rows: Those that are shown, with the totals.
    """

    def __init__(
        self,
        headings: Sequence[str],
        rows: Sequence[Row],
        totals: Sequence[Row] = (),
        *,
        title: str = "",
        height: int = 0,
    ) -> None:
        self._headings, self._title = headings, title
        room = max(1, height - len(totals) - 2) if height else len(rows)
        # A line that counts one row takes the place of that row.
        self._left_out = len(rows) - room if len(rows) > room + 1 else 0
        shown = rows[: len(rows) - self._left_out]
        self.rows, self._num_totals = [*shown, *totals], len(totals)
        cells = list(zip(*(row.cells for row in self.rows), strict=True)) or [()] * (len(headings) - 1)
        self._columns = [
            number for number, column in enumerate(cells) if any(str(cell) not in _BLANK for cell in column)
        ]
        self._widths = [
            max(map(cell_len, map(str, (heading, *column))))
            for heading, column in zip(headings[1:], cells, strict=True)
        ]

    def fits(self, width: int) -> bool:
        """Whether the width holds all columns."""
        return len(self._fitting(width)) == len(self._columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = self._fitting(options.max_width)
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
        room = max(8, self._room(columns, options.max_width))
        # rich cuts a name of wide characters, which has more cells than letters.
        table.add_column(Text(self._headings[0]), no_wrap=True, max_width=room)
        for number in columns:
            table.add_column(Text(self._headings[number + 1]), justify="right", no_wrap=True)
        names = shorten_all([row.name for row in self.rows], room)
        for place, (name, row) in enumerate(zip(names, self.rows, strict=True)):
            if self._left_out and place == len(self.rows) - self._num_totals:
                table.add_row(f"… {self._left_out:,} more", style="dim")
            # Text, because a task's name may look like markup.
            table.add_row(Text(name), *(row.cells[number] for number in columns), style=row.style)
        if self._left_out and not self._num_totals:
            table.add_row(f"… {self._left_out:,} more", style="dim")
        if self._title:
            yield Text(f"\n{self._title}", style="italic")
        yield table

    def _room(self, columns: Sequence[int], width: int) -> int:
        """Cells that the columns leave to the names."""
        return width - sum(self._widths[number] + _GAP for number in columns)

    def _fitting(self, width: int) -> list[int]:
        columns = list(self._columns)
        longest = max((cell_len(text) for text in (self._headings[0], *(row.name for row in self.rows))), default=0)
        while len(columns) > 1 and self._room(columns, width) < min(longest, _LEAST_NAME):
            columns.pop()
        return columns


Columns = Sequence[tuple[str, str, str]]
"""Heading, key of a row, and format of its number or of both ends of its interval."""


def task_table(
    columns: Columns,
    rows: Mapping[str, Mapping[str, Any]],
    totals: Mapping[str, Mapping[str, Any]],
    *,
    title: str = "",
    height: int = 0,
    heading: str = "task",
) -> FittedTable:
    """One row per task, or per `heading`, then `totals` in bold. A key that a row lacks leaves its cell empty; None is shown as `-`."""
    listed, bold = (
        [
            Row(name, [_cell(row[key], form) if key in row else "" for _, key, form in columns], style)
            for name, row in named.items()
        ]
        for style, named in (("", rows), ("bold", totals))
    )
    return FittedTable([heading, *(column for column, _, _ in columns)], listed, bold, title=title, height=height)


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    return " to ".join(format(number, form) for number in (value if isinstance(value, list | tuple) else (value,)))


def fitted_line(label: str, parts: Sequence[str], width: int, gap: str = "  ") -> Text:
    """The label and as many of the parts, from the first one, as the width holds; the first one is cut if it is too long."""
    text = f"{label:<{LABEL_WIDTH}}{parts[0]}"
    for part in parts[1:]:
        if cell_len(text + gap + part) > width:
            break
        text += gap + part
    return Text(text, no_wrap=True, overflow="ellipsis")


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of the values, from the least to the largest, in at most `width` characters, each a mean of consecutive values."""
    parts = min(width, len(values))
    ends = [number * len(values) // parts for number in range(parts + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(ends)]
    low, high = min(means), max(means)
    # The sum of huge returns can be infinite.
    span = high - low if math.isfinite(high - low) else 0.0
    return "".join(_BARS[int((mean - low) / span * (len(_BARS) - 1) + 0.5) if span else 0] for mean in means)
