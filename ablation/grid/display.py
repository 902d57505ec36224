"""Shows the cells of a grid or population in the terminal: a table of variants x seeds, and plain lines for events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablation.analysis.numbers import duration
from ablation.grid.grid import Cell
from ablation.grid.scheduler import CellStatus, State
from agents.cli.terminal import Terminal

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
        self._started = time.monotonic()
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
                self.say(f"{name}: {how}{f': {now.reason}' if now.reason else ''} ({self._count(status)})")
        if self.is_live:
            self.show(Group(self._table(status), self._summary(status)))

    def _count(self, status: Mapping[str, CellStatus]) -> str:
        """Counts announced cells, so that the lines of cells that end at the same time count up by one each."""
        return f"{len(self._announced)} of {len(status)}"

    def _table(self, status: Mapping[str, CellStatus]) -> RenderableType:
        table = Table(box=None, padding=(0, 1, 0, 0))
        table.add_column("")
        if self._pausing:
            for cell in self._cells:
                table.add_row(cell.name, self._text(cell, status))
            return table
        seeds = list(dict.fromkeys(cell.seed for cell in self._cells))
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right", min_width=6)
        cells = {(cell.variant, cell.seed): cell for cell in self._cells}
        for variant in dict.fromkeys(cell.variant for cell in self._cells):
            table.add_row(Text(variant), *(self._text(cells.get((variant, seed)), status) for seed in seeds))
        return table

    def _text(self, cell: Cell | None, status: Mapping[str, CellStatus]) -> Text:
        if cell is None:
            return Text("")
        now = status[cell.name]
        text, style = _SHOWN[now.state]
        if self._pausing:
            text = f"{now.frames:,} frames{'' if now.state is State.FINISHED else f', {now.state}'}"
        return Text(text or f"{now.frames / cell.train.total_frames:.0%}", style=style)

    def _summary(self, status: Mapping[str, CellStatus]) -> Text:
        """Number of ended cells, elapsed time, and the remaining time at the average speed so far."""
        unfinished = [cell for cell in self._cells if self._pausing or status[cell.name].state not in _ENDED]
        left = sum(max(0, cell.train.total_frames - status[cell.name].frames) for cell in unfinished)
        trained = sum(now.frames for now in status.values()) - (self._first_frames or 0)
        elapsed = time.monotonic() - self._started
        rest = f", about {duration(elapsed * left / trained)} left" if trained and left else ""
        count = "" if self._pausing else f"{self._count(status)} runs, "
        return Text(f"{count}{duration(elapsed)}{rest}", style="dim")
