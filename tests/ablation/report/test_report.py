"""The report: its sections, links, files and reproducibility."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import fabricated
import pytest
from fabricated_analysis import analysis
from report_pages import VALUES, Page, probed, rows, written

from ablation.report.report import write_report


def test_the_report_has_every_section_in_order(report: Path) -> None:
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.text.split())
    places = [
        text.index(part)
        for part in (
            "Ablation on fabricated",
            "mi is better than concat.",
            "More seeds would tell more.",
            "What was run",
            "python ablate.py fusions=[concat,mi]",
            "It was never evaluated.",
            "fusion.name",
            "Learning curve, mean over tasks",
            "Learning curves by task",
            "Interquartile mean",
            "Performance profiles",
            "Probability of improvement",
            "Every pair of variants",
            "Evaluation by task",
            "Sample efficiency",
            "Wall-clock efficiency",
            "What each probe takes",
            "Two standard errors of the mean over runs",
        )
    ]
    # The title and the table of contents repeat some names.
    assert sorted(places[5:]) == places[5:]
    assert max(places[:3]) < min(places[4:])
    # Value and interval of each variant are those of the analysis.
    found = analysis(probed()).aggregates["mi"]["mean"]
    assert found.low is not None and found.high is not None
    assert f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" in text


def test_links_lead_to_files_of_the_report_and_nothing_loads_from_outside(report: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    local = [link for link in page.links if not link.startswith("#")]
    assert len(local) > 20
    assert [link for link in local if not (report / link).is_file()] == []
    inner = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inner <= set(re.findall(r'id="([^"]*)"', text))
    assert "http:" not in text and "https:" not in text and "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "default-src 'none'" in text


def test_ids_are_unique(report: Path) -> None:
    found = re.findall(r'\bid="([^"]*)"', (report / "report.html").read_text(encoding="utf-8"))
    assert sorted(found) == sorted(set(found))


@pytest.mark.slow
def test_equal_input_gives_equal_bytes(report: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    files = write_report(probed(), analysis(probed()), folder)
    assert sorted(files) == sorted(path for path in (tmp_path / "new").rglob("*") if path.is_file())
    assert [file.name for file in files[:3]] == ["report.html", "report.md", "analysis.json"]
    for file in files:
        content = file.read_bytes()
        assert content == (report / file.relative_to(folder)).read_bytes(), file.name
        assert file.suffix != ".png" or content.startswith(b"\x89PNG")


def test_files_are_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, fabricated.results({"before": [[0.1]]}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path, fabricated.results({"after": [[0.2]]}))
    assert {path: path.read_bytes() for path in before} == before


def test_every_figure_has_a_png_and_a_csv_file(report: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    figures = re.findall(r'<figure id="figure-(\w+)">(.*?)</figure>', text, re.DOTALL)
    assert {name for name, _ in figures} == {path.stem for path in (report / "figures").iterdir()}
    for name, figure in figures:
        caption = figure[figure.index("<figcaption>") :]
        assert re.search(r'href="data/\w+\.csv"', caption), name
        assert f'href="figures/{name}.png"' in caption
        assert "<svg" in figure


def test_the_page_shows_cautions(tmp_path: Path) -> None:
    results = fabricated.results(VALUES)
    runs = (dataclasses.replace(results.runs[0], parameters=2000), *results.runs[1:])
    page = written(tmp_path, dataclasses.replace(results, runs=runs))
    assert "a difference may be one of size" in page.text
    assert "a difference may be one of size" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_equal_settings_give_no_caution(report: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    assert "Caution" not in Page(text).text
    assert {row["key"] for row in rows(report, "config_differences")} == {"fusion.name"}
    assert [row["key"] for row in rows(report, "config_shared")] == ["env.name"]


def test_the_table_of_differences_is_long_rather_than_wide(tmp_path: Path) -> None:
    results = fabricated.results(VALUES)
    runs = tuple(
        dataclasses.replace(run, config={**run.config, "core.size": len(run.variant), "core.name": run.variant})
        for run in results.runs
    )
    written(tmp_path, dataclasses.replace(results, runs=runs))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| key | concat | mi |\n| :--- | :--- | :--- |\n| core.name | concat | mi |\n| core.size | 6 | 2 |\n" in text


def test_markdown_has_verdict_tables_and_figures(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    assert text.startswith(
        "# Ablation on fabricated\n\n**mi is better than concat.**\n\n- More seeds would tell more.\n"
    )
    assert (
        "| variant | IQM | median | mean | optimality gap |\n| :--- | ---: | ---: | ---: | ---: |\n| concat | 0."
        in text
    )
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert len(pictures) == len(list((report / "figures").iterdir()))
    assert all((report / picture).is_file() for picture in pictures)
    assert "\n\n\n" not in text
