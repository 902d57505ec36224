"""The figures of the report and their panels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ablation.analysis import numbers
from ablation.analysis.results import Analysis, Array, Band, Curves, Estimate, Measure, Results, Scaling
from ablation.report import panels
from ablation.report.drawing import MUTED, Hover, Panel
from system.words import shorten

Limits: TypeAlias = tuple[float, float] | None
"""Limits of an axis, or the extreme values of a panel; None: no value, and matplotlib's limits."""

_WIDE, _SMALL = (4.5, 3.0), (3.4, 2.35)
_FOLDED_FROM = 13
"""A figure with this number of tasks or more is folded."""
_SUCCESS = (-0.03, 1.03)
_MOST_RATIO = 10
"""Tasks share an axis if the largest range is at most this many times the median one; else it would hide the others."""
_WHY_OWN_AXES = {
    "return": "Every panel has an axis of its own, because returns of different tasks are on different scales.",
    "score": "Every panel has an axis of its own, because the largest score would hide the others on a common one.",
}
_GAP = "optimality_gap"
_AGGREGATES = {"iqm": "Interquartile mean", "median": "Median", "mean": "Mean", _GAP: "Optimality gap"}

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One figure, with a `legend` of the variants, or `folded`: shown on demand only.

    `data` is the name of the CSV that has its numbers, if it is another one than that of the figure.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    data: str = ""
    legend: bool = False
    folded: bool = False


def make_charts(results: Results, analysis: Analysis) -> dict[str, Chart]:
    """All figures by name, in the order of the report."""
    variants, tasks, measure = results.variants, results.tasks, results.measure
    write = numbers.of_measure(measure)
    estimates = partial(panels.estimates, variants=variants, write=write)
    label = measure.label[:1].upper() + measure.label[1:]
    at = f"{measure.name} {write(analysis.threshold)}"
    fixed, folded = _fixed_limits(measure), len(tasks) >= _FOLDED_FROM
    task_limits = _shared_limits(measure, [_column(analysis.tasks, task).values() for task in tasks])
    aggregates = {name: row for name in _AGGREGATES if (row := _column(analysis.aggregates, name))}
    # The optimality gap is a distance and has its own axis.
    aggregate_limits = fixed or _common([_extremes(row.values()) for name, row in aggregates.items() if name != _GAP])
    gap = ""
    if _GAP in aggregates:
        gap = f" The optimality gap is the distance to {measure.best:g}{'' if fixed else ', on an axis of its own'}."
    probes = {probe: _column(analysis.probes, probe) for row in analysis.probes.values() for probe in row}
    zero = Estimate(0.0, None, None)
    probe_limits = _common([_extremes([zero, *row.values()]) for row in probes.values()])
    efficiency = analysis.efficiency
    charts = [
        *curve_charts(results, analysis.frames, analysis.curves, analysis.threshold),
        Chart(
            name="aggregates",
            title="Aggregates over runs and tasks",
            caption=f"{label} in the evaluation, with 95% intervals.{gap}",
            panels=tuple(
                estimates(_AGGREGATES[name], found=row, limits=fixed if name == _GAP else aggregate_limits)
                for name, row in aggregates.items()
            ),
        ),
        *([_scaling(measure, analysis.scaling)] if analysis.scaling else []),
        Chart(
            name="profiles",
            title="Performance profiles",
            caption="Share of runs x tasks above a value, with 95% bands."
            + (" Where bands overlap, curves are not told apart." if len(variants) > 1 else ""),
            panels=(_profiles(results, analysis),),
            legend=True,
        ),
        Chart(
            name="improvement",
            title="Probability of improvement",
            caption="In percent: how likely a run of the row beats a run of the column on a task drawn at random. Bold with an asterisk: "
            "the 95% interval of this pair alone leaves out 50%, for which 0 and 100 need 6 runs. The others are not told apart by it.",
            panels=(panels.matrix(variants, analysis.improvement),) if len(variants) > 1 else (),
        ),
        Chart(
            name="tasks",
            title="Evaluation by task",
            caption=_caption(f"{label}: mean over runs with its 95% interval.", results, task_limits),
            panels=tuple(estimates(task, found=_column(analysis.tasks, task), limits=task_limits) for task in tasks),
            folded=folded,
        ),
        Chart(
            name="sample_efficiency",
            title="Sample efficiency",
            caption="Left, or above: the frames after which each run came to the threshold, a mark each, and their median; runs that never "
            "came to it stand beyond the line. Then the mean of the learning curve, which is its area divided by the frames.",
            panels=(
                panels.times(
                    f"Frames to {at}",
                    {variant: (one.frames_to, one.frames_to_median) for variant, one in efficiency.items()},
                    numbers.short,
                ),
                estimates(
                    "Mean during training",
                    found={variant: one.area for variant, one in efficiency.items()},
                    limits=fixed,
                ),
            ),
        ),
        Chart(
            name="wall_clock",
            title="Wall-clock efficiency",
            caption="The same in time, on the machine named above, and the speed of training.",
            panels=(
                panels.times(
                    f"Time to {at}",
                    {variant: (one.seconds_to, one.seconds_to_median) for variant, one in efficiency.items()},
                    numbers.duration,
                    units=numbers.SECONDS,
                ),
                estimates(
                    "Frames per second",
                    found={variant: one.frames_per_second for variant, one in efficiency.items()},
                    write=numbers.count,
                ),
            ),
        ),
        Chart(
            name="probes",
            title="What each probe takes",
            caption="How much the mean over tasks falls when the agent is given another context, with 95% intervals. "
            "Nothing lost: the agent does not use what it is told.",
            panels=tuple(
                estimates(f"Lost under {probe}", found=row, reference=0.0, limits=probe_limits)
                for probe, row in probes.items()
            ),
        ),
    ]
    return {chart.name: chart for chart in charts if chart.panels}


