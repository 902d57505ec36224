"""Names of variants, tasks and probes come from the user and are escaped in the report."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import fabricated
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_pages import Page, rows, written

from ablation.analysis import numbers
from ablation.analysis.results import Estimate, Problem, Results
from ablation.report import drawing, panels
from agents.cli.terminal import printable
from system.words import shorten

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></svg><!--",
    "{{ 7 * 7 }}{% raw %}",
    r"$\frac{1}{$ & <b>_*`[x](y)|z",
    "a\x00b\x1b\n# heading\r\n\u2028\u202e",
    " ",
    "'",
    "half \ud800 \udcff",
    "task 🎯 \N{LATIN SMALL LETTER E WITH ACUTE}" * 9,
)
RISKY = "<>&\"'/\\$`|{}%#_-!= ab\n\t\0é\u202e\u2028]\udcff\ud83d"


def unmarked(line: str) -> str:
    return re.sub(r"\\.", "", line)


def check_names_stay_names(names: Sequence[str], tame: Page, page: Page, folder: Path) -> None:
    """All names but the first are variants; the first two are also tasks."""
    assert page.kinds <= tame.kinds
    assert len(page.scripts) == 2 and page.scripts[1] == tame.scripts[1]
    json.loads(page.scripts[0])
    for name in names:
        assert shorten(name) in page.text
    text = (folder / "report.md").read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        # A name adds neither a column nor a tag.
        assert len({unmarked(line).count("|") for line in table.splitlines()}) == 1
        assert "<" not in unmarked(table)
    assert {row["variant"] for row in rows(folder, "aggregates")} == {printable(name) for name in names[1:]}


def named(names: Sequence[str]) -> Results:
    values = {name: [[0.1 * number, 0.2], [0.2, 0.3]] for number, name in enumerate(names[1:])}
    results = fabricated.results(values, tasks=names[:2])
    return dataclasses.replace(results, suite=names[0], command=names[0], problems=(Problem(names[1], names[0]),))


@pytest.fixture(scope="module")
def tame(report: Path) -> Page:
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_names_are_escaped(tame: Page, tmp_path: Path) -> None:
    check_names_stay_names(HOSTILE, tame, written(tmp_path, named(HOSTILE), drawn="page"), tmp_path)


@given(names=st.lists(st.text(RISKY, min_size=1), min_size=3, max_size=3, unique=True))
@settings(max_examples=10)
def test_any_name_is_escaped(names: list[str], tame: Page, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    check_names_stay_names(names, tame, written(folder, named(names)), folder)


@given(name=st.text(RISKY, min_size=1))
@settings(max_examples=6)
def test_any_name_can_be_drawn(name: str) -> None:
    panel = panels.estimates(name, [name], {name: Estimate(0.5, 0.4, 0.6)}, numbers.probability)
    sheet = drawing.draw([panel], "one", [name])
    root = ElementTree.fromstring(sheet.panels[0].svg)
    assert root.attrib["aria-label"] == f"{shorten(name)}, for each variant."
    assert {part.tag for part in root.iter()} <= {"svg", "g", "defs", "path", "clipPath", "rect", "use", "text"}
    expected = [part.text for part in root.iter("text")]
    # A name of spaces is not drawn.
    assert expected.count(shorten(name, panels.LONGEST_NAME)) == (2 if name.strip() else 0)
