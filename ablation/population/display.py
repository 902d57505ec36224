"""What the terminal shows of a population: a line for each comparison, and below, on a terminal, where the members stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress_bar import ProgressBar
from rich.table import Table

from ablation.analysis.numbers import apart, three_digits
from ablation.grid.scheduler import Progress, State
from agents.cli.terminal import Terminal


class PopulationDisplay(Terminal):
    """Progress of a population, as a context manager.

    Args:
        total_frames: of each member.
        enabled: off shows lines only.
    """

    def __init__(self, total_frames: int, *, enabled: bool = True) -> None:
        super().__init__(live=enabled)
        self._total = total_frames

    def update(self, progress: Mapping[str, Progress]) -> None:
        """Shows where the members stand."""
        if not self.is_live:
            return
        table = Table(box=None, padding=(0, 1, 0, 0))
        for name, now in progress.items():
            bar = ProgressBar(total=self._total, completed=now.frames, width=30)
            word = "" if now.state is State.FINISHED else str(now.state)
            table.add_row(name, bar, f"{now.frames:,}", word)
        self.show(table)

    def compared(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        """A line about a comparison, and one for each member that failed; `rows` are those of the history."""
        for name, row in zip(names, rows, strict=True):
            if row["failed"]:
                after = (
                    "it continues as a copy of another member"
                    if row["copied"]
                    else "it continues from its last checkpoint"
                )
                self.say(f"{name} failed: {row['failed']}: {after}")
        judged = [row for row in rows if row["fitness"] is not None]
        if not judged:
            most = max(row["episodes"] for row in rows)
            self.say(
                f"{rows[0]['frames']:,} frames: no comparison, because no member has finished enough episodes (at most {most} each)"
            )
            return
        ends = [end(row["fitness"] for row in judged) for end in (min, max)]
        span = " to ".join(dict.fromkeys(apart(ends, three_digits)))
        known = "" if len(judged) == len(rows) else f" ({len(judged)} of {len(rows)} members)"
        copied = sum(row["copied"] for row in rows)
        self.say(
            f"{rows[0]['frames']:,} frames: {judged[0]['measure']} {span}{known}, {copied} of {len(rows)} members copied another member"
        )
