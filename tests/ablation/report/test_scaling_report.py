"""The curves over size in the report of a grid with several widths."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import fabricated
import numpy as np
from matplotlib.figure import Figure
from report_pages import Page, rows

from ablation.analysis.analysis import analyse
from ablation.analysis.results import Results
from ablation.report.figures import make_charts
from ablation.report.report import write_report

VALUES = {
    "concat width=0.5": [[0.2], [0.3], [0.25]],
    "concat width=2": [[0.3], [0.35], [0.3]],
    "mi width=0.5": [[0.7], [0.75], [0.72]],
    "mi width=2": [[0.8], [0.85], [0.86]],
}


def results(*, multiply_adds: bool = True) -> Results:
    found = fabricated.results(VALUES)
    runs = [
        dataclasses.replace(
            run,
            parameters=4000 if run.variant.endswith("2") else 250,
            multiply_adds=8000 * multiply_adds,
        )
        for run in found.runs
    ]
    return dataclasses.replace(found, runs=tuple(runs))


def test_the_report_shows_curves_over_size(tmp_path: Path) -> None:
    found = results()
    analysis = analyse(found)
    write_report(found, analysis, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    for words in ("mi leads at every width (0.5 and 2)", "Curves over size", "concat minus mi", "width 0.5"):
        assert words in page.text, words
    assert (tmp_path / "figures" / "scaling.png").stat().st_size > 1000
    table = rows(tmp_path, "scaling")
    assert [(row["variant"], row["width"], row["parameters"], row["multiply_adds"]) for row in table] == [
        (form, width, size, "8000") for form in ("concat", "mi") for width, size in (("0.5", "250"), ("2.0", "4000"))
    ]
    assert analysis.scaling is not None
    points = [point for row in analysis.scaling.points.values() for point in row]
    assert [[float(row[key]) for key in ("mean", "low", "high")] for row in table] == [list(one.mean) for one in points]
    content = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))["scaling"]
    assert content["widths"] == [0.5, 2]
    assert [point["mean"]["value"] for row in content["points"].values() for point in row] == [
        point.mean.value for point in points
    ]
    ((claim),) = content["claims"]
    assert (claim["better"], claim["worse"], claim["widths"]) == ("mi", "concat", [0.5, 2])
    assert claim["at_every_width"] is True
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "figures/scaling.png" in markdown
    (pairs,) = [line for line in markdown.splitlines() if line.startswith("| concat minus mi |")]
    assert pairs.count("\\*") == 2
    assert len(rows(tmp_path, "comparisons")) == 2
    for drawing in (tmp_path / "report.html").read_text(encoding="utf-8").split("<svg viewBox")[1:]:
        ElementTree.fromstring("<svg viewBox" + drawing.split("</svg>")[0] + "</svg>")


def test_the_figure_draws_each_form_against_parameters_and_multiply_adds() -> None:
    found = results()
    chart = make_charts(found, analyse(found))["scaling"]
    assert [panel.label.split(" against ")[1].split(",")[0] for panel in chart.panels] == [
        "parameters",
        "multiply-adds of an acting step",
    ]
    axes = Figure().add_subplot()
    chart.panels[0].draw(axes)
    drawn = {str(line.get_label()): line for line in axes.get_lines()}
    assert list(drawn) == ["concat", "mi"]
    assert np.asarray(drawn["mi"].get_xdata()).tolist() == [250, 4000]
    np.testing.assert_allclose(
        np.asarray(drawn["mi"].get_ydata(), float), [np.mean(VALUES[f"mi width={w}"]) for w in ("0.5", "2")]
    )
    assert axes.get_xscale() == "log" and axes.get_ylim() == (-0.03, 1.03)


def test_unknown_multiply_adds_have_no_panel() -> None:
    found = results(multiply_adds=False)
    assert len(make_charts(found, analyse(found))["scaling"].panels) == 1


def test_without_widths_there_are_no_curves_over_size(tmp_path: Path) -> None:
    found = fabricated.results({"concat": [[0.2], [0.3]], "mi": [[0.7], [0.8]]})
    write_report(found, analyse(found), tmp_path)
    assert "over size" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "data" / "scaling.csv").exists()
