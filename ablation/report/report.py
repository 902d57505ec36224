"""Writes the report of an ablation or of one variant.

It is a self-contained HTML page, Markdown, figures, CSV and JSON:

    report.html  report.md  analysis.json  figures/<name>.png  data/<name>.csv  data/{rliable,marl_eval}.json

It contains no date. Equal results and analyses give equal bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ablation.analysis import comparability
from ablation.analysis.comparability import Configs
from ablation.analysis.efficiency import common_frames, curves
from ablation.analysis.results import Analysis, Results
from ablation.analysis.sentences import describe_paces
from ablation.report import drawing, figures
from ablation.report.drawing import DARK, LIGHT, Hover
from ablation.report.exchange import marl_eval_scores, rliable_scores
from ablation.report.tables import curve_data, make_tables
from ablation.report.tuning_tables import tuning_tables
from system.files import check_links, finite_or_null, write_whole
from system.words import shorten

Files: TypeAlias = dict[str, str | bytes]
"""Content by name in the folder of the report."""

HTML, MARKDOWN, JSON = "report.html", "report.md", "analysis.json"
FIGURES, DATA = "figures", "data"

_MARKS = re.compile(r"([\\`*_\[\]<>#|~&$])")
_GAPS = re.compile(r"\n{3,}")
_DIGITS = 4
"""Digits of the values at the pointer; the script shows as many."""
_PIXELS_PER_INCH = 115
"""Largest scale of a panel, at which its letters are as large as the text."""

_OF_RUN = (
    *("name", "variant", "seed", "values", "probed", "episodes", "parameters", "multiply_adds", "frames"),
    "provenance",
)
_TIMES_OF_RUN = ("name", "seconds", "frames_per_second")
_TIMES = {"seconds_to", "seconds_to_median", "frames_per_second"}
"""Keys of `Efficiency` and of `Analysis.paces` that depend on the speed of the machine."""


def write_report(results: Results, analysis: Analysis, folder: Path) -> list[Path]:
    """Writes the report into `folder`, creates it if needed, and replaces earlier files.

    Everything is drawn before the first file is written. Each file is written atomically, report.html last. It is the first of the
    returned paths. OSError if a file cannot be written.
    """
    check_links(folder, FIGURES, DATA)
    found = comparability.configs(results)
    cautions = tuple(comparability.cautions(results, found))
    charts = figures.make_charts(results, analysis)
    sheets = _draw(charts, results)
    tables = make_tables(results, analysis, found) | tuning_tables(results, analysis)
    content = {
        "results": results,
        "analysis": analysis,
        "cautions": cautions,
        "charts": charts,
        "sheets": sheets,
        "tables": {name: table for name, table in tables.items() if table.is_shown},
        "data": list(dict.fromkeys(table.data.name for table in tables.values())),
        "paces": describe_paces(results, analysis),
        "title": f"{'Ablation' if len(results.variants) > 1 else results.variants[0]} on {results.suite}",
    }
    files: Files = {
        HTML: _html(content),
        # Without the gaps of omitted parts.
        MARKDOWN: _GAPS.sub("\n\n", _environment(html=False).get_template("report.md.j2").render(content)),
        JSON: json.dumps(to_json(results, analysis, found, cautions), indent=2, allow_nan=False) + "\n",
        **_pictures(sheets),
        **{f"{DATA}/{table.data.name}.csv": table.data.csv for table in tables.values()},
        f"{DATA}/rliable.json": json.dumps(rliable_scores(results), allow_nan=False) + "\n",
        f"{DATA}/marl_eval.json": json.dumps(marl_eval_scores(results), allow_nan=False) + "\n",
    }
    return _write(folder, files)


def write_curves(results: Results, folder: Path) -> list[Path]:
    """Writes the learning curves of the runs alone, as figures and CSV. Returns the paths; OSError if a file cannot be written."""
    check_links(folder, FIGURES, DATA)
    frames = common_frames(results)
    found = {variant: curves(results, variant, frames) for variant in results.variants}
    charts = {chart.name: chart for chart in figures.curve_charts(results, frames, found)}
    data = curve_data(frames, found)
    return _write(folder, {**_pictures(_draw(charts, results)), f"{DATA}/{data.name}.csv": data.csv})


def _draw(charts: Mapping[str, figures.Chart], results: Results) -> dict[str, drawing.Sheet]:
    return {
        name: drawing.draw(chart.panels, name.replace("_", "-"), results.variants if chart.legend else ())
        for name, chart in charts.items()
    }


def _pictures(sheets: Mapping[str, drawing.Sheet]) -> Files:
    return {f"{FIGURES}/{name}.png": sheet.png for name, sheet in sheets.items()}


def _write(folder: Path, files: Files) -> list[Path]:
    """Writes files by name, the last one first, and returns their paths."""
    for part in (FIGURES, DATA):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, text in reversed(files.items()):
        write_whole(folder / name, text)
    return [folder / name for name in files]


def _html(content: Mapping[str, Any]) -> str:
    results: Results = content["results"]
    sheets: dict[str, drawing.Sheet] = content["sheets"]
    environment = _environment(html=True)
    script = environment.get_template("report.js").render()
    return environment.get_template("report.html.j2").render(
        content,
        style=Markup(environment.get_template("report.css").render(light=LIGHT, dark=DARK)),
        script=Markup(script),
        # The page's security policy allows this script only, and no loading.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        drawings={
            name: [(Markup(drawn.svg), round(_PIXELS_PER_INCH * drawn.panel.size[0])) for drawn in sheet.panels]
            for name, sheet in sheets.items()
        },
        hovers=[
            _hover(drawn, drawn.panel.hover) for sheet in sheets.values() for drawn in sheet.panels if drawn.panel.hover
        ],
        legend=[(variant, Markup(drawing.swatch(number))) for number, variant in enumerate(results.variants)],
    )


def _hover(drawn: drawing.Drawn, hover: Hover) -> dict[str, Any]:
    return {
        "panel": drawn.name,
        "unit": hover.unit,
        "box": _rounded(drawn.box),
        "x": _rounded(drawn.x),
        "at": _rounded(hover.x),
        "bands": {str(number): [_rounded(part) for part in band] for number, band in hover.bands.items()},
    }


def _rounded(values: Iterable[float]) -> list[float | None]:
    """Rounded for the script; None for infinite and undefined values."""
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in values]


def to_json(results: Results, analysis: Analysis, configs: Configs, cautions: tuple[str, ...]) -> dict[str, Any]:
    """The content of analysis.json: everything as plain data; infinite and undefined numbers are None.

    Values that depend on the speed of the machine are under the key `timing`, so that the rest of two reports can be compared.
    """
    found: dict[str, Any] = plain(analysis)
    efficiency, paces, sentences, comparisons = (
        found.pop(key) for key in ("efficiency", "paces", "sentences", "comparisons")
    )
    content = {
        "suite": results.suite,
        "measure": results.measure,
        "tasks": results.tasks,
        "variants": results.variants,
        "command": results.command,
        "problems": results.problems,
        "cautions": cautions,
        "config": configs,
        "runs": [{key: getattr(run, key) for key in _OF_RUN} for run in results.runs],
        **found,
        "comparisons": comparisons,
        "efficiency": {variant: _part(row, timing=False) for variant, row in efficiency.items()},
        "paces": _part(paces, timing=False),
        "timing": {
            # One sentence of the verdict reports the speed.
            "verdict": sentences,
            "runs": [{key: getattr(run, key) for key in _TIMES_OF_RUN} for run in results.runs],
            "efficiency": {variant: _part(row, timing=True) for variant, row in efficiency.items()},
            "paces": _part(paces, timing=True),
        },
    }
    return finite_or_null(plain(content))  # type: ignore[no-any-return]


def _part(row: Mapping[str, Any], *, timing: bool) -> dict[str, Any]:
    """The entries whose keys are in _TIMES, or the others."""
    return {key: value for key, value in row.items() if (key in _TIMES) == timing}


def plain(value: Any) -> Any:
    """Structures as dictionaries, and arrays and tuples as lists."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


@functools.cache
def _environment(*, html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("ablation.report"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"shown": shorten, "md": escape_markdown}
    return environment


def escape_markdown(text: str) -> str:
    """Text with Markdown's special characters escaped, also for tables."""
    return _MARKS.sub(r"\\\1", shorten(text))
