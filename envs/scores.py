"""Human-normalised scores: a task's mean return on the scale on which random play is 0 and a human 100.

    score = 100 (return - random) / (human - random)

A suite is summed up by AGGREGATES over its tasks, of which `mean_capped` caps every task's score at 100 *before* the mean is
taken, so that no task can make up for another. Always of mean returns: capping single episodes would give another number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from envs.spec import EnvSpec, Score

Aggregate: TypeAlias = Callable[[NDArray[np.float64]], Any]
"""Scores [tasks, ...] -> [...]."""


def normalised(returns: Any, score: Score) -> Any:
    """The scores of returns of one task, a number or an array."""
    return 100 * (returns - score.random) / (score.human - score.random)


def mean_capped(scores: NDArray[np.float64]) -> Any:
    """Mean over tasks of min(score, 100)."""
    return np.minimum(scores, 100).mean(axis=0)


AGGREGATES: dict[str, Aggregate] = {
    "mean": lambda scores: scores.mean(axis=0),
    "median": lambda scores: np.median(scores, axis=0),
    "mean_capped": mean_capped,
}


def human_scores(env: EnvSpec) -> Mapping[str, Score]:
    """`env.scores` if every task has one and all of them are of humans, else none: a part of a suite has no score."""
    known = all(task in env.scores and env.scores[task].reference == "human" for task in env.tasks)
    return env.scores if known else {}


def aggregate(scores: Mapping[str, float]) -> dict[str, float]:
    """Every one of AGGREGATES of the scores by task."""
    values = np.array(list(scores.values()), np.float64)
    return {name: float(function(values)) for name, function in AGGREGATES.items()}
