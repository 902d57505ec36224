"""Progress on the terminal: a banner, then a live table; without a terminal, plain lines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from agents.cli.tables import LABEL_WIDTH, FittedTable, fitted_line, sparkline, task_table
from agents.cli.terminal import Terminal
from agents.run.metrics import WINDOW, mean_over_tasks, scores_of_suite
from conf.command_line import command_of
from system.words import count

_PLAIN_SECONDS = 10.0
"""Seconds between two plain lines."""

_COLUMNS = (
    *(
        ("return", "return", ".3f"),
        ("score", "score", ".1f"),
        ("success", "success", ".1%"),
        ("length", "length", ".1f"),
    ),
    *((key, key, ",.0f") for key in ("episodes", "frames", "updates")),
)
"""Columns of the table: means over episodes, and counts."""

SCORES = (
    "normalised score: mean {mean:.1f}, median {median:.1f}, mean-capped {mean_capped:.1f} (every task capped at 100)"
)

_LONGEST_CURVE = 60


class Display(Terminal):
    """Progress of a training run of `total_frames`, as a context manager. Without `enabled` it shows the sentences of `say` only."""

    def __init__(self, total_frames: int, *, enabled: bool = True) -> None:
        super().__init__(live=enabled, refresh_per_second=4)
        self._enabled = enabled
        self._total = total_frames
        self._plain_at = 0.0
        self._limit = ""
        self._returns: list[float] = []
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
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name, value in rows.items():
            table.add_row(name, value)
        self.console.print(table, highlight=False, markup=False)

    def finish(self, arguments: str, figures: dict[str, Any]) -> None:
        """Shows the result, and the next command; `arguments` are the command-line arguments that name the run."""
        self.clear()
        how = {"signal": "interrupted and saved", "pause": "paused and saved"}.get(figures["ended_by"], "finished")
        self.say(
            f"{how}: {count(figures['frames'], 'frame')}, {count(figures['updates'], 'update')} in {_clock(figures['seconds'])}, "
            f"{figures['frames_per_second']:,.0f} frames/s"
        )
        title = f"means of the last {WINDOW} episodes, and totals"
        self.console.print(_table(figures["tasks"], title=title), "", highlight=False)
        if scores := scores_of_suite(figures["tasks"]):
            self.console.say(SCORES.format(**scores))
        self.console.say(figures["limited_by"])
        command = command_of("evaluate") if figures["finished"] else f"{command_of('train')} resume=true"
        self.console.verbatim(f"next: {command} {arguments}")

    def update(self, row: dict[str, float], tasks: dict[str, dict[str, float]], limit: str) -> None:
        """Shows a log step: `row` as in metrics.jsonl, `tasks` from Statistics.summary, `limit` the sentence of a Bottleneck."""
        if not self._enabled:
            return
        frames, speed = int(row["frames"]), row["frames_per_second"]
        left = max(0, self._total - frames) / speed if speed else math.inf
        if self.is_live:
            self._returns += [value for key, value in mean_over_tasks(tasks).items() if key == "return"]
            self._bar.update(
                self._task,
                completed=frames,
                frames=f"{frames:,} / {count(self._total, 'frame')}",
                eta=f"{_clock(left)} left",
            )
            self.show(_LogStep(self._bar, row, tasks, limit, tuple(self._returns)))
        elif time.monotonic() - self._plain_at >= _PLAIN_SECONDS or frames >= self._total:
            self._plain_at = time.monotonic()
            self.say(
                f"{frames:,}/{count(self._total, 'frame')}  {speed:,.0f}/s  lag {row['policy_lag_mean']:.1f}  {_clock(left)} left  "
                f"{_summary(tasks)}"
            )
            if limit != self._limit and frames < self._total:
                self._limit = limit
                self.say(limit)


class _LogStep:
    """The live part. Every line fits the width, and the lines the height. `returns` are the mean returns of all log steps so far."""

    def __init__(
        self,
        bar: RenderableType,
        row: Mapping[str, float],
        tasks: dict[str, dict[str, float]],
        limit: str,
        returns: Sequence[float],
    ) -> None:
        self._bar, self._row, self._tasks, self._limit, self._returns = bar, row, tasks, limit, returns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = list(self._lines(options.max_width, curve=not options.ascii_only))
        yield self._bar
        yield from (fitted_line(label, parts, options.max_width) for label, parts in lines)
        yield _table(self._tasks, height=max(1, options.size.height - len(lines) - 1))

    def _lines(self, width: int, *, curve: bool) -> Iterator[tuple[str, Sequence[str]]]:
        """Label and parts of each line."""
        row = self._row
        lag = f"lag {row['policy_lag_mean']:.1f} (max {row['policy_lag_max']:.0f})"
        losses = [
            f"{name} {row[f'loss/{key}']:.3f}"
            for name, key in (("loss", "total"), ("entropy", "entropy"))
            if f"loss/{key}" in row
        ]
        yield "speed", [f"{row['frames_per_second']:,.0f} frames/s", count(row["updates"], "update"), lag, *losses]
        shares = {key.removeprefix("time/"): f"{value:.0%}" for key, value in row.items() if key.startswith("time/")}
        yield "learner", [f"computing {shares['learner']}", f"waiting {shares['wait']}", f"disk {shares['disk']}"]
        yield (
            "actors",
            [f"environment {shares['env']}", f"inference {shares['inference']}", f"waiting {shares['actor_wait']}"],
        )
        memory = [f"{key.removeprefix('memory/')} {row[key]:,.0f} MiB" for key in row if key.startswith("memory/")]
        yield "memory", memory or ["unknown"]
        if row.get("restarts"):
            causes = [f"{key.removeprefix('restarts/')} {row[key]:,.0f}" for key in row if key.startswith("restarts/")]
            dropped = [count(row[f"{noun}s_dropped"], noun) for noun in ("unroll", "episode")]
            yield "restarts", [f"{row['restarts']:,.0f} ({', '.join(causes)})", f"dropped {' and '.join(dropped)}"]
        limit, _, advice = self._limit.removeprefix("limited by ").partition("; ")
        if advice and cell_len(f"{limit}; {advice}") + LABEL_WIDTH <= width:
            limit, advice = f"{limit}; {advice}", ""
        yield from ((label, [text]) for label, text in (("limit", limit), ("", advice)) if text)
        if scores := scores_of_suite(self._tasks):
            parts = ["mean {mean:.1f}", "median {median:.1f}", "mean of tasks capped at 100 {mean_capped:.1f}"]
            yield "score", [part.format(**scores) for part in parts]
        if self._returns:
            shown = f"{self._returns[-1]:.3f}"
            room = width - LABEL_WIDTH - len(shown) - 2
            yield (
                "return",
                [shown, *([sparkline(self._returns, min(_LONGEST_CURVE, room))] if curve and room > 0 else [])],
            )


def _table(tasks: dict[str, dict[str, float]], *, title: str = "", height: int = 0) -> FittedTable:
    unknown = dict.fromkeys(("return", "score", "success", "length"))
    means = mean_over_tasks(tasks)
    if scores := scores_of_suite(tasks):
        means["score"] = scores["mean"]
    totals = {"mean over tasks": unknown | means} if len(tasks) > 1 else {}
    rows = {task: unknown | values for task, values in tasks.items()}
    return task_table(_COLUMNS, rows, totals, title=title, height=height)


def _summary(tasks: dict[str, dict[str, float]]) -> str:
    """Mean return and success over the tasks in a few words."""
    means = mean_over_tasks(tasks)
    if "return" not in means:
        return f"{sum('return' in row for row in tasks.values())} of {count(len(tasks), 'task')} with an episode"
    success = f"  success {means['success']:.1%}" if "success" in means else ""
    return f"return {means['return']:.3f}{success}{f' (mean of {len(tasks)} tasks)' if len(tasks) > 1 else ''}"


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
