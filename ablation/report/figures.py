"""The figures of the report and their panels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ablation.analysis import numbers
from ablation.analysis.numbers import Write
from ablation.analysis.results import Analysis, Estimate, Measure, Results
from ablation.report import panels
from ablation.report.drawing import MUTED, Hover, Panel, shorten

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
_AGGREGATES = {
    "iqm": "Interquartile mean",
    "median": "Median",
    "mean": "Mean",
    "optimality_gap": "Optimality gap",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One figure.

    Attributes:
        data: Name of the CSV that has its numbers.
        legend: Whether the figure needs a legend of the variants.
        folded: Whether the page shows it on demand only.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    data: str
    legend: bool = False
    folded: bool = False


def make_charts(results: Results, analysis: Analysis) -> dict[str, Chart]:
    """All figures by name, in the order of the report."""
    variants, write = results.variants, numbers.of_measure(results.measure)
    curve_limits, task_limits = _curve_limits(results, analysis), _task_limits(results, analysis)
    charts = [
        Chart(
            name="learning_curve",
            title="Learning curve, mean over tasks",
            caption=f"{_sentence(results.measure.label)} over the latest training episodes: mean over runs with its 95% interval. "
            "The dotted line is the threshold of the sample efficiency.",
            panels=(_curves(results, analysis, "", _WIDE, _fixed_limits(results.measure)),),
            data="learning_curves",
            legend=True,
        ),
        Chart(
            name="learning_curves_tasks",
            title="Learning curves by task",
            caption=_caption("The same for every task.", results, curve_limits),
            panels=tuple(_curves(results, analysis, task, _SMALL, curve_limits) for task in results.tasks),
            data="learning_curves",
            legend=True,
            folded=len(results.tasks) >= _FOLDED_FROM,
        ),
        Chart(
            name="aggregates",
            title="Aggregates over runs and tasks",
            caption=f"{_sentence(results.measure.label)} in the evaluation, with 95% intervals.{_gap(results, analysis)}",
            panels=_aggregates(results, analysis, write),
            data="aggregates",
        ),
        Chart(
            name="profiles",
            title="Performance profiles",
            caption="Share of runs x tasks above a value, with 95% bands."
            + (" Where bands overlap, curves are not told apart." if len(variants) > 1 else ""),
            panels=(_profiles(results, analysis),),
            data="profiles",
            legend=True,
        ),
        Chart(
            name="improvement",
            title="Probability of improvement",
            caption="In percent: how likely a run of the row beats a run of the column on a task drawn at random. Bold with an asterisk: "
            "the 95% interval of this pair alone leaves out 50%, for which 0 and 100 need 6 runs. The others are not told apart by it.",
            panels=(panels.matrix(variants, analysis.improvement),) if len(variants) > 1 else (),
            data="improvement",
        ),
        Chart(
            name="tasks",
            title="Evaluation by task",
            caption=_caption(
                f"{_sentence(results.measure.label)}: mean over runs with its 95% interval.", results, task_limits
            ),
            panels=tuple(
                panels.estimates(
                    task,
                    variants,
                    {variant: analysis.tasks[variant][task] for variant in variants},
                    write,
                    limits=task_limits,
                )
                for task in results.tasks
            ),
            data="tasks",
            folded=len(results.tasks) >= _FOLDED_FROM,
        ),
        *_efficiency(results, analysis, write),
    ]
    probes = list(dict.fromkeys(probe for row in analysis.probes.values() for probe in row))
    if probes:
        probe_limits = _common(
            [
                _extremes(
                    [Estimate(0.0, None, None), *(row[probe] for row in analysis.probes.values() if probe in row)]
                )
                for probe in probes
            ]
        )
        charts.append(
            Chart(
                name="probes",
                title="What each probe takes",
                caption="How much the mean over tasks falls when the agent is given another context, with 95% intervals. "
                "Nothing lost: the agent does not use what it is told.",
                panels=tuple(
                    panels.estimates(
                        f"Lost under {probe}",
                        variants,
                        {variant: row[probe] for variant, row in analysis.probes.items() if probe in row},
                        write,
                        reference=0.0,
                        limits=probe_limits,
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
                panels.times(
                    f"Frames to {at}",
                    variants,
                    {variant: (one.frames_to, one.frames_to_median) for variant, one in found.items()},
                    numbers.short,
                ),
                panels.estimates(
                    "Mean during training",
                    variants,
                    {variant: one.area for variant, one in found.items()},
                    write,
                    limits=_fixed_limits(results.measure),
                ),
            ),
            data="sample_efficiency",
        ),
        Chart(
            name="wall_clock",
            title="Wall-clock efficiency",
            caption="The same in time, on the machine named above, and the speed of training.",
            panels=(
                panels.times(
                    f"Time to {at}",
                    variants,
                    {variant: (one.seconds_to, one.seconds_to_median) for variant, one in found.items()},
                    numbers.duration,
                    units=numbers.SECONDS,
                ),
                panels.estimates(
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


def _aggregates(results: Results, analysis: Analysis, write: Write) -> tuple[Panel, ...]:
    """Panels on one axis, but for the optimality gap, which is a distance."""
    found = {
        name: {variant: analysis.aggregates[variant][name] for variant in results.variants}
        for name in _AGGREGATES
        if all(name in analysis.aggregates[variant] for variant in results.variants)
    }
    common = _common([_extremes(row.values()) for name, row in found.items() if name != "optimality_gap"])
    fixed = _fixed_limits(results.measure)
    return tuple(
        panels.estimates(
            title,
            results.variants,
            found[name],
            write,
            limits=fixed or (None if name == "optimality_gap" else common),
        )
        for name, title in _AGGREGATES.items()
        if name in found
    )


def _gap(results: Results, analysis: Analysis) -> str:
    if results.measure.best is None or not all("optimality_gap" in row for row in analysis.aggregates.values()):
        return ""
    own = "" if _fixed_limits(results.measure) else ", on an axis of its own"
    return f" The optimality gap is the distance to {results.measure.best:g}{own}."


def _fixed_limits(measure: Measure) -> Limits:
    """0 to 1 for a success."""
    return _SUCCESS if measure.name == "success" else None


def _task_limits(results: Results, analysis: Analysis) -> Limits:
    """Limits of the common axis of all tasks; None if each has its own."""
    found = [_extremes(row[task] for row in analysis.tasks.values()) for task in results.tasks]
    return _shared_limits(results.measure, found)


def _curve_limits(results: Results, analysis: Analysis) -> Limits:
    found = [
        _extremes(part for curves in analysis.curves.values() if task in curves for part in curves[task])
        for task in results.tasks
    ]
    return _shared_limits(results.measure, found)


def _shared_limits(measure: Measure, found: Sequence[Limits]) -> Limits:
    known = [reach for reach in found if reach]
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


def _extremes(found: Iterable[Iterable[float | None]]) -> Limits:
    """Least and greatest finite number of estimates."""
    ends = [end for one in found for end in one if end is not None and math.isfinite(end)]
    return (min(ends), max(ends)) if ends else None


def _common(found: Sequence[Limits]) -> Limits:
    """Limits that hold all of them, with a margin."""
    known = [reach for reach in found if reach]
    if not known:
        return None
    low, high = min(low for low, _ in known), max(high for _, high in known)
    # A single value gets any axis around it.
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _curves(results: Results, analysis: Analysis, task: str, size: tuple[float, float], limits: Limits) -> Panel:
    bands = {
        number: analysis.curves[variant][task]
        for number, variant in enumerate(results.variants)
        if task in analysis.curves[variant]
    }

    def draw(axes: Axes) -> None:
        if not task and math.isfinite(analysis.threshold):
            axes.axhline(analysis.threshold, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        panels.lines(axes, analysis.frames, bands)
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
        hover=Hover(analysis.frames, bands, "frames"),
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
