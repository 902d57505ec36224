"""Normalised scores: the scaled mean return of a task. Random play has 0 and a human 100, or the published minimum 0 and maximum 100:

    score = 100 (return - random) / (human - random)

AGGREGATES summarise the tasks of a suite. `mean_capped` caps the score of every task at 100 *before* the mean, so that no task can
compensate for another. Scores are always of mean returns: capping single episodes would give another number.
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
    """The scores of the returns of one task, a number or an array."""
    return 100 * (returns - score.random) / (score.human - score.random)


def mean_capped(scores: NDArray[np.float64]) -> Any:
    """Mean over tasks of min(score, 100)."""
    return np.minimum(scores, 100).mean(axis=0)


AGGREGATES: dict[str, Aggregate] = {
    "mean": lambda scores: scores.mean(axis=0),
    "median": lambda scores: np.median(scores, axis=0),
    "mean_capped": mean_capped,
}


def normalising_scores(env: EnvSpec) -> Mapping[str, Score]:
    """`env.scores` if every task has a score whose reference is a human or a published maximum, else {}: aggregates need all tasks."""
    known = all(task in env.scores and env.scores[task].reference != "optimal" for task in env.tasks)
    return env.scores if known else {}


def aggregate(scores: Mapping[str, float]) -> dict[str, float]:
    """All AGGREGATES of the scores, which are given by task."""
    values = np.array(list(scores.values()), np.float64)
    return {name: float(function(values)) for name, function in AGGREGATES.items()}
