"""Tables in Markdown, and the estimates and texts in their cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ablation.analysis import numbers
from ablation.analysis.intervals import estimate, of_mean
from ablation.analysis.results import Estimate
from studies.harness.jobs import Result

NETWORK_HEAD = ("network", "parameters", "width", "learning rate")
"""Head of the columns that `network_columns` fills."""

Found = TypeVar("Found")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its first column names the rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over seeds with its 95% interval (ablation.analysis.intervals); no interval for equal values."""
    return estimate(of_mean(np.array(values, np.float64)))


def over_seeds_geometric(values: Sequence[float]) -> Estimate:
    """The geometric mean over seeds of positive values; the interval is computed on their logarithms."""
    return Estimate(*(None if part is None else math.exp(part) for part in over_seeds(np.log(values).tolist())))  # type: ignore[arg-type]


def excludes_zero(difference: Estimate) -> bool:
    """Whether there is an interval, and zero is outside of it."""
    low, high = difference.low, difference.high
    return low is not None and high is not None and not low <= 0 <= high


def significant(value: float, extra: int = 0) -> str:
    """Three digits: 0.0123, 4.56e-09."""
    return f"{value:.{3 + extra}g}"


def best_rates(
    config: Any, results: Mapping[tuple[str, float], Found], loss: Callable[[Found], float]
) -> dict[str, tuple[float, Found]]:
    """For each network, the learning rate whose result has the smallest loss, and that result."""
    return {
        network: min(((rate, results[network, rate]) for rate in config.learning_rates), key=lambda one: loss(one[1]))
        for network in config.networks
    }


def network_columns(network: str, result: Result, rate: float) -> tuple[str, ...]:
    """The cells under NETWORK_HEAD."""
    return f"`{network}`", numbers.count(result["parameters"]), str(result["width"]), f"{rate:g}"
