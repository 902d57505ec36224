"""The report: what it says, that names stay names, that the same input gives the same bytes, and that its data are the analysis."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fabricated
import numpy as np
import pytest
from fabricated_analysis import analysis
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation import drawing
from ablation.analysis import analyse
from ablation.drawing import shown
from ablation.report import write_report
from ablation.results import Curve, Estimate, Measure, Problem, Results

VALUES = {
    "concat": [[0.2, 0.4], [0.3, 0.5], [0.25, 0.4]],
    "mi": [[0.7, 0.8], [0.9, 0.7], [0.8, 0.9]],
}
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></svg><!--",
    "{{ 7 * 7 }}{% raw %}",
    r"$\frac{1}{$ & <b>_*`[x](y)|z",
    "a\x00b\x1b\n# heading\r\n\u2028\u202e",
    " ",
    "'",
    "task 🎯 \N{LATIN SMALL LETTER E WITH ACUTE}" * 9,
)


class Page(HTMLParser):
    """What a page is made of: elements with the names of their attributes, text outside of scripts, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.kinds: set[tuple[str, str]] = set()
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self._script = self._style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds |= {(tag, name) for name, _ in attrs} | {(tag, "")}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "data", "xlink:href")]
        self._script, self._style = tag == "script", tag == "style"
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = self._style = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
        elif not self._style:
            self.text += data