def curve_charts(results: Results, frames: Array, curves: Curves, threshold: float = math.nan) -> list[Chart]:
    """The learning curves at these frames [N]: the mean over tasks, and each task. `threshold` is that of the sample efficiency, if any."""
    tasks, measure = results.tasks, results.measure
    label = measure.label[:1].upper() + measure.label[1:]
    fixed = _fixed_limits(measure)
    limits = _shared_limits(measure, [_column(curves, task).values() for task in tasks])
    draw = partial(_curves, results, frames, curves)
    dotted = " The dotted line is the threshold of the sample efficiency." if math.isfinite(threshold) else ""
    return [
        Chart(
            name="learning_curve",
            title="Learning curve, mean over tasks",
            caption=f"{label} over the latest training episodes: mean over runs with its 95% interval.{dotted}",
            panels=(draw("", _WIDE, fixed, threshold),),
            data="learning_curves",
            legend=True,
        ),
        Chart(
            name="learning_curves_tasks",
            title="Learning curves by task",
            caption=_caption("The same for every task.", results, limits),
            panels=tuple(draw(task, _SMALL, limits) for task in tasks),
            data="learning_curves",
            legend=True,
            folded=len(tasks) >= _FOLDED_FROM,
        ),
    ]


def _column(rows: Mapping[str, Mapping[str, Found]], key: str) -> dict[str, Found]:
    """The entry at `key` of each variant that has one."""
    return {variant: row[key] for variant, row in rows.items() if key in row}


def _fixed_limits(measure: Measure) -> Limits:
    """0 to 1 for a success."""
    return _SUCCESS if measure.name == "success" else None


def _shared_limits(measure: Measure, tasks: Iterable[Iterable[Estimate | Band]]) -> Limits:
    """Limits of the common axis of all tasks, of which these are the values; None if each task has its own axis."""
    known = [reach for found in tasks if (reach := _extremes(found))]
    if measure.name in ("success", "return") or not known:
        return _fixed_limits(measure)
    floor = measure.floor or 0.0
    sizes = [max(high, floor) - min(low, floor) for low, high in known]
    return None if max(sizes) > _MOST_RATIO * np.median(sizes) else _common(known)


