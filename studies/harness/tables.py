"""Tables in Markdown, and how the studies write numbers in them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ablation.analysis import numbers
from ablation.analysis.intervals import estimate, of_mean
from ablation.analysis.numbers import Write
from ablation.analysis.results import Estimate


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column names its rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over seeds with its 95% interval (ablation.analysis.intervals); no interval where the seeds do not differ."""
    return estimate(of_mean(np.array(values, np.float64)))


def over_seeds_geometric(values: Sequence[float]) -> Estimate:
    """The geometric mean over seeds, of what is above zero and differs by factors: the interval is made on the logarithms."""
    return Estimate(*(None if part is None else math.exp(part) for part in over_seeds(np.log(values).tolist())))  # type: ignore[arg-type]


def with_interval(values: Estimate, write: Write) -> str:
    """`value [low, high]`."""
    return numbers.estimate(values, write)


def significant(value: float, extra: int = 0) -> str:
    """Three digits: 0.0123, 4.56e-09."""
    return f"{value:.{3 + extra}g}"
