"""Reports of many variants, many tasks, one run and unknown values, also with the real analysis."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import fabricated
import numpy as np
import pytest
from report_pages import VALUES, rows, written

from ablation.analysis import numbers
from ablation.analysis.analysis import analyse
from ablation.analysis.results import Estimate, Measure, Problem, Results


@pytest.mark.parametrize(
    "values", [{"only": [[0.5]]}, VALUES, {"one": [[0.2, 0.3]], "other": [[0.2, 0.3], [0.2, 0.3]]}]
)
def test_a_real_analysis_can_be_reported(values: dict[str, list[list[float]]], tmp_path: Path) -> None:
    """Also of runs that allow no interval."""
    results = fabricated.results(values)
    found = analyse(results)
    parts = {entry.name: getattr(found, entry.name) for entry in dataclasses.fields(found)}
    page = written(tmp_path, results, drawn="page", **parts)
    for sentence in (*found.sentences, found.resampled):
        assert sentence in page.text


def test_one_run_of_one_variant(tmp_path: Path) -> None:
    page = written(tmp_path, fabricated.results({"only": [[0.5]]}), drawn="page")
    assert "no intervals" in page.text
    assert "Every pair of variants" not in page.text and "Probability of improvement" not in page.text
    assert not any((tmp_path / "data" / f"{name}.csv").exists() for name in ("comparisons", "improvement"))
    assert rows(tmp_path, "aggregates")[0]["low"] == ""


@pytest.mark.slow
def test_sixteen_variants(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(size=(16, 2, 1))
    results = fabricated.results({f"variant {number}": part.tolist() for number, part in enumerate(values)})
    page = written(tmp_path, results, drawn="page")
    assert "variant 15" in page.text
    assert len(rows(tmp_path, "improvement")) == 16 * 15
    assert len(rows(tmp_path, "comparisons")) == 16 * 15 / 2


def test_many_tasks_are_folded(tmp_path: Path) -> None:
    written(tmp_path, fabricated.results({"a": [[0.5] * 14]}))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<summary>Learning curves by task: 14 tasks</summary>" in text
    assert len(re.findall(r'<svg [^>]*id="learning-curves-tasks-\d+"', text)) == 14


def test_unknown_values_are_left_out(tmp_path: Path) -> None:
    """No best value, no probes, curves with gaps or none at all."""
    results = fabricated.results(VALUES, measure=Measure(name="return", label="return", best=None))
    gap = {"task-0": np.array([math.nan] * 20), "task-1": np.array([math.nan] * 10 + [0.5] * 10)}
    results = dataclasses.replace(
        results,
        runs=tuple(dataclasses.replace(run, curve=dataclasses.replace(run.curve, values=gap)) for run in results.runs),
    )
    page = written(tmp_path, results, drawn="all", threshold=math.nan)
    assert "gap" not in page.text and "Context probes" not in page.text
    assert not (tmp_path / "data" / "probes.csv").exists()
    hover = json.loads(page.scripts[0])[0]
    assert hover["bands"]["0"][0][0] is None


COMPARING = re.compile(
    r"\b(ablation on|compar\w*|beats?|versus|vs\.?|differences?|differs?|rank\w*|better|worse|best|worst|faster|fastest|slower|slowest|"
    r"leads?|highest|lowest|matched|verdict|variants|pairs?|other|every one of)\b",
    re.IGNORECASE,
)


def alone(*values: list[float], **changes: object) -> Results:
    """Results of one variant; `changes` apply to every run but the first."""
    results = fabricated.results({"film": list(values)})
    first, *others = results.runs
    runs = (first, *(dataclasses.replace(run, **changes) for run in others))  # type: ignore[arg-type]
    return dataclasses.replace(
        results,
        runs=tuple(
            dataclasses.replace(run, probed={"swap": {task: value / 2 for task, value in run.values.items()}})
            for run in runs
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "results",
    [
        alone([0.5, 0.4], [0.6, 0.3], [0.55, 0.5]),
        alone([0.5, 0.4]),
        alone([0.5], [0.5]),
        alone([0.5], [0.6], parameters=2000, config={"core.size": 7}),
        dataclasses.replace(
            alone([0.5], [0.6]),
            problems=tuple(Problem(f"mi-seed{seed}", "its training is not finished.") for seed in range(2)),
        ),
    ],
    ids=["three seeds", "one seed", "alike", "other settings", "only one did not fail"],
)
def test_one_variant_is_described_and_not_compared(results: Results, tmp_path: Path) -> None:
    found = analyse(results)
    parts = {entry.name: getattr(found, entry.name) for entry in dataclasses.fields(found)}
    page = written(tmp_path, results, drawn="page", **parts)
    said = " ".join(page.text.split()) + (tmp_path / "report.md").read_text(encoding="utf-8")
    # "For other seeds" is what an interval is about; the probe is played with "another context".
    said = said.replace("for other seeds on the same tasks", "")
    assert [match[0] for match in COMPARING.finditer(said)] == []
    assert "film on fabricated" in said and "Summary" in page.text
    assert "its training is not finished." in said or not results.problems
    names = {path.stem for path in (tmp_path / "data").iterdir()}
    assert not any(COMPARING.search(name.replace("_", " ")) for name in names)
    assert all((tmp_path / link).is_file() for link in page.links if not link.startswith("#"))


def test_keys_that_vary_between_runs_of_one_variant_are_listed(tmp_path: Path) -> None:
    page = written(tmp_path, alone([0.5], [0.6], parameters=2000, config={"core.size": 7}))
    assert "More than the seed varies between the runs: core.size" in page.text
    assert "The runs have agents of 1,000 to 2,000 parameters." in page.text
    assert "what varies between the runs" in page.text
    assert {"run": "film-seed1", "key": "core.size", "value": "7"} in rows(tmp_path, "config_varying")


def test_pairs_have_equal_numbers_in_tables_csv_and_json(tmp_path: Path) -> None:
    """Also the order of the pairs is the given one."""
    rng = np.random.default_rng(0)
    results = fabricated.results({name: rng.uniform(0.3, 0.7, (4, 2)).tolist() for name in ("b", "c", "a")})
    speeds = rng.uniform(1900, 2100, len(results.runs))
    results = dataclasses.replace(
        results,
        runs=tuple(
            dataclasses.replace(run, frames_per_second=float(speed))
            for run, speed in zip(results.runs, speeds, strict=True)
        ),
    )
    found = analyse(results)
    written(tmp_path, results, **{entry.name: getattr(found, entry.name) for entry in dataclasses.fields(found)})
    expected = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))
    text, write = (
        (tmp_path / "report.md").read_text(encoding="utf-8").replace("\\", ""),
        numbers.of_measure(results.measure),
    )
    for row, pair in zip(rows(tmp_path, "comparisons"), expected["comparisons"], strict=True):
        estimate = Estimate(*(float(row[key]) for key in ("difference", "low", "high")))
        assert (row["first"], row["second"]) == (pair["first"], pair["second"])
        assert estimate == Estimate(**pair["difference"])
        claim = "yes" if row["claimed"] == "true" else "no"
        assert f"| {row['first']} minus {row['second']} | {numbers.estimate(estimate, write)} |" in text
        assert f"| {float(row['p']):.3f} | {claim} |" in text
    assert [(row["first"], row["second"]) for row in rows(tmp_path, "comparisons")] == [
        ("b", "c"),
        ("b", "a"),
        ("c", "a"),
    ]
    paces = expected["paces"] | expected["timing"]["paces"]
    assert set(paces) == {"area", "frames_to", "seconds_to", "frames_per_second"}
    writers = {"area": write, "seconds_to": numbers.duration}
    for row in rows(tmp_path, "sample_efficiency_pairs") + rows(tmp_path, "wall_clock_pairs"):
        (pair,) = (
            pair for pair in paces[row["quantity"]] if (pair["first"], pair["second"]) == (row["first"], row["second"])
        )
        assert repr(pair["difference"]["value"]) == row["difference"] and str(pair["claimed"]).lower() == row["claimed"]
        estimate = Estimate(**pair["difference"])
        assert numbers.estimate(estimate, writers.get(row["quantity"], numbers.count)) in text
    assert "no two of the 3 variants are told apart: the widest difference" in text
