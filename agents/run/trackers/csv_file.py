"""metrics.csv: the metrics of a run as one table, a column for each tag."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from agents.run.trackers.tags import in_order
from agents.run.trackers.tracker import TrackedRun
from system.files import AppendedFile, open_ordinary, write_whole

_STEP = "frames"


class CsvFile:
    """metrics.csv in the run folder. A tag that no earlier row has adds a column, for which the file is written anew."""

    def __init__(self, run: TrackedRun) -> None:
        self._path = run.folder / "metrics.csv"
        rows = _read(self._path)
        self._columns = [*rows[0]] if rows else [_STEP]
        if run.frames is not None:
            rows = [row for row in rows if int(row[_STEP]) <= run.frames]
        write_whole(self._path, _lines(self._columns, rows, header=True))
        self._file = AppendedFile(self._path)

    def log(self, frames: int, values: Mapping[str, float]) -> None:
        if new := values.keys() - set(self._columns):
            columns = [_STEP, *in_order([*self._columns[1:], *(tag for tag in values if tag in new)])]
            write_whole(self._path, _lines(columns, _read(self._path), header=True))
            self._file.close()
            self._file, self._columns = AppendedFile(self._path), columns
        self._file.write(_lines(self._columns, [{_STEP: frames, **values}], header=False))

    def picture(self, frames: int, tag: str, png: Path) -> None:
        """A table shows no pictures."""

    def video(self, frames: int, tag: str, path: Path) -> None:
        """A table shows no videos."""

    def close(self) -> None:
        self._file.close()


def _read(path: Path) -> list[dict[str, str]]:
    """The complete rows; none without a file."""
    if not path.exists():
        return []
    with open(open_ordinary(path), encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row and None not in row.values() and row.get(_STEP, "").isdecimal()]


def _lines(columns: list[str], rows: Iterable[Mapping[str, object]], *, header: bool) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
