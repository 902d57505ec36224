"""Figures say their numbers in words that everybody can read."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure as Sheet

from ablation.analysis.results import Estimate
from studies.harness.figures import Figure, Scale, band, curves, png


@pytest.mark.parametrize("x", [[1.0, 2.0, 4.0, 32.0], list(np.geomspace(1, 2000, 20))])
def test_logarithmic_axes_are_labelled_with_numbers(x: list[float]) -> None:
    estimates = [Estimate(10.0 * value**2, 9.0 * value**2, None) for value in x[:-1]]
    panel = curves("dot", np.array(x), {0: band([*estimates, None])}, "d", "parameters", ("log", "log"))
    axes = Sheet().add_subplot()
    panel.draw(axes)
    axes.figure.canvas.draw()
    shown = [label.get_text() for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels(which="both")]
    assert "100" in shown and not [text for text in shown if "$" in text]
    if len(x) == 4:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "32"]
    assert png(Figure([panel], ["mi"])).startswith(b"\x89PNG")


def test_a_narrow_logarithmic_axis_has_numbers() -> None:
    panel = curves("sum", np.array([1.0, 2.0]), {0: band([Estimate(18.0, 16.0, 26.0)] * 2)}, "d", "n", ("log", "log"))
    axes = Sheet().add_subplot()
    panel.draw(axes)
    axes.figure.canvas.draw()
    assert {"18", "20", "24"} <= {label.get_text() for label in axes.get_yticklabels()}


@pytest.mark.parametrize("y_scale", ["log", "linear"])
@pytest.mark.parametrize("x", [[2.0], [1.0, 2.0, 4.0]])
def test_nothing_found_is_a_figure_too(x: list[float], y_scale: Scale) -> None:
    panel = curves("dot", np.array(x), {0: band([None] * len(x))}, "d", "parameters", ("log", y_scale))
    axes = Sheet().add_subplot()
    panel.draw(axes)
    axes.figure.canvas.draw()
    assert not axes.get_yticklabels() and [text.get_text() for text in axes.texts] == ["no value"]
    assert png(Figure([panel, panel], ["concat"])).startswith(b"\x89PNG")


def test_a_band_has_gaps_where_nothing_was_found() -> None:
    found = band([Estimate(1.0, 0.5, 2.0), None, Estimate(3.0, None, None)])
    np.testing.assert_array_equal(found.value, [1, np.nan, 3])
    np.testing.assert_array_equal(found.low, [0.5, np.nan, np.nan])
