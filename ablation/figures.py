"""The figures of the report: what each shows, and of which panels it is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ablation import numbers
from ablation.drawing import GRID, INK, LIGHT, MUTED, PAPER, Hover, Panel, look, shown, tag
from ablation.numbers import Write
from ablation.results import Analysis, Array, Band, Estimate, Results

_WIDE, _SMALL = (4.8, 3.1), (3.4, 2.35)
_ROW, _ROWS_AROUND, _ROWS_WIDE = 0.36, 0.72, 3.6
_LONGEST_NAME = 34
_FOLDED_FROM = 13
"""So many panels of single tasks are folded away until somebody wants to see them."""
_AGGREGATES = {
    "iqm": "Interquartile mean",
    "median": "Median",
    "mean": "Mean",
    "optimality_gap": "Optimality gap (less is better)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One figure.

    Attributes:
        data: name of the CSV that has its numbers.
        legend: whether the variants are told apart by their lines alone.
        folded: shown on demand.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    data: str
    legend: bool = False
    folded: bool = False


def every(results: Results, analysis: Analysis) -> dict[str, Chart]:
    """All figures by name, in the order of the report."""
    variants, write = results.variants, numbers.of_measure(results.measure)
    charts = [
        Chart(
            name="learning_curve",
            title="Learning curve, mean over tasks",
            caption=f"{_sentence(results.measure.label)} over the latest training episodes: mean over runs with its 95% interval. "
            "The dotted line is the threshold of the sample efficiency.",
            panels=(_curves(results, analysis, "", _WIDE),),
            data="learning_curves",
            legend=True,
        ),
        Chart(
            name="learning_curves_tasks",
            title="Learning curves by task",
            caption="The same for every task.",
            panels=tuple(_curves(results, analysis, task, _SMALL) for task in results.tasks),
            data="learning_curves",
            legend=True,
            folded=len(results.tasks) >= _FOLDED_FROM,
        ),
        Chart(
            name="aggregates",
            title="Aggregates over runs and tasks",
            caption=f"{_sentence(results.measure.label)} in the evaluation, with 95% intervals.",
            panels=tuple(
                _estimates(title, variants, {variant: analysis.aggregates[variant][name] for variant in variants}, write)
                for name, title in _AGGREGATES.items()
                if all(name in analysis.aggregates[variant] for variant in variants)
            ),
            data="aggregates",
        ),
        Chart(
            name="profiles",
            title="Performance profiles",
            caption="Share of runs x tasks above a value, with 95% bands. A curve above another everywhere is better everywhere.",
            panels=(_profiles(results, analysis),),
            data="profiles",
            legend=True,
        ),
        Chart(
            name="improvement",
            title="Probability of improvement",
            caption="In percent: how likely a run of the row beats a run of the column on a task drawn at random. Bold with an asterisk: "
            "the 95% interval of this pair alone leaves out 50%.",
            panels=(_improvement(variants, analysis.improvement),),
            data="improvement",
        ),
        Chart(
            name="tasks",
            title="Evaluation by task",
            caption=f"{_sentence(results.measure.label)}: mean over runs with its 95% interval.",
            panels=tuple(
                _estimates(task, variants, {variant: analysis.tasks[variant][task] for variant in variants}, write)
                for task in results.tasks
            ),
            data="tasks",
            folded=len(results.tasks) >= _FOLDED_FROM,
        ),
        *_efficiency(results, analysis, write),
    ]
    probes = list(dict.fromkeys(probe for row in analysis.probes.values() for probe in row))
    if probes:
        charts.append(
            Chart(
                name="probes",
                title="What each probe takes",
                caption="How much the mean over tasks falls when the agent is given another context, with 95% intervals. "
                "Nothing lost: the agent does not use what it is told.",
                panels=tuple(
                    _estimates(
                        f"Lost under {probe}",
                        variants,
                        {variant: row[probe] for variant, row in analysis.probes.items() if probe in row},
                        write,
                        reference=0.0,
                    )
                    for probe in probes
                ),
                data="probes",
            )
        )
    return {chart.name: chart for chart in charts if chart.panels}


def _efficiency(results: Results, analysis: Analysis, write: Write) -> tuple[Chart, Chart]:
    variants, found = results.variants, analysis.efficiency
    at = f"{results.measure.name} {write(analysis.threshold)}"
    return (
        Chart(
            name="sample_efficiency",
            title="Sample efficiency",
            caption="Left, or above: the frames after which each run came to the threshold, a mark each, and their median; runs that never "
            "came to it stand beyond the line. Then the mean of the learning curve, which is its area divided by the frames.",
            panels=(
                _times(
                    f"Frames to {at}",
                    variants,
                    {variant: (one.frames_to, one.frames_to_median) for variant, one in found.items()},
                    numbers.short,
                ),
                _estimates("Mean during training", variants, {variant: one.area for variant, one in found.items()}, write),
            ),
            data="sample_efficiency",
        ),
        Chart(
            name="wall_clock",
            title="Wall-clock efficiency",
            caption="The same in time, on the machine named above, and the speed of training.",
            panels=(
                _times(
                    f"Time to {at}",
                    variants,
                    {variant: (one.seconds_to, one.seconds_to_median) for variant, one in found.items()},
                    numbers.duration,
                ),
                _estimates(
                    "Frames per second",
                    variants,
                    {variant: one.frames_per_second for variant, one in found.items()},
                    numbers.count,
                ),
            ),
            data="wall_clock",
        ),
    )


def _sentence(label: str) -> str:
    return label[:1].upper() + label[1:]


def _curves(results: Results, analysis: Analysis, task: str, size: tuple[float, float]) -> Panel:
    bands = {
        number: analysis.curves[variant][task]
        for number, variant in enumerate(results.variants)
        if task in analysis.curves[variant]
    }

    def draw(axes: Axes) -> None:
        if not task and math.isfinite(analysis.threshold):
            axes.axhline(analysis.threshold, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        _lines(axes, analysis.frames, bands)
        axes.xaxis.set_major_formatter(numbers.short)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("frames")
        axes.set_ylabel(results.measure.name)
        axes.set_title(shown(task, _LONGEST_NAME) or "Mean over tasks")

    return Panel(
        label=f"Learning curves of {task or 'the mean over tasks'}: {results.measure.name} against frames, for each variant.",
        size=size,
        draw=draw,
        hover=Hover(analysis.frames, bands, "frames"),
    )


def _profiles(results: Results, analysis: Analysis) -> Panel:
    bands = {number: analysis.profiles[variant] for number, variant in enumerate(results.variants)}

    def draw(axes: Axes) -> None:
        _lines(axes, analysis.profile_values, bands)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(f"{results.measure.name} (t)")
        axes.set_ylabel("share of runs x tasks above t")

    return Panel(
        label=f"Performance profiles: share of runs x tasks above each {results.measure.name}, for each variant.",
        size=_WIDE,
        draw=draw,
        hover=Hover(analysis.profile_values, bands, results.measure.name),
    )


def _lines(axes: Axes, x: Array, bands: Mapping[int, Band]) -> None:
    axes.grid(visible=True)
    every = max(1, len(x) // 6)
    for number, band in bands.items():
        style = look(number)
        axes.fill_between(x, band.low, band.high, color=style.paint, alpha=0.16, linewidth=0, gid=tag(number))
        axes.plot(
            x,
            band.value,
            color=style.paint,
            linestyle=style.dashes,
            linewidth=1.7,
            marker=style.marker,
            # Not all at the same places, where they would hide each other.
            markevery=((number * every) // max(1, len(bands)), every),
            markersize=4.5,
            markerfacecolor=style.fill,
            markeredgewidth=1,
            gid=tag(number),
        )
    axes.margins(x=0.02)


def _estimates(
    title: str, variants: Sequence[str], found: Mapping[str, Estimate], write: Write, reference: float | None = None
) -> Panel:
    """A row for each variant: its name and value, and below them the mark and its interval."""

    def mark(axes: Axes, number: int, y: float, variant: str) -> str:
        style, estimate = look(number), found[variant]
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [y, y], color=style.paint, linewidth=2.4, gid=tag(number))
        _mark(axes, number, [estimate.value], y, size=6.5)
        return numbers.estimate(estimate, write)

    return _rows(title, [variant for variant in variants if variant in found], variants, mark, reference)


def _times(
    title: str, variants: Sequence[str], found: Mapping[str, tuple[Array, float]], write: Write
) -> Panel:
    """A row for each variant with a mark for each of its runs; infinite ones stand at the right, beyond a line."""
    finite = [float(time) for times, _ in found.values() for time in times if math.isfinite(time)]
    most = max(finite, default=1.0) or 1.0
    never = 1.12 * most
    missed = any(math.inf in times for times, _ in found.values())

    def mark(axes: Axes, number: int, y: float, variant: str) -> str:
        times, median = found[variant]
        _mark(axes, number, np.where(np.isfinite(times), times, never), y, size=5, alpha=0.55)
        if math.isfinite(median):
            axes.plot([median, median], [y - 0.17, y + 0.17], color=look(number).paint, linewidth=2.4, gid=tag(number))
        reached = int(np.isfinite(times).sum())
        return f"{numbers.until(write)(median)} ({reached} of {len(times)})"

    def finish(axes: Axes) -> None:
        axes.set_xlim(0, (never if missed else most) * 1.05)
        axes.xaxis.set_major_formatter(lambda value, _: write(value))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if missed:
            axes.set_xticks([tick for tick in axes.get_xticks() if tick <= most * 1.02] + [never])
            axes.xaxis.set_major_formatter(lambda value, _: numbers.NEVER if value == never else write(value))
            axes.axvline((most + never) / 2, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))

    return _rows(title, [variant for variant in variants if variant in found], variants, mark, finish=finish)


def _mark(axes: Axes, number: int, x: Any, y: float, *, size: float, alpha: float = 1) -> None:
    style = look(number)
    axes.plot(
        x,
        np.full(len(x), y),
        linestyle="none",
        marker=style.marker,
        markersize=size,
        color=style.paint,
        markerfacecolor=style.fill,
        markeredgewidth=1.4,
        alpha=alpha,
        gid=tag(number),
    )


def _rows(
    title: str,
    rows: Sequence[str],
    variants: Sequence[str],
    mark: Callable[[Axes, int, float, str], str],
    reference: float | None = None,
    finish: Callable[[Axes], None] | None = None,
) -> Panel:
    def draw(axes: Axes) -> None:
        beside = axes.get_yaxis_transform()
        for row, variant in enumerate(rows):
            number = variants.index(variant)
            text = mark(axes, number, -row, variant)
            axes.text(0, 0.3 - row, shown(variant, _LONGEST_NAME), transform=beside, gid=tag(number), va="bottom")
            axes.text(1, 0.3 - row, text, transform=beside, ha="right", va="bottom", color=MUTED, gid=tag(number))
        axes.grid(visible=True, axis="x")
        axes.set_ylim(0.55 - len(rows), 0.85)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.06)
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1)
        if finish:
            finish(axes)
        axes.set_title(shown(title, 44))

    return Panel(label=f"{title}, for each variant.", size=(_ROWS_WIDE, _ROWS_AROUND + _ROW * len(rows)), draw=draw)


def _improvement(variants: Sequence[str], found: Mapping[str, Mapping[str, Estimate]]) -> Panel:
    """Rows against columns; the farther from 50%, the stronger the colour."""

    def draw(axes: Axes) -> None:
        size = len(variants)
        for y, first in enumerate(variants):
            for x, second in enumerate(variants):
                chance = found.get(first, {}).get(second)
                if first == second or chance is None or not math.isfinite(chance.value):
                    axes.add_patch(_cell(x, y, GRID, 0.35))
                    continue
                clear = chance.low is not None and chance.high is not None and not chance.low <= 0.5 <= chance.high
                axes.add_patch(_cell(x, y, LIGHT[0] if chance.value >= 0.5 else LIGHT[1], 1.1 * abs(chance.value - 0.5)))
                axes.text(
                    x,
                    y,
                    f"{100 * chance.value:.0f}{'*' if clear else ''}",
                    ha="center",
                    va="center",
                    color=INK,
                    fontsize=9 if size <= 8 else 7,
                    fontweight="bold" if clear else "normal",
                )
        names = [shown(variant, 20) for variant in variants]
        axes.set_xticks(range(size), names, rotation=40, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(size), names)
        axes.tick_params(length=0, labelsize=8.5 if size <= 8 else 7.5)
        axes.xaxis.tick_top()
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
        for spine in axes.spines.values():
            spine.set_visible(False)

    height = 1.3 + min(0.42, 3.4 / max(1, len(variants))) * len(variants)
    return Panel(
        label="Probability that a run of the row's variant beats one of the column's on a task drawn at random.",
        size=(_WIDE[0], height),
        draw=draw,
    )


def _cell(x: int, y: int, colour: str, strength: float) -> Rectangle:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=to_rgba(colour, strength), edgecolor=PAPER, linewidth=1.5)
