"""evaluation.json: means, intervals and scores of the played episodes, and where the file goes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.earlier_files import keep_earlier, settings_of
from agents.evaluation.episodes import Episode, Episodes, SavedAgent
from agents.evaluation.intervals import EXACT, METHOD, WEIGHT, Interval, Samples, interval
from agents.run.layout import holds_run
from agents.run.provenance import versions
from agents.storage.checkpoint import CHECKPOINTS, list_checkpoints
from conf.evaluate_schema import EvaluateConfig
from envs.scores import AGGREGATES, normalised, normalising_scores
from envs.spec import EnvSpec, Score
from envs.suites import held_out
from system.errors import InputError
from system.files import read_json, write_json

Played = Mapping[str, Sequence[Episode]]
"""The episodes of each task."""
Scores = Mapping[str, Score]
"""Reference scores of a suite by task, for all tasks or none."""


def mean(samples: Samples) -> float:
    """Mean of the samples' means, so that all tasks count the same."""
    return float(np.mean([sample.mean() for sample in samples]))


def return_range(returns: NDArray[np.float64], successes: NDArray[np.float64], score: Score | None = None) -> Interval:
    """The known lowest and highest return of a task's episodes: the observed range, extended by

    - 0 and 1, if every return equals the success;
    - 0, if all episodes have the same known success, because the other outcome was not observed;
    - the suite's reference scores, if all returns are equal.
    """
    if np.array_equal(returns, successes):
        return 0.0, 1.0
    ends = [float(returns.min()), float(returns.max())]
    if ends[0] == ends[1] and score:
        ends += [score.random, score.human]
    if is_known([successes]) and np.ptp(successes) == 0:
        ends.append(0.0)
    return min(ends), max(ends)


def return_ranges(played: Played, scores: Scores) -> list[Interval]:
    """The range of returns of each task."""
    found = zip(played, *outcomes(played), strict=True)
    return [return_range(returns, successes, scores.get(task)) for task, returns, successes in found]


def summary(played: Played, scores: Scores, weight: float = WEIGHT) -> dict[str, Any]:
    """mean, interval, success, success_interval. Success is None if the suite does not define it."""
    returns, successes = outcomes(played)
    known = is_known(successes)
    shares = [(0.0, 1.0)] * len(played)
    return {
        "mean": mean(returns),
        "interval": interval(returns, ranges=return_ranges(played, scores), weight=weight),
        "success": mean(successes) if known else None,
        "success_interval": interval(successes, ranges=shares, weight=weight) if known else None,
    }


def is_known(successes: Samples) -> bool:
    """Whether the suite defines success."""
    return all(np.isfinite(success).all() for success in successes)


def outcomes(played: Played) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Returns and successes of each task."""
    return (
        [np.array([episode.episode_return for episode in episodes]) for episodes in played.values()],
        [np.array([episode.success for episode in episodes]) for episodes in played.values()],
    )


def results(agent: SavedAgent, played: Mapping[str, Episodes]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The rows of evaluation.json for each task, and the aggregate row. `interrupted` episodes do not count.

    `seeds` are the episodes' positions in the seed tree (envs/seeding.py), in the order of `returns`. They are null for episodes that
    the engine did not seed (envpool seeds a slot's first episode only).
    """
    tasks = {
        task: {
            "episodes": len(episodes),
            "interrupted": episodes.interrupted,
            **summary({task: episodes}, agent.env.scores, EXACT),
            "length": float(np.mean([e.length for e in episodes])),
            "trained": task in agent.env.tasks,
            "seeds": [e.seed for e in episodes],
            "returns": [e.episode_return for e in episodes],
            "lengths": [e.length for e in episodes],
            "successes": [None if math.isnan(e.success) else e.success for e in episodes],
        }
        for task, episodes in played.items()
    }
    return tasks, {"tasks": len(tasks), **summary(played, agent.env.scores)}


def scores(spec: EnvSpec, played: Played) -> dict[str, Any]:
    """The section `scores` of evaluation.json: normalised scores (envs/scores.py); empty if the suite has no reference scores."""
    known = normalising_scores(spec)
    if not known:
        return {}
    rows, samples, ranges = {}, [], []
    for task, returns, ends in zip(played, outcomes(played)[0], return_ranges(played, known), strict=True):
        sample = normalised(returns, known[task])
        low, high = sorted(normalised(end, known[task]) for end in ends)
        samples.append(sample)
        ranges.append((low, high))
        rows[task] = {"score": mean([sample]), "interval": interval([sample], ranges=ranges[-1:], weight=EXACT)}
    means = np.array([sample.mean() for sample in samples])
    return {
        "tasks": rows,
        "aggregate": {
            name: {"score": float(over(means)), "interval": interval(samples, over=over, ranges=ranges)}
            for name, over in AGGREGATES.items()
        },
        "unit": "100 (return - random) / (human - random) of mean returns, or the same with the published minimum and maximum; "
        "mean_capped caps every task at 100 before the mean",
    }


def report(
    agent: SavedAgent, spec: EnvSpec, config: EvaluateConfig, slots: int, played: Mapping[str, Episodes]
) -> dict[str, Any]:
    """The content of evaluation.json. It holds no date, so equal evaluations give equal files."""
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
            "episodes": config.episodes,
            # Without contexts that training left out there is one group.
            **({"contexts": config.contexts} if held_out(agent.config.env) else {}),
            "slots": slots,
            **({"context_noise": agent.config.context.noise} if agent.config.context.noise else {}),
            "interval": METHOD,
            "versions": dict(versions()),
        },
    }


def results_folder(run: Path, checkpoint: Path) -> Path:
    """The folder for the results of a checkpoint: its run folder, or its parent folder if it belongs to no run."""
    owner = checkpoint.parent.parent
    if checkpoint.parent.name == CHECKPOINTS and (holds_run(owner) or owner == run):
        return owner
    return checkpoint.parent


def prepare_output(path: Path, *, given: bool) -> None:
    """Checks before the evaluation that its result can be written.

    Raises InputError if it cannot, if it is a checkpoint, or if the user has `given` a file that holds something other than an evaluation.
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
    if given and path.exists() and path.stat().st_size and settings_of(read_json(path)) is None:
        raise InputError(f"output={path} holds something that is no evaluation: give another output=.")


def write_report(path: Path, content: Mapping[str, Any]) -> Path | None:
    """Writes evaluation.json atomically. Returns the new path of an earlier one with other settings, or None."""
    earlier = keep_earlier(path, content)
    write_json(path, content)
    return earlier
