"""Statistics per task, and the log of a run: one line of metrics.jsonl per log step, which the trackers show as well."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from agents.run.trackers.tags import tags
from agents.run.trackers.tracker import Trackers
from agents.trajectory import Trajectory
from envs.scores import aggregate, normalised
from envs.spec import Score
from system.errors import InputError
from system.files import AppendedFile, parse_json, read_lines, write_whole

WINDOW = 100
"""Number of latest episodes per task over which returns, success and length are averaged."""

UPDATES_BETWEEN_SURGE_REPORTS = 100
"""Updates without a surge after which the next surge is reported."""


class Performance(NamedTuple):
    """The mean over tasks of the last WINDOW episodes, in the measure `success`, or `return` if success is unknown.

    `episodes` is the number of episodes of the task that has the fewest.
    """

    measure: str
    value: float
    episodes: int


@dataclass(slots=True)
class TaskStatistics:
    """Running statistics of one task, since the start of the run.

    Attributes:
        steps: Agent steps.
        episodes: Completed episodes.
        interrupted: Episodes that ended because their environment failed; not counted in `episodes`.
        updates: Updates whose batch held a step of this task.
        surges: Updates whose value targets were too large for PopArt's moments (Learner.surges).
        recent: (return, success or NaN, length in steps) of the last WINDOW episodes.
        updates_since_surge: Updates since the last surge.
    """

    steps: int = 0
    episodes: int = 0
    interrupted: int = 0
    updates: int = 0
    surges: int = 0
    recent: deque[tuple[float, float, int]] = field(default_factory=partial(deque, maxlen=WINDOW))
    updates_since_surge: int = UPDATES_BETWEEN_SURGE_REPORTS

    def mean(self, column: int) -> float:
        """Mean of a column of `recent`; NaN before the first episode, and for success if the suite does not report it."""
        return sum(row[column] for row in self.recent) / len(self.recent) if self.recent else math.nan

    def counts(self) -> dict[str, int]:
        """The counters that every log step and every checkpoint hold, but the steps."""
        return {key: getattr(self, key) for key in ("episodes", "interrupted", "updates", "surges")}


class Statistics:
    """Statistics of all tasks, named in the order of their ids. `scores` normalise the returns (`envs.scores.normalising_scores`)."""

    def __init__(self, tasks: tuple[str, ...], scores: Mapping[str, Score] = MappingProxyType({})) -> None:
        self.tasks = {task: TaskStatistics() for task in tasks}
        self._scores = scores

    def update(self, batch: Trajectory) -> None:
        """Counts the transitions and the ended episodes of a batch."""
        task = batch["task"][:-1].numpy()
        steps, interrupted = (
            np.bincount(task[batch[key].numpy()], minlength=len(self.tasks)).tolist() for key in ("mask", "interrupted")
        )
        values = list(self.tasks.values())
        for statistics, played, broken_off in zip(values, steps, interrupted, strict=True):
            statistics.steps += played
            statistics.interrupted += broken_off
        outcomes = [batch[key].numpy() for key in ("episode_return", "success", "episode_length")]
        ended = ~np.isnan(outcomes[0])
        for number, *outcome in zip(*(column[ended].tolist() for column in (task, *outcomes)), strict=True):
            values[number].episodes += 1
            values[number].recent.append(tuple(outcome))

    def steps(self) -> dict[int, int]:
        """Agent steps since the start of the run, by task id."""
        return dict(enumerate(task.steps for task in self.tasks.values()))

    def count_update(self, steps_by_task: Sequence[float], surges: Sequence[float]) -> list[str]:
        """Counts an update for each task that has valid steps in its batch, and the surges. Returns a sentence for each to report.

        `steps_by_task` and `surges` are those of the learner, [K].
        """
        sentences = []
        for (task, statistics), held, size in zip(self.tasks.items(), steps_by_task, surges, strict=True):
            statistics.updates += held > 0
            if size > 0 and statistics.updates_since_surge >= UPDATES_BETWEEN_SURGE_REPORTS:
                sentences.append(
                    f"task {task}: its value targets are suddenly {size:.3g} standard deviations large. PopArt keeps its scale and "
                    "adapts if it happens again. This is normal when large returns first appear; otherwise look for a wrong reward, or "
                    "bound rewards (learner.reward_transform, learner.reward_clip)."
                )
            statistics.surges += size > 0
            statistics.updates_since_surge = 0 if size > 0 else statistics.updates_since_surge + 1
        return sentences

    def summary(self, action_repeat: int) -> dict[str, dict[str, float]]:
        """By task: return, score, success and length (means of recent episodes), frames, episodes, interrupted, updates, surges.

        Values that are unknown or not finite are omitted.
        """
        result = {}
        for task, statistics in self.tasks.items():
            row = {
                "return": statistics.mean(0),
                "score": normalised(statistics.mean(0), self._scores[task]) if task in self._scores else math.nan,
                "success": statistics.mean(1),
                "length": statistics.mean(2),
                "frames": statistics.steps * action_repeat,
                **statistics.counts(),
            }
            result[task] = {key: value for key, value in row.items() if math.isfinite(value)}
        return result

    def reaches(self, thresholds: Mapping[str, float]) -> bool:
        """Whether the means over tasks of the last WINDOW episodes reach every threshold: of `success`, `return` or `score`.

        False without thresholds, while a task has fewer episodes, and if one of these is unknown.
        """
        if not thresholds or any(statistics.episodes < WINDOW for statistics in self.tasks.values()):
            return False
        summary = self.summary(1)
        means = mean_over_tasks(summary) | {"score": scores_of_suite(summary).get("mean", math.nan)}
        return all(means.get(measure, math.nan) >= least for measure, least in thresholds.items())

    def recent_performance(self) -> Performance | None:
        """The performance over the last WINDOW episodes; None until every task has one episode."""
        means = mean_over_tasks(self.summary(1))
        episodes = min(len(statistics.recent) for statistics in self.tasks.values())
        for measure in ("success", "return"):
            if measure in means:
                return Performance(measure, means[measure], episodes)
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            task: {"steps": s.steps, **s.counts(), "recent": [list(row) for row in s.recent]}
            for task, s in self.tasks.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for task, statistics in self.tasks.items():
            saved = state[task]
            statistics.steps, statistics.episodes = int(saved["steps"]), int(saved["episodes"])
            for key in ("updates", "surges", "interrupted"):
                # Checkpoints of earlier versions lack these counters.
                setattr(statistics, key, int(saved.get(key, 0)))
            statistics.recent = deque(((float(r), float(s), int(n)) for r, s, n in saved["recent"]), maxlen=WINDOW)


def mean_over_tasks(summary: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means over tasks of `return`, `success` and `length` of `Statistics.summary`; a key that any task lacks is omitted."""
    keys = [key for key in ("return", "success", "length") if all(key in row for row in summary.values())]
    return {key: sum(row[key] for row in summary.values()) / len(summary) for key in keys}


