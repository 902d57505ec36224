"""Figures label their axes with plain numbers, and can be drawn without any value."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from ablation.analysis.results import Estimate
from ablation.report.drawing import Panel, draw
from studies.harness.report import Scale, band, panel


def is_drawn(panels: list[Panel]) -> bool:
    return draw(panels, "study", ["mi"]).png.startswith(b"\x89PNG")


@pytest.mark.parametrize("x", [[1.0, 2.0, 4.0, 32.0], list(np.geomspace(1, 2000, 20))])
def test_logarithmic_axes_are_labelled_with_numbers(x: list[float]) -> None:
    estimates = [Estimate(10.0 * value**2, 9.0 * value**2, None) for value in x[:-1]]
    curve = panel("dot", x, [[*estimates, None]], ("d", "parameters"), ("log", "log"))
    axes = Figure().add_subplot()
    curve.draw(axes)
    axes.figure.canvas.draw()
    shown = [label.get_text() for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels(which="both")]
    assert "100" in shown and not [text for text in shown if "$" in text]
    if len(x) == 4:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "32"]
    assert is_drawn([curve])


def test_a_narrow_logarithmic_axis_has_numbers() -> None:
    curve = panel("sum", [1.0, 2.0], [[Estimate(18.0, 16.0, 26.0)] * 2], ("d", "n"), ("log", "log"))
    axes = Figure().add_subplot()
    curve.draw(axes)
    axes.figure.canvas.draw()
    assert {"18", "20", "24"} <= {label.get_text() for label in axes.get_yticklabels()}


@pytest.mark.parametrize("y_scale", ["log", "linear"])
@pytest.mark.parametrize("x", [[2.0], [1.0, 2.0, 4.0]])
def test_a_panel_without_any_value_says_so(x: list[float], y_scale: Scale) -> None:
    curve = panel("dot", x, [[None] * len(x)], ("d", "parameters"), ("log", y_scale))
    axes = Figure().add_subplot()
    curve.draw(axes)
    axes.figure.canvas.draw()
    assert not axes.get_yticklabels() and [text.get_text() for text in axes.texts] == ["no value"]
    assert is_drawn([curve, curve])


def test_a_band_is_nan_where_there_is_no_value() -> None:
    found = band([Estimate(1.0, 0.5, 2.0), None, Estimate(3.0, None, None)])
    np.testing.assert_array_equal(found.value, [1, np.nan, 3])
    np.testing.assert_array_equal(found.low, [0.5, np.nan, np.nan])


def test_points_are_drawn_from_left_to_right() -> None:
    curve = panel(
        "dot", [4.0, 1.0], [[Estimate(9.0, None, None), Estimate(3.0, None, None)]], ("d", "n"), ("log", "log")
    )
    axes = Figure().add_subplot()
    curve.draw(axes)
    assert [list(found) for found in axes.lines[0].get_data()] == [[1, 4], [3, 9]]
