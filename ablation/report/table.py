"""A table of the report: numbers for a CSV file, and text for the page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from agents.cli.terminal import printable

Row: TypeAlias = Sequence[Any]


class Data(NamedTuple):
    """A CSV file; `name` without the suffix, every row as long as the header."""

    name: str
    header: Row
    rows: Sequence[Row]

    @property
    def csv(self) -> str:
        """The file's text: numbers with all digits, `inf` for never, an empty cell for a missing value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([[_csv_text(value) for value in row] for row in self.rows])
        return text.getvalue()


def _csv_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else printable(str(value))


class Table(NamedTuple):
    """A table: `data` has its numbers.

    Attributes:
        title: Empty if only the CSV file is written.
        head, rows: Text of the columns' names and of the cells; the first cell of a row is the row's name.
        numeric: Whether all cells but the first of a row are numbers.
    """

    data: Data
    title: str = ""
    head: Row = ()
    rows: Sequence[Row] = ()
    numeric: bool = True

    @property
    def is_shown(self) -> bool:
        """Whether the page has it: it has a title, a row, and a column beside the rows' names."""
        return bool(self.title and self.rows and len(self.head) > 1)


def pivot(
    corner: str,
    rows: Iterable[str],
    columns: Iterable[Any],
    cells: Mapping[tuple[str, Any], str],
    names: Mapping[Any, str] | None = None,
    missing: str = "",
) -> tuple[Row, list[Row]]:
    """Head and rows of a table of `cells` by row and column; `names` are those of the columns in the head."""
    head = (corner, *((names or {}).get(column, column) for column in columns))
    return head, [(row, *(cells.get((row, column), missing) for column in columns)) for row in rows]
