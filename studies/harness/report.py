"""The parts of a study's report: estimates over seeds, tables in Markdown, and panels of curves in the style of ablate.py's report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ablation.analysis import intervals, numbers
from ablation.analysis.results import Band, Estimate
from ablation.report.drawing import Panel
from ablation.report.panels import label_log_axis, lines
from studies.harness.jobs import Result
from system.words import count

NETWORK_HEAD = ("network", "parameters", "width", "learning rate")
"""Head of the columns that `network_columns` fills."""

Found = TypeVar("Found")

_SIZE = (3.4, 2.7)
_FEW = 8
"""Up to this many places, each gets a tick on the x axis."""

Scale = Literal["linear", "log"]
Curves = Sequence[Sequence[Estimate | None]]
"""By variant, its estimates along the x axis; None where there is no value."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its first column names the rows."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *rows])


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over seeds with its 95% interval (ablation.analysis.intervals); no interval for equal values."""
    return intervals.estimate(intervals.of_mean(np.array(values, np.float64)))


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


def chosen_rates(config: Any, results: Mapping[Any, Found], *first: object) -> dict[str, tuple[float, Found]]:
    """For each network, its learning rate and its result. Keys of `results` are `first`, the network and its only rate."""
    return {
        network: (rate, results[*first, network, rate])
        for network, rate in itertools.product(config.networks, config.learning_rates)
        if (*first, network, rate) in results
    }


def network_columns(network: str, result: Result, rate: float) -> tuple[str, ...]:
    """The cells under NETWORK_HEAD."""
    return f"`{network}`", numbers.count(result["parameters"]), str(result["width"]), f"{rate:g}"


def convergence(problem: str, fewer: int, gains: Mapping[str, Sequence[float]], little: float) -> str:
    """States which networks have converged: those with the whole interval of their gain below `little`.

    Args:
        gains: By network, what the training gained by seed over one with `fewer` steps.
    """
    groups: dict[str, list[str]] = {"converged": [], "not converged": []}
    for network, values in gains.items():
        gain = over_seeds(values)
        converged = gain.high is not None and gain.high < little
        text = numbers.estimate(gain, numbers.fixed(3))
        groups["converged" if converged else "not converged"].append(f"`{network}` {text}")
    parts = "; ".join(f"{word}: {', '.join(found)}" for word, found in groups.items() if found)
    return f"{problem}: {parts} (gain over {count(fewer, 'step')}; converged below {little:g})."


def panel(
    title: str, x: Sequence[float], curves: Curves, labels: tuple[str, str], scales: tuple[Scale, Scale]
) -> Panel:
    """Curves with bands against `x`. `labels` and `scales` are those of the x and the y axis."""
    order = np.argsort(x)
    x = [x[at] for at in order]
    bands = {index: band([estimates[at] for at in order]) for index, estimates in enumerate(curves)}
    any_value = any(np.isfinite(band.value).any() for band in bands.values())

    def draw(axes: Axes) -> None:
        lines(axes, np.array(x, np.float64), bands)
        if scales[0] == "log":
            axes.set_xscale("log")
            label_log_axis(axes.xaxis)
        if scales[1] == "log" and any_value:
            axes.set_yscale("log")
            label_log_axis(axes.yaxis)
        if not any_value:
            axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center")
            axes.set_yticks([])
        if len(x) <= _FEW:
            axes.set_xticks(x, numbers.ticks(list(x)), minor=False)
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=labels[0], ylabel=labels[1], title=title)

    return Panel(label=f"{title}: {labels[1]} against {labels[0]}.", size=_SIZE, draw=draw)


def band(estimates: Sequence[Estimate | None]) -> Band:
    """Estimates as arrays, NaN where there is no value."""
    return Band(*np.array([estimate or (None, None, None) for estimate in estimates], np.float64).T)
