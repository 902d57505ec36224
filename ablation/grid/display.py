"""What the terminal shows of a grid: a table of variants x seeds that fills, plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ablation.analysis.numbers import duration
from ablation.grid.grid import Cell
from ablation.grid.scheduler import Progress, State
from agents.cli.terminal import Terminal

_ENDED = (State.FINISHED, State.FAILED)
_WORDS = {State.WAITING: ".", State.EVALUATING: "eval", State.FINISHED: "done", State.FAILED: "failed"}
_STYLES = {
    State.WAITING: "dim",
    State.TRAINING: "cyan",
    State.EVALUATING: "blue",
    State.FINISHED: "green",
    State.FAILED: "bold red",
}


class GridDisplay(Terminal):
    """Progress of a grid, as a context manager.

    Args:
        cells: of the grid.
        enabled: off prints nothing but how cells end.
    """

    def __init__(self, cells: Sequence[Cell], *, enabled: bool = True) -> None:
        super().__init__(live=enabled)
        self._cells = cells
        self._told: set[str] = set()
        self._began = time.monotonic()
        self._first_frames: int | None = None

    def update(self, progress: Mapping[str, Progress]) -> None:
        """Shows where the cells stand; every cell gets one line, once it has ended."""
        already = self._first_frames is None
        if already:
            self._first_frames = sum(now.frames for now in progress.values())
        for name, now in progress.items():
            if now.state in _ENDED and name not in self._told:
                self._told.add(name)
                how = f"{now.state} already" if already else str(now.state)
                self.say(f"{name}: {how}{f': {now.reason}' if now.reason else ''} ({self._counted(progress)})")
        if self.is_live:
            self.show(Group(self._table(progress), self._line(progress)))

    def _counted(self, progress: Mapping[str, Progress]) -> str:
        """Of the runs that have got their line: where several end at once, each line counts one more than the one before."""
        return f"{len(self._told)} of {len(progress)}"

    def _table(self, progress: Mapping[str, Progress]) -> RenderableType:
        seeds = list(dict.fromkeys(cell.seed for cell in self._cells))
        table = Table(box=None, padding=(0, 1, 0, 0))
        table.add_column("")
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right", min_width=6)
        cells = {(cell.variant, cell.seed): cell for cell in self._cells}
        for variant in dict.fromkeys(cell.variant for cell in self._cells):
            row = [self._cell(cells.get((variant, seed)), progress) for seed in seeds]
            table.add_row(Text(variant), *row)
        return table

    def _cell(self, cell: Cell | None, progress: Mapping[str, Progress]) -> Text:
        if cell is None:
            return Text("")
        now = progress[cell.name]
        share = f"{now.frames / cell.train.total_frames:.0%}"
        return Text(_WORDS.get(now.state, share), style=_STYLES[now.state])

    def _line(self, progress: Mapping[str, Progress]) -> Text:
        """How much is done, and how long the rest takes at the pace so far."""
        open_cells = [cell for cell in self._cells if progress[cell.name].state not in _ENDED]
        left = sum(max(0, cell.train.total_frames - progress[cell.name].frames) for cell in open_cells)
        played = sum(now.frames for now in progress.values()) - (self._first_frames or 0)
        spent = time.monotonic() - self._began
        rest = f", about {duration(spent * left / played)} left" if played and left else ""
        return Text(f"{self._counted(progress)} runs, {duration(spent)}{rest}", style="dim")
