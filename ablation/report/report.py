"""Writes the report of an ablation or of one variant: a self-contained HTML page, Markdown, figures, CSV and JSON.

    report.html  report.md  analysis.json  figures/<name>.png  data/<name>.csv

It contains no date: equal results and analyses give equal bytes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ablation.analysis import comparability
from ablation.analysis.results import Analysis, Results
from ablation.analysis.sentences import describe_paces
from ablation.report import drawing, figures
from ablation.report.analysis_json import to_json
from ablation.report.drawing import DARK, LIGHT, Hover, shorten
from ablation.report.tables import make_tables
from system.files import check_links, write_whole

HTML, MARKDOWN, JSON = "report.html", "report.md", "analysis.json"
FIGURES, DATA = "figures", "data"

_MARKS = re.compile(r"([\\`*_\[\]<>#|~&$])")
_GAPS = re.compile(r"\n{3,}")
_DIGITS = 4
"""Digits of the values at the pointer; the script shows as many."""
_PIXELS_PER_INCH = 115
"""Largest scale of a panel, at which its letters are as large as the text."""


def write_report(results: Results, analysis: Analysis, folder: Path) -> list[Path]:
    """Writes the report into `folder`, creates it if needed, and replaces earlier files.

    Everything is drawn before the first file is written. Each file is written atomically, report.html last. It is the first of the
    returned paths. OSError if a file cannot be written.
    """
    check_links(folder, FIGURES, DATA)
    found = comparability.configs(results)
    cautions = tuple(comparability.cautions(results, found))
    charts = figures.make_charts(results, analysis)
    sheets = {
        name: drawing.draw(chart.panels, name.replace("_", "-"), results.variants if chart.legend else ())
        for name, chart in charts.items()
    }
    tables = make_tables(results, analysis, found)
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
    files: dict[str, str | bytes] = {
        HTML: _html(content),
        # Without the gaps of omitted parts.
        MARKDOWN: _GAPS.sub("\n\n", _environment(html=False).get_template("report.md.j2").render(content)),
        JSON: json.dumps(to_json(results, analysis, found, cautions), indent=2, allow_nan=False) + "\n",
        **{f"{FIGURES}/{name}.png": sheet.png for name, sheet in sheets.items()},
        **{f"{DATA}/{table.data.name}.csv": table.data.csv for table in tables.values()},
    }
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
        "y": _rounded(drawn.y),
        "at": _rounded(hover.x),
        "bands": {str(number): [_rounded(part) for part in band] for number, band in hover.bands.items()},
    }


def _rounded(values: Iterable[float]) -> list[float | None]:
    """Rounded for the script; None for infinite and undefined values."""
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in values]


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
    environment.filters |= {"shown": shorten, "md": _markdown}
    return environment


def _markdown(text: str) -> str:
    """Text with Markdown's special characters escaped, also for tables."""
    return _MARKS.sub(r"\\\1", shorten(text))
