"""How the report draws: a panel is drawn by one function, for a paper as part of a PNG and for the page as an SVG inside of it.

In the page the colours are CSS variables, so that it can be dark or light, and whatever belongs to one variant says so in
`data-variant`, so that a few lines of script can show and hide it.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from ablation.results import Band

INK, MUTED, GRID, PAPER = "#1b1f27", "#59616f", "#d9dde4", "#ffffff"
"""Text, lesser text, grid lines and background on paper; variables of the same names on the page."""

LIGHT = ("#0a84ea", "#c75e14", "#027b5d", "#6e1260", "#5a4300", "#686d93", "#403aa6", "#b10039")
DARK = ("#a9e0ff", "#d67c3f", "#5fe6a8", "#bd72ae", "#f0e46a", "#4aa8f8", "#6f7cf0", "#ea6377")
"""Colours of variants on paper and on the dark page. Each two of them are told apart by the colour-blind too (a test simulates it), and
none stands without a line style and a marker of its own."""

_LINES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (5, 1.4, 1.2, 1.4)), (0, (1.4, 1.2)))
_MARKERS = "osD^vPX*"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mimpala",
    # A name is text, whatever is in it.
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
}
_VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    **{colour: f"var(--v{number})" for number, colour in enumerate(LIGHT)},
}
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_REFERENCE = re.compile(r"url\(#")
_BEYOND_HUNDREDTHS = re.compile(r"(\.\d\d)\d+")
_OF_VARIANT = "variant-"
_DPI, _MOST_PIXELS = 200, 6000


class Look(NamedTuple):
    """How a variant is drawn: `colour` an index of LIGHT and DARK, `dashes` of matplotlib, `fill` of the marker."""

    colour: int
    dashes: Any
    marker: str
    filled: bool

    @property
    def paint(self) -> str:
        return LIGHT[self.colour]

    @property
    def fill(self) -> str:
        return self.paint if self.filled else PAPER


class Hover(NamedTuple):
    """What a pointer over a panel reads: at each of `x` [N] the bands [N] by the number of the variant; `unit` is said after x."""

    x: Any
    bands: Mapping[int, Band]
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes.

    Attributes:
        label: what it shows, for those who cannot see it.
        size: inches.
    """

    label: str
    size: tuple[float, float]
    draw: Callable[[Axes], None]
    hover: Hover | None = None


class Drawn(NamedTuple):
    """A panel as SVG; `box` has left, top, right and bottom of its axes in the units of the viewBox, `x` and `y` their limits."""

    svg: str
    box: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]


def look(variant: int) -> Look:
    """Of the variant with this number; the first 32 differ."""
    lap, colour = divmod(variant, len(LIGHT))
    return Look(colour, _LINES[(variant + lap) % len(_LINES)], _MARKERS[colour], lap % 2 == 0)


def tag(variant: int) -> str:
    """The `gid` of what belongs to a variant."""
    return f"{_OF_VARIANT}{variant}"


def shown(name: str, most: int = 0) -> str:
    """A name as text of one line that every format can hold, at most so many characters (0 = all) with the middle left out."""
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    if not most or len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def swatch(variant: int) -> Panel:
    """A variant's line and marker, for the legend."""

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.add_line(_sample(variant))
        axes.set(xlim=(-0.1, 2.1), ylim=(-1, 1))

    return Panel(label="", size=(0.42, 0.17), draw=draw)


def _sample(variant: int, label: str = "") -> Line2D:
    style = look(variant)
    return Line2D(
        [0, 1, 2],
        [0, 0, 0],
        color=style.paint,
        linestyle=style.dashes,
        linewidth=1.8,
        marker=style.marker,
        markevery=[1],
        markersize=6,
        markerfacecolor=style.fill,
        label=label,
    )


def svg(panel: Panel, name: str) -> Drawn:
    """The panel for the page.

    Args:
        name: letters, digits and hyphens that no other panel of the page has; all ids begin with it.
    """
    with _style():
        figure = Figure(figsize=panel.size, dpi=72, layout="constrained")
        axes = figure.add_subplot()
        panel.draw(axes)
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
        place = axes.get_position()
    width, height = 72 * panel.size[0], 72 * panel.size[1]
    root = ElementTree.fromstring(content.getvalue())
    _inline(root, name)
    root.attrib = {"viewBox": f"0 0 {width:g} {height:g}", "class": "plot", "id": name}
    root.attrib |= {"role": "img", "aria-label": shown(panel.label)} if panel.label else {"aria-hidden": "true"}
    box = (width * place.x0, height * (1 - place.y1), width * place.x1, height * (1 - place.y0))
    return Drawn(ElementTree.tostring(root, encoding="unicode"), box, axes.get_xlim(), axes.get_ylim())


def _inline(element: ElementTree.Element, name: str) -> None:
    """Makes matplotlib's SVG a part of a page with others: no namespaces, ids of its own, colours of the page."""
    for child in list(element):
        # The style would hold for the whole page; the metadata are matplotlib's.
        if child.tag.endswith(("}metadata", "}style")):
            element.remove(child)
        else:
            _inline(child, name)
    element.tag = element.tag.rpartition("}")[2]
    attributes = {}
    for key, value in element.attrib.items():
        plain = key.rpartition("}")[2]
        if plain == "id" and value.startswith(_OF_VARIANT):
            attributes["data-variant"] = value.removeprefix(_OF_VARIANT)
        elif plain == "id":
            attributes["id"] = f"{name}-{value}"
        elif plain == "href":
            attributes["href"] = f"#{name}-{value.removeprefix('#')}"
        elif plain == "d":
            # Of a point, which nobody sees; curves are most of the page.
            attributes["d"] = _BEYOND_HUNDREDTHS.sub(r"\1", value)
        else:
            coloured = (
                _COLOUR.sub(lambda match: _VARIABLES.get(match[0], match[0]), value) if plain == "style" else value
            )
            attributes[plain] = _REFERENCE.sub(f"url(#{name}-", coloured)
    element.attrib = attributes


def png(panels: Sequence[Panel], variants: Sequence[str], *, legend: bool) -> bytes:
    """All panels of a figure on one sheet, for paper.

    Args:
        variants: names for the legend; left out where the panels name their rows themselves.
    """
    columns = 2 if len(panels) == 4 else min(len(panels), 3 if len(panels) <= 12 else 5)
    rows = math.ceil(len(panels) / columns)
    entries = [_sample(number, shown(name, 40)) for number, name in enumerate(variants)] if legend else []
    width, height = columns * panels[0].size[0], rows * max(panel.size[1] for panel in panels)
    longest = max((len(str(entry.get_label())) for entry in entries), default=1)
    per_row = max(1, int(width / (0.085 * longest + 0.6)))
    height += 0.22 * math.ceil(len(entries) / per_row) + 0.1 if entries else 0
    with _style():
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
        figure = Figure(figsize=(width, height), dpi=min(_DPI, _MOST_PIXELS / max(width, height)), layout=layout)
        axes = np.atleast_1d(figure.subplots(rows, columns)).flat
        for panel in panels:
            panel.draw(next(axes))
        for empty in axes:
            empty.set_axis_off()
        if entries:
            figure.legend(handles=entries, loc="outside lower center", ncols=per_row, handlelength=3)
        content = io.BytesIO()
        figure.savefig(content, format="png", facecolor=PAPER, metadata={"Software": None})
    return content.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # A name may have letters that the font has not: a box stands for them on paper, the page has the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
