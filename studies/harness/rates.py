"""The choice of learning rates by the validation data, and the table of the search.

`place` is a job's values on the axes other than the learning rate and the seed: rates are chosen for each place separately.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from studies.harness.jobs import Result

RATE, SEED = "learning_rate", "seed"
FIRST_TUNING_SEED = 1000
"""Distance of the first tuning seed from the first seed of a study, which has at most this many seeds."""

Place: TypeAlias = tuple[Any, ...]
Costs: TypeAlias = Mapping[Place, Mapping[float, float]]
"""By place and learning rate, the mean cost of the validation data."""


def place_of(axes: Sequence[str], values: Sequence[Any]) -> Place:
    """The place of a job with these values on the axes."""
    return tuple(value for key, value in zip(axes, values, strict=True) if key not in (RATE, SEED))


def compare_rates(
    axes: Sequence[str], results: Mapping[tuple[Any, ...], Result], validation: Callable[[Result], float]
) -> Costs:
    """The costs of all results, in the order of the configuration: jobs are in the opposite order."""
    found: dict[Place, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for values, result in reversed(list(results.items())):
        found[place_of(axes, values)][values[axes.index(RATE)]].append(validation(result))
    return {place: {rate: float(np.mean(costs)) for rate, costs in by_rate.items()} for place, by_rate in found.items()}


def best_rate(costs: Mapping[float, float]) -> float:
    """The learning rate with the lowest cost."""
    return min(costs, key=costs.__getitem__)


def search_table(axes: Sequence[str], costs: Costs) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: the cost by place and learning rate, the lowest one of each place in bold type."""
    rates = list(next(iter(costs.values())))
    rows = [
        (
            *(f"{value:,}" if isinstance(value, int) else f"`{value}`" for value in place),
            *(f"**{cost:.4g}**" if rate == best_rate(by_rate) else f"{cost:.4g}" for rate, cost in by_rate.items()),
        )
        for place, by_rate in costs.items()
    ]
    return (*place_of(axes, [key.replace("_", " ") for key in axes]), *(f"{rate:g}" for rate in rates)), rows


def describe_edges(costs: Costs) -> str:
    """A sentence on the places whose chosen rate is the lowest or highest of three or more; empty without one."""
    at_edge = [
        ", ".join(map(str, place))
        for place, by_rate in costs.items()
        if len(by_rate) > 2 and best_rate(by_rate) in (min(by_rate), max(by_rate))
    ]
    if not at_edge:
        return ""
    return f"The best learning rate is the lowest or highest that was tried, so another may be better, for: {'; '.join(at_edge)}."
