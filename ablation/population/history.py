"""history.jsonl of a population: hyperparameters, comparisons and copies of every member, from which the population resumes.

Each line is one object. Generation 0 is the start, the others are comparisons; `hyperparameters` apply from there on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from system.errors import InputError
from system.files import MOST_BYTES, parse_json, read_bounded, write_whole
from system.plain_data import COUNT, FINITE, MEASURED, Test, check_form, plain_copy

HISTORY = "history.jsonl"

_MEMBER = Test("a member, or null", lambda value: value is None or COUNT.passes(value))
_POINTS = Test("a number, or null", lambda value: value is None or MEASURED.passes(value))
_ABOVE_ZERO = Test("a number above zero", lambda value: FINITE.passes(value) and value > 0)
_ROW = {
    "generation": COUNT,
    "frames": COUNT,
    "member": COUNT,
    "updates": COUNT,
    "fitness": _POINTS,
    "measure": str,
    "episodes": COUNT,
    "failed": str,
    "compared_with": _MEMBER,
    "copied": bool,
    "hyperparameters": {str: _ABOVE_ZERO},
}


class History:
    """The history in a folder: `rows` in the order of the file, in each generation one for every member. InputError if it is damaged."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / HISTORY
        self.rows: list[dict[str, Any]] = _read(self._path) if self._path.exists() else []

    @property
    def generation(self) -> int:
        """The last complete one; -1 before the start."""
        return max((row["generation"] for row in self.rows), default=-1)

    def of(self, member: int) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["member"] == member]

    def hyperparameters(self, member: int) -> dict[str, float]:
        return dict(self.of(member)[-1]["hyperparameters"])

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds a generation atomically. OSError if the file cannot be written."""
        written = [*self.rows, *rows]
        write_whole(self._path, "".join(json.dumps(row) + "\n" for row in written))
        self.rows = written


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = read_bounded(path, MOST_BYTES).splitlines()
        rows: list[dict[str, Any]] = plain_copy([parse_json(line) for line in lines], most=MOST_BYTES)
        for row in rows:
            check_form(row, _ROW)
        return rows
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged ({reason}): put back a copy, or give another folder=.") from error
