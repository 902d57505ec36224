"""Page, CSV and JSON hold the values of the analysis; values that depend on speed are separate."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import fabricated
import pytest
from fabricated_analysis import analysis
from report_pages import VALUES, Page, probed, rows, written

from ablation.analysis.results import Curve, Estimate


def test_csv_files_hold_the_values_of_the_analysis(report: Path) -> None:
    found = analysis(probed())
    for row in rows(report, "aggregates"):
        wanted = found.aggregates[row["variant"]][row["aggregate"]]
        assert Estimate(*(float(row[part]) for part in ("value", "low", "high"))) == wanted
    for variant, tasks in found.tasks.items():
        expected = {row["task"]: float(row["mean"]) for row in rows(report, "tasks") if row["variant"] == variant}
        assert expected == {task: estimate.value for task, estimate in tasks.items()}
    expected = [float(row["value"]) for row in rows(report, "values")]
    assert expected == [value for run in probed().runs for value in run.values.values()]
    (pair,) = rows(report, "comparisons")
    assert (pair["first"], pair["second"], pair["claimed"]) == ("concat", "mi", "true")
    assert float(pair["difference"]) < 0
    for name in ("sample_efficiency_pairs", "wall_clock_pairs"):
        for row in rows(report, name):
            (one,) = found.paces[row["quantity"]]
            assert [row["first"], row["second"]] == [one.first, one.second]
            assert Estimate(*(float(row[part]) for part in ("difference", "low", "high"))) == one.difference
    assert [float(row["loss"]) for row in rows(report, "probes")] == pytest.approx(
        [found.probes[variant]["swap"].value for variant in found.probes]
    )


def test_values_at_the_pointer_are_in_the_csv_files(report: Path) -> None:
    """The page's script has the numbers of the CSV files, rounded."""
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    hovers = {hover["panel"]: hover for hover in json.loads(page.scripts[0])}
    expected = [row for row in rows(report, "learning_curves") if row["task"] == "mean over tasks"]
    hover = hovers["learning-curve-0"]
    for number, variant in enumerate(VALUES):
        for place, part in enumerate(("value", "low", "high")):
            wanted = [float(row[part]) for row in expected if row["variant"] == variant]
            assert hover["bands"][str(number)][place] == pytest.approx(wanted, rel=5.1e-4)
    assert hover["at"] == pytest.approx(
        [float(row["frames"]) for row in expected if row["variant"] == "mi"], rel=5.1e-4
    )
    profiles = [float(row["share"]) for row in rows(report, "profiles") if row["variant"] == "mi"]
    assert hovers["profiles-0"]["bands"]["1"][0] == pytest.approx(profiles, rel=5.1e-4)


def test_values_that_depend_on_speed_are_separate(report: Path, tmp_path: Path) -> None:
    """Reports of a faster and a slower machine differ in `timing` and the wall-clock tables only."""
    slow = probed()
    slow = dataclasses.replace(
        slow,
        runs=tuple(
            dataclasses.replace(
                run,
                seconds=3 * run.seconds,
                frames_per_second=run.frames_per_second / 3,
                curve=Curve(frames=run.curve.frames, seconds=3 * run.curve.seconds, values=run.curve.values),
            )
            for run in slow.runs
        ),
    )
    written(tmp_path, slow)
    one, other = (json.loads((folder / "analysis.json").read_text()) for folder in (report, tmp_path))
    assert one.pop("timing") != other.pop("timing")
    assert one == other
    differ = {
        path.stem
        for path in (report / "data").iterdir()
        if path.read_bytes() != (tmp_path / "data" / path.name).read_bytes()
    }
    assert differ == {"wall_clock", "wall_clock_runs"}


def test_json_has_no_nan_and_no_infinity(tmp_path: Path) -> None:
    results = fabricated.results(VALUES)
    written(tmp_path, results, efficiency=analysis(results, threshold=2.0).efficiency)

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    expected = json.loads((tmp_path / "analysis.json").read_text(), parse_constant=refused)
    assert expected["efficiency"]["mi"]["frames_to"] == [None] * 3
    assert expected["timing"]["efficiency"]["mi"]["seconds_to_median"] is None
    assert {row["frames_to"] for row in rows(tmp_path, "sample_efficiency_runs")} == {"inf"}
    assert "never" in (tmp_path / "report.md").read_text(encoding="utf-8")
