"""Progress on the terminal: a banner, then a live table; without a terminal, plain lines."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from agents.cli.terminal import Terminal, task_table
from agents.run.metrics import mean_over_tasks, scores_of_suite
from conf.command_line import command_of

_PLAIN_SECONDS = 10.0
"""Seconds between two plain lines."""

_MEANS = {"return": ".3f", "score": ".1f", "success": ".1%", "length": ".1f"}
_COUNTS = ("episodes", "frames", "updates")
"""Columns of the table: means over episodes with their formats, and counts."""

SCORES = (
    "normalised score: mean {mean:.1f}, median {median:.1f}, mean-capped {mean_capped:.1f} (every task capped at 100)"
)


class Display(Terminal):
    """Progress of a training run of `total_frames`, as a context manager. Without `enabled` it shows the sentences of `say` only."""

    def __init__(self, total_frames: int, *, enabled: bool = True) -> None:
        super().__init__(live=enabled, refresh_per_second=4)
        self._enabled = enabled
        self._total = total_frames
        self._plain_at = 0.0
        self._limit = ""
        self._bar = Progress(
            TextColumn("{task.fields[frames]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[eta]}"),
            console=self.console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total_frames, frames="starting", eta="")
        self.show(self._bar)

    def banner(self, title: str, rows: dict[str, str]) -> None:
        """Shows a title and a two-column summary of the run."""
        if not self._enabled:
            return
        self.say(title)
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 2))
        for name, value in rows.items():
            table.add_row(name, value)
        self.console.print(table, highlight=False)

    def finish(self, arguments: str, figures: dict[str, Any]) -> None:
        """Shows the result, and the next command; `arguments` are the command-line arguments that name the run."""
        how = {"signal": "interrupted and saved", "pause": "paused and saved"}.get(figures["ended_by"], "finished")
        success = " (success)" if any("success" in values for values in figures["tasks"].values()) else ""
        self.say(
            f"{how}: {figures['frames']:,} frames, {figures['updates']:,} updates in {_clock(figures['seconds'])}, "
            f"{figures['frames_per_second']:,.0f} frames/s; return{success} of the last episodes: {_returns(figures['tasks'], 3)}"
        )
        if scores := _scores(figures["tasks"]):
            self.say(scores)
        self.say(figures["limited_by"])
        command = command_of("evaluate") if figures["finished"] else f"{command_of('train')} resume=true"
        self.say(f"next: {command} {arguments}")

    def update(self, row: dict[str, float], tasks: dict[str, dict[str, float]], limit: str) -> None:
        """Shows a log step: `row` as in metrics.jsonl, `tasks` from Statistics.summary, `limit` the sentence of a Bottleneck."""
        if not self._enabled:
            return
        frames, speed = int(row["frames"]), row["frames_per_second"]
        left = max(0, self._total - frames) / speed if speed else math.inf
        if self.is_live:
            self._bar.update(
                self._task, completed=frames, frames=f"{frames:,} / {self._total:,} frames", eta=f"{_clock(left)} left"
            )
            parts = [self._bar, _line(row), _times(row), Text(_processes(row)), Text(limit), _table(tasks)]
            scores = _scores(tasks)
            self.show(Group(*parts, *([scores] if scores else [])))
        elif time.monotonic() - self._plain_at >= _PLAIN_SECONDS or frames >= self._total:
            self._plain_at = time.monotonic()
            self.say(
                f"{frames:,}/{self._total:,} frames  {speed:,.0f}/s  lag {row['policy_lag_mean']:.1f}  {_clock(left)} left  "
                f"{_returns(tasks, 2)}"
            )
            if limit != self._limit and frames < self._total:
                self._limit = limit
                self.say(limit)


def _returns(tasks: dict[str, dict[str, float]], digits: int) -> str:
    """Return, with `digits` decimals, and success of each task."""
    return "  ".join(
        f"{task} {values.get('return', math.nan):.{digits}f}"
        + (f" ({values['success']:.{digits - 2}%})" if "success" in values else "")
        for task, values in tasks.items()
    )


def _line(row: dict[str, float]) -> RenderableType:
    return (
        f"{row['frames_per_second']:,.0f} frames/s   {int(row['updates']):,} updates   policy lag {row['policy_lag_mean']:.1f} "
        f"(max {row['policy_lag_max']:.0f})   loss {row.get('loss/total', math.nan):.3f}   "
        f"entropy {row.get('loss/entropy', math.nan):.2f}"
    )


def _times(row: dict[str, float]) -> RenderableType:
    return (
        f"time: learner {row['time/learner']:.0%}, "
        f"waiting {row['time/wait']:.0%}, disk {row['time/disk']:.0%}; actors env {row['time/env']:.0%}, "
        f"inference {row['time/inference']:.0%}, waiting {row['time/actor_wait']:.0%}"
    )


def _processes(row: dict[str, float]) -> str:
    """Memory of the processes, and the number of restarts by cause."""
    names = [key for key in row if key.startswith("memory/")]
    memory = ", ".join(f"{name.removeprefix('memory/')} {row[name]:,.0f}" for name in names[:8])
    text = f"memory (MiB): {memory}{' ...' if len(names) > 8 else ''}"
    if row.get("restarts"):
        causes = ", ".join(f"{key[9:]} {row[key]:,.0f}" for key in row if key.startswith("restarts/"))
        dropped = f"{row['unrolls_dropped']:,.0f} unrolls and {row['episodes_dropped']:,.0f} episodes"
        text += f"   restarts: {row['restarts']:,.0f} ({causes}), {dropped} dropped"
    return text


def _table(tasks: dict[str, dict[str, float]]) -> Table:
    unknown = dict.fromkeys(_MEANS)
    columns = tuple((key, key, form) for key, form in (*_MEANS.items(), *((key, ",.0f") for key in _COUNTS)))
    means = {"mean over tasks": unknown | mean_over_tasks(tasks)} if len(tasks) > 1 else {}
    return task_table(columns, {task: unknown | values for task, values in tasks.items()}, means)


def _scores(tasks: dict[str, dict[str, float]]) -> str:
    """The scores of the suite in one line; empty if they are unknown."""
    scores = scores_of_suite(tasks)
    return SCORES.format(**scores) if scores else ""


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
