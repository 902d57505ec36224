"""Panels of curves in the style of ablate.py's report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from ablation.analysis.numbers import ticks
from ablation.analysis.results import Band, Estimate
from ablation.report.drawing import Panel
from ablation.report.panels import label_log_axis, lines

_SIZE = (3.4, 2.7)
_FEW = 8
"""Up to this many places, each gets a tick on the x axis."""

Scale = Literal["linear", "log"]
Curves = Sequence[Sequence[Estimate | None]]
"""By variant, its estimates along the x axis; None where there is no value."""


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
            axes.set_xticks(x, ticks(list(x)), minor=False)
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=labels[0], ylabel=labels[1], title=title)

    return Panel(label=f"{title}: {labels[1]} against {labels[0]}.", size=_SIZE, draw=draw)


def band(estimates: Sequence[Estimate | None]) -> Band:
    """Estimates as arrays, NaN where there is no value."""
    return Band(*np.array([estimate or (None, None, None) for estimate in estimates], np.float64).T)
