"""Axes of the report's panels: common ranges and readable ticks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import fabricated
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ablation.analysis import numbers
from ablation.analysis.analysis import analyse
from ablation.analysis.results import Estimate, Measure, Results
from ablation.report import figures, panels
from ablation.report.drawing import Panel
from ablation.report.figures import Chart

SCORE = Measure(name="score", label="human-normalised score", best=100.0, floor=0.0)
RETURN = Measure(name="return", label="return", best=None)


def drawn(panel: Panel) -> Axes:
    figure = Figure(figsize=panel.size)
    axes: Axes = figure.add_subplot()
    panel.draw(axes)
    FigureCanvasAgg(figure).draw()
    return axes


def x_labels(panel: Panel) -> list[str]:
    """Labels of the visible ticks."""
    axes = drawn(panel)
    low, high = axes.get_xlim()
    return [
        label.get_text()
        for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        if low <= tick <= high
    ]


def charts(values: Mapping[str, list[list[float]]], measure: Measure) -> dict[str, Chart]:
    results = probed(fabricated.results(values, measure=measure))
    return figures.make_charts(results, analyse(results))


def probed(results: Results) -> Results:
    runs = tuple(
        dataclasses.replace(
            run,
            probed={
                probe: {task: part * value for task, value in run.values.items()}
                for probe, part in (("swap", 0.9), ("zero", 0.1))
            },
        )
        for run in results.runs
    )
    return dataclasses.replace(results, runs=runs)


NARROW = {"a": [[0.42, 0.01], [0.45, 0.02], [0.43, 0.01]], "b": [[0.44, 0.98], [0.41, 0.99], [0.43, 0.97]]}


@pytest.mark.parametrize("name", ["aggregates", "tasks", "learning_curve", "learning_curves_tasks", "profiles"])
def test_a_success_is_shown_from_0_to_1(name: str) -> None:
    for panel in charts(NARROW, fabricated.SUCCESS)[name].panels:
        axes = drawn(panel)
        assert (axes.get_ylim() if name.startswith("learning") else axes.get_xlim()) == pytest.approx((0, 1), abs=0.05)


def test_a_success_during_training_is_shown_from_0_to_1() -> None:
    assert drawn(charts(NARROW, fabricated.SUCCESS)["sample_efficiency"].panels[1]).get_xlim() == (-0.03, 1.03)


@pytest.mark.parametrize("name", ["tasks", "learning_curves_tasks"])
def test_scores_of_tasks_share_an_axis(name: str) -> None:
    values = {"a": [[20.0, 90.0], [30.0, 80.0]], "b": [[10.0, 60.0], [14.0, 70.0]]}
    chart = charts(values, SCORE)[name]
    limits = {drawn(panel).get_xlim() if name == "tasks" else drawn(panel).get_ylim() for panel in chart.panels}
    ((low, high),) = limits
    assert low < 10 and high > 90
    assert "axis of its own" not in chart.caption


@pytest.mark.parametrize(
    ("measure", "values", "reason"),
    [
        (RETURN, [[0.5, 400.0], [0.6, 500.0]], "returns of different tasks are on different scales"),
        (SCORE, [[50.0, 60.0, 9000.0], [55.0, 40.0, 8000.0]], "the largest score would hide the others"),
    ],
)
@pytest.mark.parametrize("name", ["tasks", "learning_curves_tasks"])
def test_tasks_with_separate_axes_give_the_reason(
    name: str, measure: Measure, values: list[list[float]], reason: str
) -> None:
    chart = charts({"a": values, "b": values[::-1]}, measure)[name]
    limits = {drawn(panel).get_xlim() if name == "tasks" else drawn(panel).get_ylim() for panel in chart.panels}
    assert len(limits) == len(chart.panels)
    assert reason in chart.caption


@pytest.mark.parametrize("measure", [SCORE, RETURN])
def test_aggregates_except_the_gap_share_an_axis(measure: Measure) -> None:
    values = {"a": [[20.0, 90.0, 95.0], [30.0, 80.0, 85.0]], "b": [[10.0, 60.0, 70.0], [14.0, 70.0, 75.0]]}
    chart = charts(values, measure)["aggregates"]
    assert len({drawn(panel).get_xlim() for panel in chart.panels[:3]}) == 1
    assert ("The optimality gap is the distance to 100, on an axis of its own." in chart.caption) == (measure is SCORE)


def test_probes_share_an_axis() -> None:
    swap, zero = (drawn(panel).get_xlim() for panel in charts(NARROW, fabricated.SUCCESS)["probes"].panels)
    assert swap == zero and swap[0] < 0


@pytest.mark.parametrize("most", [0.02, 0.5, 2.0, 40.0, 70.0, 130.0, 400.0, 9000.0, 1e6])
@pytest.mark.parametrize("missed", [False, True])
def test_ticks_of_times_differ(most: float, missed: bool) -> None:
    times = np.array([most, most / 3, np.inf if missed else most / 2])
    panel = panels.times("t", {"a": (times, most)}, numbers.duration, numbers.SECONDS)
    expected = x_labels(panel)
    assert len(expected) == len(set(expected)) >= 3
    assert len({text.split(" ")[-1] for text in expected} - {numbers.NEVER}) == 1


@pytest.mark.parametrize("around", [0.0, 0.43, 2000.0, 20_000.0, 1e6])
@pytest.mark.parametrize("width", [1e-3, 0.4, 3.0])
def test_ticks_of_estimates_have_no_offset(around: float, width: float) -> None:
    panel = panels.estimates("t", ["a"], {"a": Estimate(around, around - width, around + width)}, numbers.count)
    axes, expected = drawn(panel), x_labels(panel)
    assert axes.xaxis.get_offset_text().get_text() == ""
    assert len(expected) == len(set(expected)) >= 2


def test_lines_have_readable_ticks_on_both_axes() -> None:
    frames = np.linspace(0, 2e6, 11)
    band = panels.Band(frames / 1e9 + 1000, frames / 1e9 + 999.9995, frames / 1e9 + 1000.0005)
    draw: Callable[[Axes], None] = lambda axes: panels.lines(axes, frames, {0: band})  # noqa: E731
    axes = drawn(Panel(label="", size=(4, 3), draw=draw))
    for axis in (axes.xaxis, axes.yaxis):
        texts = [label.get_text() for label in axis.get_ticklabels()]
        assert len(set(texts)) == len(texts) and axis.get_offset_text().get_text() == ""


def test_single_runs_have_no_colour() -> None:
    for interval, coloured in (((None, None), False), ((0.4, 1.0), True)):
        axes = drawn(panels.matrix(["a", "b"], {"a": {"b": Estimate(1.0, *interval)}}))
        assert (len(axes.patches) == 4) == coloured
        assert [text.get_text() for text in axes.texts] == ["100"]
        assert axes.texts[0].get_fontweight() == "normal"