def scores_of_suite(summary: dict[str, dict[str, float]]) -> dict[str, float]:
    """`envs.scores.aggregate` of the scores of `Statistics.summary`; empty until every task has one."""
    scores = {task: row["score"] for task, row in summary.items() if "score" in row}
    return aggregate(scores) if scores and len(scores) == len(summary) else {}


class MetricsLog:
    """metrics.jsonl of a run folder, and the run's trackers. Raises InputError if the file cannot be written.

    Lines of a killed run after `updates`, those of the checkpoint from which the run continues, are dropped. The attribute `updates` is
    that of the last line; 0 before the first line.
    """

    def __init__(self, folder: Path, updates: int, trackers: Trackers) -> None:
        path = folder / "metrics.jsonl"
        self.updates = 0.0
        self.trackers = trackers
        try:
            if path.exists():
                kept = [line for line in read_lines(path) if _updates_of(line) <= updates]
                write_whole(path, "".join(line + "\n" for line in kept))
                self.updates = max(map(_updates_of, kept), default=0.0)
            self._file = AppendedFile(path)
        except OSError as error:
            raise InputError(f"run={folder} cannot be written ({error.strerror}): give another run=.") from error

    def write(self, row: dict[str, float], tasks: dict[str, dict[str, float]], limited_by: str) -> None:
        """One log step: `row` from Clock.row, `tasks` from Statistics.summary, `limited_by` the name of a bottleneck.Bottleneck.

        JSON has no NaN and no infinity, so such values are omitted. The trackers get the numbers only.
        A second row for the same number of updates is dropped: the end of a run may coincide with a log step.
        Raises OSError if the row could not be written; it is lost, and the files are unchanged.
        """
        if row["updates"] <= self.updates:
            return
        row = row | {f"tasks/{task}/{key}": value for task, values in tasks.items() for key, value in values.items()}
        row |= {f"mean/{key}": value for key, value in mean_over_tasks(tasks).items()}
        row |= {f"score/{key}": value for key, value in scores_of_suite(tasks).items()}
        row = {key: value for key, value in row.items() if math.isfinite(value)}
        self._file.write((json.dumps(row | {"limited_by": limited_by}, allow_nan=False) + "\n").encode())
        self.updates = row["updates"]
        self.trackers.log(int(row["frames"]), tags(row))

    def close(self) -> None:
        self._file.close()
        self.trackers.close()


def _updates_of(line: str) -> float:
    """The `updates` of a line; infinite for a truncated or foreign line."""
    try:
        return float(parse_json(line)["updates"])
    except (ValueError, KeyError, TypeError, ArithmeticError):
        return math.inf
