"""Shows the cells of a grid or population in the terminal: a table of variants x seeds, and plain lines for events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ablation.analysis.numbers import duration
from ablation.grid.grid import Cell
from ablation.grid.scheduler import CellStatus, State
from agents.cli.tables import FittedTable, Row
from agents.cli.terminal import Terminal
from system.words import count

_LINE_SECONDS = 60.0
"""Interval between two lines about running cells where there is no table."""

_ENDED = (State.FINISHED, State.FAILED)
_SHOWN = {
    State.WAITING: (".", "dim"),
    State.TRAINING: ("", "cyan"),
    State.EVALUATING: ("eval", "blue"),
    State.FINISHED: ("done", "green"),
    State.FAILED: ("failed", "bold red"),
}
"""Word and style in the table; a cell in training has its share of the frames instead of a word."""


class CellDisplay(Terminal):
    """Progress of cells, as a context manager.

    Args:
        enabled: False shows no table.
        pausing: Cells run several times, up to a pause each, as the members of a population do. No line is printed when one ends.
    """

    def __init__(self, cells: Sequence[Cell], *, enabled: bool = True, pausing: bool = False) -> None:
        super().__init__(live=enabled)
        self._cells, self._pausing = cells, pausing
        self._announced: set[str] = set()
        self._prints_lines = enabled and not self.is_live
        self._started = self._printed_at = time.monotonic()
        self._first_frames: int | None = None

    def update(self, status: Mapping[str, CellStatus]) -> None:
        """Shows the status of every cell, and prints one line for each cell that has ended."""
        is_first = self._first_frames is None
        if is_first:
            self._first_frames = sum(now.frames for now in status.values())
        for name, now in status.items():
            if now.state in _ENDED and name not in self._announced and not self._pausing:
                self._announced.add(name)
                how = f"{now.state} already" if is_first else str(now.state)
                why = f": {now.reason}" if now.reason else _measured(now)
                self.say(f"{name}: {how}{why} ({self._count(status)})")
        if self.is_live:
            self.show(_Cells(self._cells, status, self._summary(status), pausing=self._pausing))
        elif self._prints_lines and time.monotonic() - self._printed_at >= _LINE_SECONDS:
            self._printed_at = time.monotonic()
            running = [
                f"{cell.name} {_share(cell, now)}{_measured(now)}{_left(now)}"
                for cell in self._cells
                if (now := status[cell.name]).state is State.TRAINING
            ]
            self.say("; ".join([self._summary(status), *running]))

    def _count(self, status: Mapping[str, CellStatus]) -> str:
        """Counts announced cells, so that the lines of cells that end at the same time count up by one each."""
        return f"{len(self._announced)} of {len(status)}"

    def _summary(self, status: Mapping[str, CellStatus]) -> str:
        """Number of ended cells, elapsed time, and the remaining time at the average speed so far."""
        unfinished = [cell for cell in self._cells if self._pausing or status[cell.name].state not in _ENDED]
        left = sum(max(0, cell.train.total_frames - status[cell.name].frames) for cell in unfinished)
        trained = sum(now.frames for now in status.values()) - (self._first_frames or 0)
        elapsed = time.monotonic() - self._started
        rest = f", about {duration(elapsed * left / trained)} left" if trained and left else ""
        ended = "" if self._pausing else f"{len(self._announced)} of {count(len(status), 'run')}, "
        return f"{ended}{duration(elapsed)}{rest}"


class _Cells:
    """The live table: variants x seeds, with as much about each cell as the width holds, or the members of a population."""

    def __init__(self, cells: Sequence[Cell], status: Mapping[str, CellStatus], summary: str, *, pausing: bool) -> None:
        self._cells, self._status, self._summary, self._pausing = cells, dict(status), summary, pausing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = max(1, options.size.height - 2)
        if self._pausing:
            yield self._members(height)
        else:
            # With all about a cell, then without its time left, then without its score, and last a count of the cells.
            tables = [self._grid(detail, height) for detail in (2, 1, 0)]
            fitting = (number for number, table in enumerate(tables) if table.fits(options.max_width))
            number = next(fitting, len(tables))
            yield tables[number] if number < len(tables) else self._counts(height)
            measure = next((now.measure for now in self._status.values() if now.measure), "")
            if measure and number < 2:
                told = f"share of the frames, {measure} in training{', time left' if number == 0 else ''}"
                yield Text(told, style="dim", no_wrap=True, overflow="ellipsis")
        yield Text(self._summary, style="dim", no_wrap=True, overflow="ellipsis")

    def _grid(self, detail: int, height: int) -> FittedTable:
        seeds = list(dict.fromkeys(cell.seed for cell in self._cells))
        cells = {(cell.variant, cell.seed): cell for cell in self._cells}
        rows = [
            Row(variant, [self._cell(cells.get((variant, seed)), detail) for seed in seeds])
            for variant in dict.fromkeys(cell.variant for cell in self._cells)
        ]
        return FittedTable(["", *(f"seed {seed}" for seed in seeds)], rows, height=height)

    def _cell(self, cell: Cell | None, detail: int) -> Text:
        if cell is None:
            return Text("")
        now = self._status[cell.name]
        word, style = _SHOWN[now.state]
        value = f" {_number(now)}" if now.measure and now.state is not State.FAILED else ""
        left = f" {duration(now.seconds_left)}" if now.state is State.TRAINING and now.seconds_left >= 0 else ""
        return Text("".join([word or _share(cell, now), value, left][: detail + 1]), style=style)

    def _counts(self, height: int) -> FittedTable:
        rows = []
        for variant in dict.fromkeys(cell.variant for cell in self._cells):
            now = [self._status[cell.name].state for cell in self._cells if cell.variant == variant]
            rows.append(Row(variant, [f"{sum(state in _ENDED for state in now)} of {count(len(now), 'run')}"]))
        return FittedTable(["", "ended"], rows, height=height)

    def _members(self, height: int) -> FittedTable:
        measure = next((now.measure for now in self._status.values() if now.measure), "score")
        rows = []
        for cell in self._cells:
            now = self._status[cell.name]
            left = duration(now.seconds_left) if now.state is State.TRAINING and now.seconds_left >= 0 else ""
            state = Text(str(now.state), style=_SHOWN[now.state][1])
            rows.append(Row(cell.name, [f"{now.frames:,}", _number(now) if now.measure else "", left, state]))
        return FittedTable(["member", "frames", measure, "to comparison", "state"], rows, height=height)


def _share(cell: Cell, now: CellStatus) -> str:
    return f"{now.frames / cell.train.total_frames:.0%}"


def _number(now: CellStatus) -> str:
    return f"{now.value:.1f}" if now.measure == "score" else f"{now.value:.2f}"


def _measured(now: CellStatus) -> str:
    return f", {now.measure} {_number(now)}" if now.measure else ""


def _left(now: CellStatus) -> str:
    return f", {duration(now.seconds_left)} left" if now.seconds_left >= 0 else ""
