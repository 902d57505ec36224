"""The part of the report on tuning."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import fabricated
from report_pages import VALUES, rows, written

from ablation.analysis.analysis import analyse
from ablation.analysis.results import Choice, TuningRun
from ablation.report.tuning_tables import tuning_tables

KEY = "learner.learning_rate"
REPORTED = fabricated.results(VALUES)


def tuned(variant: str, seed: int | None, *values: float | None) -> Choice:
    runs = tuple(
        TuningRun(f"{variant},{KEY}={rate}-seed10", 10, {KEY: rate}, value, 2500, "" if value else "it <broke>")
        for rate, value in zip((0.0003, 0.001, 0.003), values, strict=True)
    )
    return Choice(variant=variant, seed=seed, measure="success", chosen={KEY: 0.001}, runs=runs)


def test_the_report_has_the_choices_and_the_whole_search(tmp_path: Path) -> None:
    choices = (tuned("concat", None, 0.125, 0.5, None), tuned("mi", None, 0.25, 0.5, 0.375))
    results = dataclasses.replace(REPORTED, choices=choices)
    found = analyse(results)
    page = written(tmp_path, results, tuning=found.tuning, sentences=found.sentences)
    text = " ".join(page.text.split())
    chosen = f"{KEY}=0.001"
    assert "Tuned values, from 15,000 frames of tuning" in text
    tables = tuning_tables(results, found)
    assert tables["tuned_values"].rows == [
        ("concat", chosen, "0.500", "0.375", "2", "1", "7,500"),
        ("mi", chosen, "0.500", "0.250", "3", "0", "7,500"),
    ]
    assert tables["tuning"].head == ("variant: values", "mean", "seed 10")
    assert tables["tuning"].rows[1:4] == [
        (f"concat: {KEY}=0.001", "0.500", "0.500 *"),
        (f"concat: {KEY}=0.003", "-", "failed"),
        (f"mi: {KEY}=0.0003", "0.250", "0.250"),
    ]
    assert text.index("Tuning") < text.index("Tuned values") < text.index("Learning curve, mean over tasks")
    assert [(row["variant"], row["chosen"], row["spread"]) for row in rows(tmp_path, "tuned_values")] == [
        ("concat", chosen, "0.375"),
        ("mi", chosen, "0.25"),
    ]
    search = rows(tmp_path, "tuning")
    assert len(search) == 6 and {row["tuning_seed"] for row in search} == {"10"}
    assert [row["values"] for row in search if row["chosen"] == "true"] == [chosen, chosen]
    assert [(row["value"], row["reason"]) for row in search if row["reason"]] == [("", "it <broke>")]
    content = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))["tuning"]
    assert content["mi"]["combinations"][1]["chosen"] == 1 and content["concat"]["failed"][0]["reason"] == "it <broke>"
    assert (content["mi"]["frames"], content["mi"]["spread"]) == (7500, 0.25)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Tuning" in markdown and "### Tuning: the whole search (\\* chosen)" in markdown


def test_a_grid_without_tuning_has_no_such_part(tmp_path: Path) -> None:
    page = written(tmp_path, REPORTED)
    assert "Tuning" not in page.text and "Tuned" not in page.text
    assert not (tmp_path / "data" / "tuning.csv").exists()
    assert "## Tuning" not in (tmp_path / "report.md").read_text(encoding="utf-8")