def written(folder: Path, results: Results, *, pictures: bool = False, **changes: Any) -> Page:
    """The page of a report; without `pictures` the PNGs are empty, which halves the time."""
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            patch.setattr(drawing, "png", lambda _: b"")
        write_report(results, dataclasses.replace(analysis(results), **changes), folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "data" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two variants, two tasks and three seeds, with probes, a problem and a command."""
    folder = tmp_path_factory.mktemp("report")
    write_report(probed(), analysis(probed()), folder)
    return folder


def probed() -> Results:
    results = fabricated.results(VALUES)
    return dataclasses.replace(
        results,
        command="python ablate.py fusions=[concat,mi]",
        problems=(Problem("mi-seed3", "It was never evaluated."),),
        runs=tuple(
            dataclasses.replace(run, probed={"swap": {task: value / 2 for task, value in run.values.items()}})
            for run in results.runs
        ),
    )


def test_the_report_says_everything_in_its_order(report: Path) -> None:
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
    # The first is in the title too, and the contents name sections.
    assert sorted(places[5:]) == places[5:]
    assert max(places[:3]) < min(places[4:])
    # The value of each variant with its interval, as the analysis has it.
    found = analysis(probed()).aggregates["mi"]["mean"]
    assert found.low is not None and found.high is not None
    assert f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" in text


def test_every_link_leads_to_a_file_of_the_report_and_nothing_comes_from_outside(report: Path) -> None:
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


def test_no_id_stands_twice(report: Path) -> None:
    found = re.findall(r'\bid="([^"]*)"', (report / "report.html").read_text(encoding="utf-8"))
    assert sorted(found) == sorted(set(found))


def test_the_same_input_gives_the_same_files_to_the_byte(report: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    files = write_report(probed(), analysis(probed()), folder)
    assert sorted(files) == sorted(path for path in (tmp_path / "new").rglob("*") if path.is_file())
    assert [file.name for file in files[:3]] == ["report.html", "report.md", "analysis.json"]
    for file in files:
        content = file.read_bytes()
        assert content == (report / file.relative_to(folder)).read_bytes(), file.name
        assert file.suffix != ".png" or content.startswith(b"\x89PNG")


def test_a_reports_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, fabricated.results({"before": [[0.1]]}))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path, fabricated.results({"after": [[0.2]]}))
    assert {path: path.read_bytes() for path in before} == before


def test_every_figure_has_its_picture_and_its_data(report: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    figures = re.findall(r'<figure id="figure-(\w+)">(.*?)</figure>', text, re.DOTALL)
    assert {name for name, _ in figures} == {path.stem for path in (report / "figures").iterdir()}
    for name, figure in figures:
        caption = figure[figure.index("<figcaption>") :]
        assert re.search(r'href="data/\w+\.csv"', caption), name
        assert f'href="figures/{name}.png"' in caption
        assert "<svg" in figure


def test_the_data_are_those_of_the_analysis(report: Path) -> None:
    found = analysis(probed())
    for row in rows(report, "aggregates"):
        wanted = found.aggregates[row["variant"]][row["aggregate"]]
        assert Estimate(*(float(row[part]) for part in ("value", "low", "high"))) == wanted
    for variant, tasks in found.tasks.items():
        told = {row["task"]: float(row["mean"]) for row in rows(report, "tasks") if row["variant"] == variant}
        assert told == {task: estimate.value for task, estimate in tasks.items()}
    told = [float(row["value"]) for row in rows(report, "values")]
    assert told == [value for run in probed().runs for value in run.values.values()]
    claimed = {(row["better"], row["worse"]): row["claimed"] for row in rows(report, "comparisons")}
    assert claimed == {("mi", "concat"): "true"}
    assert [float(row["loss"]) for row in rows(report, "probes")] == pytest.approx(
        [found.probes[variant]["swap"].value for variant in found.probes]
    )


def test_what_the_pointer_reads_is_in_the_data(report: Path) -> None:
    """The page's script has the same numbers as the CSV, to the digits it shows."""
    page = Page((report / "report.html").read_text(encoding="utf-8"))
    hovers = {hover["panel"]: hover for hover in json.loads(page.scripts[0])}
    told = [row for row in rows(report, "learning_curves") if row["task"] == "mean over tasks"]
    hover = hovers["learning-curve-0"]
    for number, variant in enumerate(VALUES):
        for place, part in enumerate(("value", "low", "high")):
            wanted = [float(row[part]) for row in told if row["variant"] == variant]
            assert hover["bands"][str(number)][place] == pytest.approx(wanted, rel=1e-4)
    assert hover["at"] == pytest.approx([float(row["frames"]) for row in told if row["variant"] == "mi"], rel=1e-4)
    profiles = [float(row["share"]) for row in rows(report, "profiles") if row["variant"] == "mi"]
    assert hovers["profiles-0"]["bands"]["1"][0] == pytest.approx(profiles, rel=1e-4)


def test_time_stands_apart(report: Path, tmp_path: Path) -> None:
    """Two reports that differ in nothing but the speed of the machine are the same but for `timing` and the tables of wall-clock time."""
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
    write_report(slow, analysis(slow), tmp_path)
    one, other = (json.loads((folder / "analysis.json").read_text()) for folder in (report, tmp_path))
    assert one.pop("timing") != other.pop("timing")
    assert one == other
    differ = {
        path.stem
        for path in (report / "data").iterdir()
        if path.read_bytes() != (tmp_path / "data" / path.name).read_bytes()
    }
    assert differ == {"wall_clock", "wall_clock_runs"}


def test_plain_data_have_no_nan_and_no_infinity(tmp_path: Path) -> None:
    results = fabricated.results(VALUES)
    written(tmp_path, results, efficiency=analysis(results, threshold=2.0).efficiency)

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    told = json.loads((tmp_path / "analysis.json").read_text(), parse_constant=refused)
    assert told["efficiency"]["mi"]["frames_to"] == [None] * 3
    assert told["timing"]["efficiency"]["mi"]["seconds_to_median"] is None
    assert {row["frames_to"] for row in rows(tmp_path, "sample_efficiency_runs")} == {"inf"}
    assert "never" in (tmp_path / "report.md").read_text(encoding="utf-8")


def unmarked(line: str) -> str:
    return re.sub(r"\\.", "", line)


def check_names_stay_names(names: Sequence[str], tame: Page, folder: Path) -> None:
    """Every name but the first is a variant's; the first two are tasks', too."""
    page = written(folder, named(names))
    assert page.kinds <= tame.kinds
    assert len(page.scripts) == 2 and page.scripts[1] == tame.scripts[1]
    json.loads(page.scripts[0])
    for name in names:
        assert shown(name) in page.text
    text = (folder / "report.md").read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        # A name makes neither a column nor a tag.
        assert len({unmarked(line).count("|") for line in table.splitlines()}) == 1
        assert "<" not in unmarked(table)
    assert {row["variant"] for row in rows(folder, "aggregates")} == set(names[1:])


def named(names: Sequence[str]) -> Results:
    values = {name: [[0.1 * number, 0.2], [0.2, 0.3]] for number, name in enumerate(names[1:])}
    results = fabricated.results(values, tasks=names[:2])
    return dataclasses.replace(results, suite=names[0], command=names[0], problems=(Problem(names[1], names[0]),))


@pytest.fixture(scope="module")
def tame(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(tmp_path_factory.mktemp("tame"), named(("one", "two", "three")))


def test_names_stay_names(tame: Page, tmp_path: Path) -> None:
    check_names_stay_names(HOSTILE, tame, tmp_path)


@given(
    names=st.lists(
        st.text("<>&\"'/\\$`|{}%#_-!= ab\n\t\0é\u202e\u2028]", min_size=1), min_size=3, max_size=3, unique=True
    )
)
@settings(max_examples=4)
def test_any_name_stays_a_name(names: list[str], tame: Page, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_names_stay_names(names, tame, tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize(
    "values", [{"only": [[0.5]]}, VALUES, {"one": [[0.2, 0.3]], "other": [[0.2, 0.3], [0.2, 0.3]]}]
)
def test_what_statistics_make_of_results_can_be_told(values: dict[str, list[list[float]]], tmp_path: Path) -> None:
    """The real analysis, also of runs that allow no interval."""
    results = fabricated.results(values)
    found = analyse(results)
    page = written(tmp_path, results, **{entry.name: getattr(found, entry.name) for entry in dataclasses.fields(found)})
    for sentence in (*found.verdict.sentences, found.resampled):
        assert sentence in page.text


def test_one_run_of_one_variant(tmp_path: Path) -> None:
    page = written(tmp_path, fabricated.results({"only": [[0.5]]}), pictures=True)
    assert "no intervals" in page.text
    assert "Every pair of variants" not in page.text and "Probability of improvement" not in page.text
    assert rows(tmp_path, "aggregates")[0]["low"] == ""


def test_sixteen_variants(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(size=(16, 2, 1))
    page = written(
        tmp_path, fabricated.results({f"variant {number}": part.tolist() for number, part in enumerate(values)})
    )
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
    page = written(tmp_path, results, pictures=True, threshold=math.nan)
    assert "gap" not in page.text and "Context probes" not in page.text
    assert not (tmp_path / "data" / "probes.csv").exists()
    hover = json.loads(page.scripts[0])[0]
    assert hover["bands"]["0"][0][0] is None


def test_cautions_are_shown(tmp_path: Path) -> None:
    results = fabricated.results(VALUES)
    runs = (dataclasses.replace(results.runs[0], parameters=2000), *results.runs[1:])
    page = written(tmp_path, dataclasses.replace(results, runs=runs))
    assert "Parameters differ by 100.0%" in page.text
    assert "Parameters differ by 100.0%" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_like_runs_bring_no_caution(report: Path) -> None:
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


def test_markdown_has_the_verdict_the_tables_and_the_pictures(report: Path) -> None:
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
