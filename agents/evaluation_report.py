"""What an evaluation found: intervals, evaluation.json, and the table on the terminal."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from agents.checkpoint import CHECKPOINTS, list_checkpoints
from agents.evaluation import Episode, Episodes, SavedAgent
from agents.files import finite_or_null, write_whole
from agents.run_folder import holds_run, versions
from conf.schema import EvaluateConfig
from envs.errors import InputError
from envs.scores import AGGREGATES, Aggregate, human_scores, normalised
from envs.spec import EnvSpec

CONFIDENCE, RESAMPLES = 0.95, 9_999
_BATCH_BYTES = 64 * 2**20

Samples = Sequence[NDArray[np.float64]]
Interval = tuple[float, float]
Played = Mapping[str, Sequence[Episode]]
"""The episodes of each task."""


def mean(samples: Samples) -> float:
    """Mean of the samples' means: every task counts the same, however many episodes it has."""
    return float(np.mean([sample.mean() for sample in samples]))


def interval(samples: Samples, minus: Samples = (), over: Aggregate = AGGREGATES["mean"]) -> Interval | None:
    """95% percentile bootstrap interval of `mean(samples)`, or of `mean(samples) - mean(minus)`.

    With another `over`, of what that makes of the samples' means. It is stratified: every sample is drawn anew within itself, and
    independently of all others.

    The same data give the same interval. Data without any spread give [m, m]; a sample of fewer than two says nothing of its spread
    and gives None.
    """
    data = (*samples, *minus)
    if min(map(len, data)) < 2:
        return None

    def statistic(*drawn: NDArray[np.float64], axis: int) -> Any:
        means = np.array([sample.mean(axis=axis) for sample in drawn])
        value = over(means[: len(samples)])
        return value - over(means[len(samples) :]) if minus else value

    if all(np.ptp(sample) == 0 for sample in data):
        value = float(statistic(*data, axis=0))
        return value, value
    # Imported here, because it takes a second.
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    found = bootstrap(
        data,
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, _BATCH_BYTES // (8 * sum(map(len, data)))),
        vectorized=True,
        paired=False,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def summary(samples: Samples, successes: Samples) -> dict[str, Any]:
    """mean, interval, success, success_interval. Success is None where the suite does not know it."""
    known = is_known(successes)
    return {
        "mean": mean(samples),
        "interval": interval(samples),
        "success": mean(successes) if known else None,
        "success_interval": interval(successes) if known else None,
    }


def is_known(successes: Samples) -> bool:
    """Whether the suite can tell a success."""
    return all(np.isfinite(success).all() for success in successes)


def outcomes(played: Played) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Returns and successes of each task."""
    return (
        [np.array([episode.episode_return for episode in episodes]) for episodes in played.values()],
        [np.array([episode.success for episode in episodes]) for episodes in played.values()],
    )


def results(agent: SavedAgent, played: Mapping[str, Episodes]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The rows of evaluation.json for each task, and the one for all of them. `interrupted` are episodes that do not count.

    `seeds` are the episodes' places in the seed tree (envs/seeding.py), one for each of `returns`; null where the engine takes a seed
    for a slot's first episode only and goes on by itself (envpool).
    """
    tasks = {
        task: {
            "episodes": len(episodes),
            "interrupted": episodes.interrupted,
            **summary(*outcomes({task: episodes})),
            "length": float(np.mean([e.length for e in episodes])),
            "trained": task in agent.env.tasks,
            "seeds": [e.seed for e in episodes],
            "returns": [e.episode_return for e in episodes],
            "lengths": [e.length for e in episodes],
            "successes": [None if math.isnan(e.success) else e.success for e in episodes],
        }
        for task, episodes in played.items()
    }
    return tasks, {"tasks": len(tasks), **summary(*outcomes(played))}


def scores(spec: EnvSpec, played: Played) -> dict[str, Any]:
    """The section `scores` of evaluation.json, human-normalised (envs/scores.py); empty where the suite's are unknown."""
    known = human_scores(spec)
    if not known:
        return {}
    samples = {task: normalised(sample, known[task]) for task, sample in zip(played, outcomes(played)[0], strict=True)}
    means = np.array([sample.mean() for sample in samples.values()])
    return {
        "tasks": {task: {"score": mean([sample]), "interval": interval([sample])} for task, sample in samples.items()},
        "aggregate": {
            name: {"score": float(over(means)), "interval": interval(list(samples.values()), over=over)}
            for name, over in AGGREGATES.items()
        },
        "unit": "100 (return - random) / (human - random) of mean returns; mean_capped caps every task at 100 before the mean",
    }


def report(
    agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig, slots: int, played: Mapping[str, Episodes]
) -> dict[str, Any]:
    """The content of evaluation.json. It holds no date: the same evaluation gives the same file."""
    tasks, aggregate = results(agent, played)
    return {
        "tasks": tasks,
        "aggregate": aggregate,
        "scores": scores(spec, played),
        "provenance": {
            "checkpoint": str(agent.path),
            "sha256": agent.sha256,
            "updates": agent.updates,
            "frames": agent.frames,
            "suite": spec.suite,
            "engine": spec.engine,
            "greedy": config.greedy,
            "seed": config.seed,
            "slots": slots,
            "interval": f"{CONFIDENCE:.0%} percentile bootstrap, {RESAMPLES} resamples, stratified by task in the aggregate",
            "versions": dict(versions()),
        },
    }


def table(content: Mapping[str, Any]) -> Table:
    """The content of evaluation.json for people."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    shown.add_column("task", overflow="fold")
    for name in ("episodes", "return", "95% interval", "success", "95% interval", "length"):
        shown.add_column(name, justify="right")
    for task, row in content["tasks"].items():
        # Text, because a task's name may look like markup.
        shown.add_row(Text(task), f"{row['episodes']:,}", *_cells(row), f"{row['length']:.1f}")
    total = content["aggregate"]
    shown.add_row(f"mean of {total['tasks']} tasks", "", *_cells(total), "", style="bold")
    return shown


def score_tables(content: Mapping[str, Any]) -> list[Table]:
    """The section `scores` of evaluation.json for people; nothing where it is empty."""
    section = content["scores"]
    if not section:
        return []
    shown = Table(box=None, padding=(0, 2, 0, 0), title="\nhuman-normalised scores", title_justify="left")
    shown.add_column("task", overflow="fold")
    for name in ("score", "95% interval"):
        shown.add_column(name, justify="right")
    for task, row in section["tasks"].items():
        shown.add_row(Text(task), *_score_cells(row))
    for name, label in (
        ("mean", "mean"),
        ("median", "median"),
        ("mean_capped", "mean, every task capped at 100 before"),
    ):
        shown.add_row(label, *_score_cells(section["aggregate"][name]), style="bold")
    return [shown]


def _score_cells(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['score']:.1f}",
        "-" if row["interval"] is None else "{:.1f} to {:.1f}".format(*row["interval"]),
    ]


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{row['mean']:.3f}",
        "-" if row["interval"] is None else "{:.3f} to {:.3f}".format(*row["interval"]),
        "-" if row["success"] is None else f"{row['success']:.1%}",
        "-" if row["success_interval"] is None else "{:.1%} to {:.1%}".format(*row["success_interval"]),
    ]


def home(run: Path, checkpoint: Path) -> Path:
    """The folder that the results of a checkpoint go to: its run's, or its own where it belongs to none."""
    owner = checkpoint.parent.parent
    if checkpoint.parent.name == CHECKPOINTS and (holds_run(owner) or owner == run):
        return owner
    return checkpoint.parent


def prepare_output(path: Path) -> None:
    """Makes sure that the result can be written, before hours are spent on it.

    Raises:
        InputError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK) and not path.is_dir()
    except OSError:
        writable = False
    if not writable:
        raise InputError(
            f"output={path} cannot be written: give another output=, a file in a folder that can be written."
        )
    if path in list_checkpoints(path.parent):
        raise InputError(f"output={path} is a checkpoint: give another output=.")


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Writes evaluation.json whole or not at all; what is not finite is null."""
    write_whole(path, json.dumps(finite_or_null(content), indent=2, allow_nan=False) + "\n")
