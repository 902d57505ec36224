"""The one figure of a study: panels of curves in the look of ablate.py's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from ablation.drawing import Panel, draw
from ablation.panels import lines
from ablation.results import Array, Band, Estimate

_SIZE = (3.4, 2.7)

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
        for axis, kind in zip((axes.xaxis, axes.yaxis), scale, strict=True):
            if kind == "log":
                getattr(axes, f"set_{axis.axis_name}scale")("log", base=2 if axis is axes.xaxis else 10)  # type: ignore[attr-defined]
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