def _caption(text: str, results: Results, limits: Limits) -> str:
    """The text, and the reason if tasks do not share an axis."""
    if limits or len(results.tasks) == 1:
        return text
    return f"{text} {_WHY_OWN_AXES.get(results.measure.name, '')}".rstrip()


def _extremes(found: Iterable[Estimate | Band]) -> Limits:
    """Least and greatest finite number."""
    values = np.concatenate([np.array(one, np.float64).ravel() for one in found])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else None


def _common(found: Sequence[Limits]) -> Limits:
    """Limits that hold all of them, with a margin."""
    known = [reach for reach in found if reach]
    if not known:
        return None
    low, high = min(low for low, _ in known), max(high for _, high in known)
    # A single value gets any axis around it.
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _curves(
    results: Results,
    frames: Array,
    curves: Curves,
    task: str,
    size: tuple[float, float],
    limits: Limits,
    threshold: float = math.nan,
) -> Panel:
    bands = {number: curves[variant][task] for number, variant in enumerate(results.variants)}

    def draw(axes: Axes) -> None:
        if math.isfinite(threshold):
            axes.axhline(threshold, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        panels.lines(axes, frames, bands)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=panels.STEPS))
        axes.set_xlabel("frames")
        axes.set_ylabel(results.measure.name)
        if limits:
            axes.set_ylim(limits)
        axes.set_title(shorten(task, panels.LONGEST_NAME) or "Mean over tasks")

    return Panel(
        label=f"Learning curves of {task or 'the mean over tasks'}: {results.measure.name} against frames, for each variant.",
        size=size,
        draw=draw,
        hover=Hover(frames, bands, "frames"),
    )


def _scaling(measure: Measure, scaling: Scaling) -> Chart:
    """The mean over tasks of each form against its size, in each count that is known of all agents."""
    label = measure.label[:1].upper() + measure.label[1:]
    counts = {"parameters": "parameters", "multiply_adds": "multiply-adds of an acting step"}

    def panel(key: str, name: str) -> Panel:
        curves = {
            form: (
                np.array([getattr(point, key) for point in points], np.float64),
                Band(*np.array([point.mean for point in points], np.float64).T),
            )
            for form, points in scaling.points.items()
        }

        def draw(axes: Axes) -> None:
            panels.size_curves(axes, curves)
            axes.set_xlabel(name)
            axes.set_ylabel(measure.name)
            if limits := _fixed_limits(measure):
                axes.set_ylim(limits)
            axes.set_title(f"Against {name}")

        return Panel(
            label=f"Mean {measure.name} over tasks against {name}, a curve for each form.", size=_WIDE, draw=draw
        )

    known = [key for key in counts if all(getattr(one, key) > 0 for row in scaling.points.values() for one in row)]
    return Chart(
        name="scaling",
        title="Curves over size",
        caption=f"{label}, mean over tasks and runs with its 95% interval, at each width. The context's own part, which is computed once "
        "for each context, is no part of a step. Intervals are of each point alone; the table of pairs has the differences.",
        panels=tuple(panel(key, counts[key]) for key in known),
    )


def _profiles(results: Results, analysis: Analysis) -> Panel:
    bands = {number: analysis.profiles[variant] for number, variant in enumerate(results.variants)}

    def draw(axes: Axes) -> None:
        panels.lines(axes, analysis.profile_values, bands)
        axes.set_ylim(-0.02, 1.02)
        if limits := _fixed_limits(results.measure):
            axes.set_xlim(limits)
        axes.set_xlabel(f"{results.measure.name} (t)")
        axes.set_ylabel("share of runs x tasks above t")

    return Panel(
        label=f"Performance profiles: share of runs x tasks above each {results.measure.name}, for each variant.",
        size=_WIDE,
        draw=draw,
        hover=Hover(analysis.profile_values, bands, results.measure.name),
    )
