"""The figures of the report: what each shows, and of which panels it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ablation import numbers, panels
from ablation.drawing import MUTED, Hover, Panel, shown
from ablation.numbers import Write
from ablation.results import Analysis, Measure, Results

_WIDE, _SMALL = (4.5, 3.0), (3.4, 2.35)
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
                panels.estimates(
                    title, variants, {variant: analysis.aggregates[variant][name] for variant in variants}, write
                )
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
            panels=(panels.matrix(variants, analysis.improvement),) if len(variants) > 1 else (),
            data="improvement",
        ),
        Chart(
            name="tasks",
            title="Evaluation by task",
            caption=f"{_sentence(results.measure.label)}: mean over runs with its 95% interval.",
            panels=tuple(
                panels.estimates(
                    task,
                    variants,
                    {variant: analysis.tasks[variant][task] for variant in variants},
                    write,
                    limits=_limits(results.measure),
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
                    "Mean during training", variants, {variant: one.area for variant, one in found.items()}, write
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
                    units=(1, 60, 3600),
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


def _limits(measure: Measure) -> tuple[float, float] | None:
    """Those of an axis that all tasks share, so that they can be compared; None where tasks have scales of their own."""
    return (-0.03, 1.03) if measure.name == "success" else None


def _curves(results: Results, analysis: Analysis, task: str, size: tuple[float, float]) -> Panel:
    bands = {
        number: analysis.curves[variant][task]
        for number, variant in enumerate(results.variants)
        if task in analysis.curves[variant]
    }

    limits = _limits(results.measure)

    def draw(axes: Axes) -> None:
        if not task and math.isfinite(analysis.threshold):
            axes.axhline(analysis.threshold, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        panels.lines(axes, analysis.frames, bands)
        axes.xaxis.set_major_formatter(numbers.short)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("frames")
        axes.set_ylabel(results.measure.name)
        if task and limits:
            axes.set_ylim(limits)
        axes.set_title(shown(task, panels.LONGEST_NAME) or "Mean over tasks")

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
        axes.set_xlabel(f"{results.measure.name} (t)")
        axes.set_ylabel("share of runs x tasks above t")

    return Panel(
        label=f"Performance profiles: share of runs x tasks above each {results.measure.name}, for each variant.",
        size=_WIDE,
        draw=draw,
        hover=Hover(analysis.profile_values, bands, results.measure.name),
    )
