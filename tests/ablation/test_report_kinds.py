"""Reports of much and of little: many variants, many tasks, one run, unknown values, and what the real analysis makes of each."""

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

from ablation.analysis import analyse
from ablation.results import Measure


@pytest.mark.parametrize(
    "values", [{"only": [[0.5]]}, VALUES, {"one": [[0.2, 0.3]], "other": [[0.2, 0.3], [0.2, 0.3]]}]
)
def test_what_statistics_make_of_results_can_be_told(values: dict[str, list[list[float]]], tmp_path: Path) -> None:
    """The real analysis, also of runs that allow no interval."""
    results = fabricated.results(values)
    found = analyse(results)
    parts = {entry.name: getattr(found, entry.name) for entry in dataclasses.fields(found)}
    page = written(tmp_path, results, drawn="page", **parts)
    for sentence in (*found.verdict.sentences, found.resampled):
        assert sentence in page.text


def test_one_run_of_one_variant(tmp_path: Path) -> None:
    page = written(tmp_path, fabricated.results({"only": [[0.5]]}), drawn="page")
    assert "no intervals" in page.text
    assert "Every pair of variants" not in page.text and "Probability of improvement" not in page.text
    assert rows(tmp_path, "aggregates")[0]["low"] == ""


def test_sixteen_variants(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(size=(16, 2, 1))
    results = fabricated.results({f"variant {number}": part.tolist() for number, part in enumerate(values)})
    page = written(tmp_path, results, drawn="page")
    assert "variant 15" in page.text
    assert len(rows(tmp_path, "improvement")) == 16 * 15


def test_many_tasks_are_folded_away(tmp_path: Path) -> None:
    written(tmp_path, fabricated.results({"a": [[0.5] * 14]}))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<summary>Learning curves by task: 14 tasks</summary>" in text
    assert len(re.findall(r'<svg [^>]*id="learning-curves-tasks-\d+"', text)) == 14


def test_what_is_unknown_is_left_out(tmp_path: Path) -> None:
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
