"""The one figure of a study: panels of curves in the look of ablate.py's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from ablation.analysis.numbers import short, ticks
from ablation.analysis.results import Array, Band, Estimate
from ablation.report.drawing import Panel, draw
from ablation.report.panels import Ticks, lines

_SIZE = (3.4, 2.7)
_FEW = 8
"""Places on the x axis that are marked one by one."""

_NARROW = 100.0
"""A logarithmic axis from a number to less than so many times it has one power of ten or none."""

Scale = Literal["linear", "log"]


class Figure(NamedTuple):
    """Panels side by side, with one legend for the variants that they number."""

    panels: Sequence[Panel]
    variants: Sequence[str]


def curves(
    title: str, x: Array, bands: Mapping[int, Band], x_label: str, y_label: str, scale: tuple[Scale, Scale]
) -> Panel:
    """Lines with bands against `x` [N], by the number of the variant."""

    def paint(axes: Axes) -> None:
        lines(axes, x, bands)
        scales, found = scale, any(np.isfinite(one.value).any() for one in bands.values())
        if not found:
            # A logarithm has no place for nothing.
            scales = scale[0], "linear"
            axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center")
        axes.set_xscale(scales[0])
        axes.set_yscale(scales[1])
        for axis, kind in zip((axes.xaxis, axes.yaxis), scales, strict=True):
            if kind == "log":
                # The usual 10^2 is mathematics to matplotlib, which the report's style has switched off.
                axis.set_major_formatter(lambda value, _: short(value))
                axis.set_minor_formatter(NullFormatter())
                low, high = axis.get_view_interval()
                if high < low * _NARROW:
                    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            else:
                axis.set_major_formatter(Ticks())
        if not found:
            axes.set_yticks([])
        if len(x) <= _FEW:
            axes.set_xticks(x, ticks(x.tolist()), minor=False)
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_title(title)

    return Panel(label=f"{title}: {y_label} against {x_label}.", size=_SIZE, draw=paint)


def band(estimates: Sequence[Estimate | None]) -> Band:
    """Estimates along an axis; None where there is no value."""
    nothing = Estimate(np.nan, None, None)
    parts = zip(*(estimate or nothing for estimate in estimates), strict=True)
    return Band(*(np.array([np.nan if part is None else part for part in row], np.float64) for row in parts))


def png(figure: Figure) -> bytes:
    """The figure as a picture."""
    return draw(figure.panels, "study", figure.variants).png
