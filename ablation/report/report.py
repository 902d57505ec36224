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
from ablation.report.drawing import DARK, LIGHT, Panel, shorten
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

    Everything is drawn before the first file is written. Each file is written atomically, report.html last.

    Returns:
        The files, report.html first.

    Raises:
        OSError: A file cannot be written.
    """
    check_links(folder, FIGURES, DATA)
    found = comparability.configs(results)
    cautions = tuple(comparability.cautions(results, found))
    charts = figures.make_charts(results, analysis)
    sheets = {
        chart.name: drawing.draw(chart.panels, _dashed(chart.name), results.variants if chart.legend else ())
        for chart in charts.values()
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
    environment = _environment(html=True)
    script = environment.get_template("report.js").render()
    drawn = {
        name: list(zip(content["charts"][name].panels, sheet.panels, strict=True))
        for name, sheet in content["sheets"].items()
    }
    return environment.get_template("report.html.j2").render(
        content,
        style=Markup(environment.get_template("report.css").render(light=LIGHT, dark=DARK)),
        script=Markup(script),
        # The page's security policy allows this script only, and no loading.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        drawings={
            name: [(Markup(found.svg), round(_PIXELS_PER_INCH * panel.size[0])) for panel, found in panels]
            for name, panels in drawn.items()
        },
        hovers=[
            hover
            for name, panels in drawn.items()
            for number, (panel, found) in enumerate(panels)
            if (hover := _hover(panel, found, f"{_dashed(name)}-{number}"))
        ],
        legend=[(variant, Markup(drawing.swatch(number))) for number, variant in enumerate(results.variants)],
    )


def _dashed(name: str) -> str:
    """The name of a chart for ids of the page."""
    return name.replace("_", "-")


def _hover(panel: Panel, drawn: drawing.Drawn, name: str) -> dict[str, Any] | None:
    if panel.hover is None:
        return None
    return {
        "panel": name,
        "unit": panel.hover.unit,
        "box": _rounded(drawn.box),
        "x": _rounded(drawn.x),
        "y": _rounded(drawn.y),
        "at": _rounded(panel.hover.x),
        "bands": {str(number): [_rounded(part) for part in band] for number, band in panel.hover.bands.items()},
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
