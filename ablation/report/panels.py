"""Panels of the report's figures: lines with bands, rows of estimates, rows of times, a matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import Formatter, LogLocator, MaxNLocator, NullFormatter

from ablation.analysis import numbers
from ablation.analysis.numbers import Write
from ablation.analysis.results import Array, Band, Estimate
from ablation.report.drawing import GRID_LINE, INK, LIGHT, MUTED, PAPER, Panel, style_of, tag
from system.words import shorten, shorten_all

LONGEST_NAME = 34
"""Longest name that a panel has room for."""

_ROW_HEIGHT, _ROWS_MARGIN, _ROWS_WIDTH = 0.36, 0.72, 4.0
_TEXT_BACKGROUND = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}
STEPS = [1, 2, 2.5, 5, 10]
"""Tick steps, times a power of ten, that make short labels."""
_LARGE_CELLS = 8
"""Largest number of variants for which a matrix has large numbers."""


class Ticks(Formatter):
    """Tick labels of `numbers.ticks`, without an offset or a separate power of ten."""

    def __init__(self, unit: tuple[float, str] | None = None) -> None:
        self._unit = unit

    def __call__(self, x: float, pos: int | None = None) -> str:
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        return numbers.ticks(values, self._unit)


def label_log_axis(axis: Axis) -> None:
    """Labels a logarithmic axis with plain numbers, at 1, 2 and 5 if it spans less than two powers of ten."""
    # The default labels are mathtext, which the report's style turns off.
    axis.set_major_formatter(lambda value, _: numbers.short(value))
    axis.set_minor_formatter(NullFormatter())
    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


def lines(axes: Axes, x: Array, bands: Mapping[int, Band]) -> None:
    """Draws lines with bands against `x` [N], by index of the variant."""
    axes.grid(visible=True)
    every = max(1, len(x) // 6)
    for number, band in bands.items():
        style = style_of(number)
        axes.fill_between(x, band.low, band.high, color=style["color"], alpha=0.16, linewidth=0, gid=tag(number))
        # Shifted for each variant, so that markers do not hide each other.
        shifted = ((number * every) // max(1, len(bands)), every)
        size: dict[str, Any] = {"linewidth": 1.7, "markersize": 4.5, "markeredgewidth": 1}
        axes.plot(x, band.value, **style, **size, markevery=shifted, gid=tag(number))
    axes.margins(x=0.02)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=STEPS))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(Ticks())


def size_curves(axes: Axes, curves: Mapping[str, tuple[Array, Band]]) -> None:
    """Draws by name a line with its band against sizes [N] on a logarithmic axis, and a legend of the names."""
    axes.grid(visible=True)
    axes.set_xscale("log")
    names = shorten_all(list(curves), LONGEST_NAME)
    for number, (name, (sizes, band)) in enumerate(zip(names, curves.values(), strict=True)):
        style = style_of(number)
        axes.fill_between(sizes, band.low, band.high, color=style["color"], alpha=0.16, linewidth=0)
        axes.plot(sizes, band.value, **style, linewidth=1.7, markersize=4.5, markeredgewidth=1, label=name)
    label_log_axis(axes.xaxis)
    axes.yaxis.set_major_locator(MaxNLocator(7, steps=STEPS))
    axes.yaxis.set_major_formatter(Ticks())
    axes.legend(fontsize=8, handlelength=3)


def estimates(
    title: str,
    variants: Sequence[str],
    found: Mapping[str, Estimate],
    write: Write,
    *,
    reference: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Panel:
    """A row for each variant: name and value, and below them the mark with its interval; a line at `reference`."""

    def mark(axes: Axes, number: int, y: float, variant: str) -> str:
        estimate = found[variant]
        if estimate.low is not None and estimate.high is not None:
            _bar(axes, number, [estimate.low, estimate.high], [y, y])
        _mark(axes, number, [estimate.value], y, size=6.5)
        return numbers.estimate(estimate, write)

    def finish(axes: Axes) -> None:
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1)
        if limits:
            axes.set_xlim(limits)

    return _rows(title, [variant for variant in variants if variant in found], variants, mark, finish)


def times(
    title: str,
    found: Mapping[str, tuple[Array, float]],
    write: Write,
    units: Sequence[tuple[float, str]] = (),
) -> Panel:
    """A row for each variant with a mark for each run; infinite times are on the right, beyond a line.

    Ticks are at round numbers of the largest of `units` (as numbers.SECONDS) that fits at least twice.
    """
    finite = [float(time) for times, _ in found.values() for time in times if math.isfinite(time)]
    most = max(finite, default=1.0) or 1.0
    never = 1.16 * most
    missed = any(math.inf in times for times, _ in found.values())

    def mark(axes: Axes, number: int, y: float, variant: str) -> str:
        times, median = found[variant]
        _mark(axes, number, np.where(np.isfinite(times), times, never), y, size=5, alpha=0.55)
        if math.isfinite(median):
            _bar(axes, number, [median, median], [y - 0.17, y + 0.17])
        reached = int(np.isfinite(times).sum())
        return f"{numbers.until(write)(median)} ({reached} of {len(times)})"

    def finish(axes: Axes) -> None:
        axes.set_xlim(0, (never if missed else most) * 1.05)
        unit = max((unit for unit in units if most >= 2 * unit[0]), default=units[0] if units else None)
        size = unit[0] if unit else 1.0
        ticks = [
            size * tick
            for tick in MaxNLocator(4, steps=STEPS).tick_values(0, most / size)
            if size * tick <= most * (0.98 if missed else 1.02)
        ]
        labels = numbers.ticks(ticks, unit)
        if missed:
            ticks, labels = [*ticks, never], [*labels, numbers.NEVER]
            axes.axvline((most + never) / 2, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set_xticks(ticks, labels)

    return _rows(title, list(found), list(found), mark, finish)


def _bar(axes: Axes, number: int, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, color=style_of(number)["color"], linewidth=2.4, gid=tag(number))


def _mark(axes: Axes, number: int, x: Any, y: float, *, size: float, alpha: float = 1) -> None:
    style = style_of(number) | {"linestyle": "none"}
    axes.plot(x, np.full(len(x), y), **style, markersize=size, markeredgewidth=1.4, alpha=alpha, gid=tag(number))


def _rows(
    title: str,
    rows: Sequence[str],
    variants: Sequence[str],
    mark: Callable[[Axes, int, float, str], str],
    finish: Callable[[Axes], None],
) -> Panel:
    names = shorten_all(variants, LONGEST_NAME)

    def draw(axes: Axes) -> None:
        beside = axes.get_yaxis_transform()
        for row, variant in enumerate(rows):
            number = variants.index(variant)
            text = mark(axes, number, -row, variant)
            # With a background, so that no grid line crosses the text.
            words: dict[str, Any] = {"transform": beside, "va": "bottom", "gid": tag(number), "bbox": _TEXT_BACKGROUND}
            axes.text(0, 0.28 - row, names[number], **words)
            axes.text(1, 0.28 - row, text, ha="right", color=MUTED, **words)
        axes.grid(visible=True, axis="x")
        axes.set_ylim(0.55 - len(rows), 0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.xaxis.set_major_formatter(Ticks())
        axes.margins(x=0.06)
        finish(axes)
        axes.set_title(shorten(title, 44))

    return Panel(
        label=f"{title}, for each variant.", size=(_ROWS_WIDTH, _ROWS_MARGIN + _ROW_HEIGHT * len(rows)), draw=draw
    )


def matrix(variants: Sequence[str], found: Mapping[str, Mapping[str, Estimate]]) -> Panel:
    """Rows against columns; the colour is stronger farther from 50%, and absent without an interval."""
    few = len(variants) <= _LARGE_CELLS

    def draw(axes: Axes) -> None:
        size = len(variants)
        for y, first in enumerate(variants):
            for x, second in enumerate(variants):
                chance = found.get(first, {}).get(second)
                if chance is None or not math.isfinite(chance.value):
                    axes.add_patch(_square(x, y, GRID_LINE, 0.35))
                    continue
                clear = chance.low is not None and chance.high is not None and not chance.low <= 0.5 <= chance.high
                if chance.low is not None:
                    # For single runs the chance is always 0 or 100.
                    colour = LIGHT[0] if chance.value >= 0.5 else LIGHT[1]
                    axes.add_patch(_square(x, y, colour, 1.1 * abs(chance.value - 0.5)))
                text, weight = f"{100 * chance.value:.0f}{'*' if clear else ''}", "bold" if clear else "normal"
                axes.text(x, y, text, ha="center", va="center", color=INK, fontsize=9 if few else 7, fontweight=weight)
        names = shorten_all(variants, 20 if few else 14)
        axes.set_xticks(range(size), names, rotation=40, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(size), names)
        axes.tick_params(length=0, labelsize=8.5 if few else 7.5)
        axes.xaxis.tick_top()
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
        for spine in axes.spines.values():
            spine.set_visible(False)

    side = 0.42 if few else 0.28
    return Panel(
        label="Probability that a run of the row's variant beats one of the column's on a task drawn at random.",
        size=(4.5 if few else 6.4, 1.3 + side * len(variants)),
        draw=draw,
    )


def _square(x: int, y: int, colour: str, strength: float) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=to_rgba(colour, strength), edgecolor=PAPER, linewidth=1.5)
