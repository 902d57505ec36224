"""Writes reports of fabricated results and reads them."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import fabricated
import pytest
from fabricated_analysis import analysis

from ablation.analysis.results import Problem, Results
from ablation.report import drawing
from ablation.report.drawing import Drawn, Panel, Sheet
from ablation.report.report import write_report

VALUES = {
    "concat": [[0.2, 0.4], [0.3, 0.5], [0.25, 0.4]],
    "mi": [[0.7, 0.8], [0.9, 0.7], [0.8, 0.9]],
}


class Page(HTMLParser):
    """A parsed page: its elements with the names of their attributes, text outside of scripts, and scripts."""

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


def written(
    folder: Path, results: Results, *, drawn: Literal["nothing", "page", "all"] = "nothing", **changes: Any
) -> Page:
    """Writes a report and reads its page. `drawn` limits the drawing, which takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        if drawn == "nothing":
            patch.setattr(drawing, "draw", blank)
        elif drawn == "page":
            patch.setattr(drawing, "png", lambda _: b"")
        write_report(results, dataclasses.replace(analysis(results), **changes), folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def blank(panels: Sequence[Panel], name: str, _: Sequence[str] = ()) -> Sheet:
    """Replaces `drawing.draw`."""
    box, ends = (0, 0, 1, 1), (0, 1)
    names = [f"{name}-{number}" for number in range(len(panels))]
    return Sheet(
        b"",
        [Drawn(panel, name, f'<svg id="{name}"></svg>', box, ends) for panel, name in zip(panels, names, strict=True)],
    )


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "data" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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
