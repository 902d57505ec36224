"""What the terminal shows of a population: a line for each comparison, and below, on a terminal, where the members stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ablation.running import Progress, State


class PopulationDisplay:
    """Progress of a population, as a context manager.

    Args:
        total_frames: of each member.
        enabled: off shows lines only.
    """

    def __init__(self, total_frames: int, *, enabled: bool = True) -> None:
        self.console = Console()
        if not self.console.is_terminal:
            # A file has no width: nothing is wrapped or cut.
            self.console = Console(width=1000)
        self._total = total_frames
        self._live = Live(console=self.console, refresh_per_second=2) if enabled and self.console.is_terminal else None

    def __enter__(self) -> PopulationDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line as it is."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, progress: Mapping[str, Progress]) -> None:
        """Shows where the members stand."""
        if not self._live:
            return
        table = Table(box=None, padding=(0, 1, 0, 0))
        for name, now in progress.items():
            bar = ProgressBar(total=self._total, completed=now.frames, width=30)
            word = "" if now.state is State.FINISHED else str(now.state)
            table.add_row(name, bar, f"{now.frames:,}", word)
        self._live.update(table)

    def compared(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        """A line about a comparison, and one for each member that failed; `rows` are those of the history."""
        for name, row in zip(names, rows, strict=True):
            if row["failed"]:
                after = "it goes on as a copy" if row["copied"] else "it tries again"
                self.say(f"{name} failed: {row['failed']}: {after}")
        judged = [row for row in rows if row["fitness"] is not None]
        if not judged:
            most = max(row["episodes"] for row in rows)
            self.say(f"{rows[0]['frames']:,} frames: no member has ended enough episodes to be judged (at most {most})")
            return
        best = max(judged, key=lambda row: row["fitness"])
        self.say(
            f"{rows[0]['frames']:,} frames: best {best['measure']} {best['fitness']:.1f} ({names[best['member']]}), "
            f"{sum(row['copied'] for row in rows)} of {len(rows)} members copied another one"
        )
