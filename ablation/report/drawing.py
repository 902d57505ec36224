"""Draws panels, each by one function: as part of a PNG for papers, and as an inline SVG for the page.

In the SVG, colours are CSS variables, for the dark and light page. Parts of a variant have the attribute `data-variant`, by which the
page's script shows and hides them.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Affine2D, Bbox

from ablation.analysis.results import Band
from system.words import shorten, shorten_all

INK, MUTED, GRID_LINE, PAPER = "#1b1f27", "#59616f", "#d9dde4", "#ffffff"
"""Colours on paper of text, secondary text, grid lines and background; the page has CSS variables for them."""

LIGHT = ("#0a84ea", "#c75e14", "#027b5d", "#6e1260", "#5a4300", "#686d93", "#403aa6", "#b10039")
DARK = ("#a9e0ff", "#d67c3f", "#5fe6a8", "#bd72ae", "#f0e46a", "#4aa8f8", "#6f7cf0", "#ea6377")
"""Colours of variants on paper and on the dark page. Every two differ for colour-blind readers too (a test simulates it), and each
variant also has its own line style and marker."""

_LINES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (5, 1.4, 1.2, 1.4)), (0, (1.4, 1.2)))
_MARKERS = "osD^vPX*"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mimpala",
    # A name may contain $.
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    # A fixed position: matplotlib's search for free space is slow.
    "axes.titley": 1.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": GRID_LINE,
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
    GRID_LINE: "var(--grid)",
    PAPER: "var(--paper)",
    **{colour: f"var(--v{number})" for number, colour in enumerate(LIGHT)},
}
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_REFERENCE = re.compile(r"url\(#")
_FONT = re.compile(r"font-family: [^;]*; ")
_GEOMETRY = {"d", "x", "y", "width", "height", "transform"}
_BEYOND_HUNDREDTHS = re.compile(r"(\.\d\d)\d+")
"""Invisible digits of coordinates; curves are most of the page's size."""
_AROUND_LETTERS = re.compile(r"\s*\b([A-Zz])\s*")
_OF_VARIANT = "variant-"
_DPI, _MOST_PIXELS = 200, 6000
_PADDING, _TITLE, _MIN_AXES = 0.05, 0.21, 0.2
"""Inches: padding of a panel, height of a title with its gap, and minimum width and height of axes."""


class Hover(NamedTuple):
    """Values that the page shows at the pointer: at each `x` [N], the bands [N] by index of the variant; `unit` of x."""

    x: Any
    bands: Mapping[int, Band]
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes, `size` in inches; `label` describes it to screen readers.

    `draw` draws on the axes. Tick labels beside them must not depend on their size.
    """

    label: str
    size: tuple[float, float]
    draw: Callable[[Axes], None]
    hover: Hover | None = None


Margins: TypeAlias = tuple[float, float, float, float]
"""Space around the axes of a panel, in inches: left, bottom, right, top."""

_FIRST_MARGINS = (0.5, 0.5, 0.2, 0.3)
"""For the first layout, before the labels are measured."""


class Drawn(NamedTuple):
    """A panel as SVG with the id `name`; `box`: left, top, right and bottom of its axes in the viewBox; `x`: their limits."""

    panel: Panel
    name: str
    svg: str
    box: tuple[float, float, float, float]
    x: tuple[float, float]


class Sheet(NamedTuple):
    """A figure: one PNG of all panels, and each panel as SVG."""

    png: bytes
    panels: Sequence[Drawn]


def style_of(variant: int) -> dict[str, Any]:
    """Line style of the variant with this index, as matplotlib's Line2D takes it; the first 32 differ."""
    lap, number = divmod(variant, len(LIGHT))
    colour, dashes = LIGHT[number], _LINES[(variant + lap) % len(_LINES)]
    fill = colour if lap % 2 == 0 else PAPER
    return {"color": colour, "linestyle": dashes, "marker": _MARKERS[number], "markerfacecolor": fill}


def tag(variant: int) -> str:
    """The `gid` of artists that belong to a variant."""
    return f"{_OF_VARIANT}{variant}"


def swatch(variant: int) -> str:
    """SVG of a variant's line and marker, for the legend."""
    width, height = 30.0, 12.0
    with _style():
        line = _sample(variant)
        line.set_transform(Affine2D().translate(0.1, 0.5).scale(width / 2.2, height))
        root = _svg(line, f"swatch-{variant}", (width, height))
    root.attrib["aria-hidden"] = "true"
    return _text(root)


def _sample(variant: int, label: str = "") -> Line2D:
    return Line2D([0, 1, 2], [0, 0, 0], **style_of(variant), linewidth=1.8, markevery=[1], markersize=6, label=label)


def draw(panels: Sequence[Panel], name: str, variants: Sequence[str] = ()) -> Sheet:
    """Draws a figure. Each panel is drawn once, for both paper and page.

    Args:
        name: Of letters, digits and hyphens, unique on the page; ids of panel N start with `<name>-N`.
        variants: Names for the legend on paper; none if the panels name their rows.
    """
    columns = 2 if len(panels) == 4 else min(len(panels), 3 if len(panels) <= 12 else 5)
    rows = math.ceil(len(panels) / columns)
    wide, high = (max(sides) for sides in zip(*(panel.size for panel in panels), strict=True))
    width, height = columns * wide, rows * high
    entries = [_sample(number, name) for number, name in enumerate(shorten_all(variants, 40))]
    longest = max((len(str(entry.get_label())) for entry in entries), default=1)
    per_row = max(1, int(width / (0.085 * longest + 0.6)))
    height += 0.22 * math.ceil(len(entries) / per_row) + 0.1 if entries else 0
    with _style():
        figure = Figure(figsize=(width, height), dpi=min(_DPI, _MOST_PIXELS / max(width, height)), facecolor=PAPER)
        canvas = FigureCanvasAgg(figure)
        drawn = []
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            axes = figure.add_axes(_within(figure, (0, 0), panel.size, _FIRST_MARGINS))
            panel.draw(axes)
            drawn.append((axes, panel, (column * wide, height - row * high - panel.size[1])))
        margins: Margins = _FIRST_MARGINS
        for _ in range(2):
            # Twice: a rotated label of the last column extends further if the axes become narrower.
            margins = _margins(canvas, [axes for axes, _, _ in drawn])
            for axes, panel, corner in drawn:
                axes.set_position(_within(figure, corner, panel.size, margins))
        if entries:
            figure.legend(handles=entries, loc="lower center", ncols=per_row, handlelength=3)
        picture = png(canvas)
        figure.dpi = 72
        found = []
        for number, (axes, panel, _) in enumerate(drawn):
            axes.set_position(_within(figure, (0, 0), panel.size, margins))
            width, height = 72 * panel.size[0], 72 * panel.size[1]
            root = _svg(axes, f"{name}-{number}", (width, height))
            root.attrib |= {"role": "img", "aria-label": shorten(panel.label)}
            box = (axes.bbox.x0, height - axes.bbox.y1, axes.bbox.x1, height - axes.bbox.y0)
            found.append(Drawn(panel, f"{name}-{number}", _text(root), box, axes.get_xlim()))
        return Sheet(picture, found)


def png(canvas: FigureCanvasAgg) -> bytes:
    """The canvas as PNG. Figure.savefig would draw it a second time."""
    content = io.BytesIO()
    canvas.print_png(content, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return content.getvalue()


def _margins(canvas: FigureCanvasAgg, drawn: Sequence[Axes]) -> Margins:
    """Space for titles, ticks and labels, the same for all panels of a figure, so that their axes are equal."""
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    needed = np.zeros((len(drawn), 4))
    for number, axes in enumerate(drawn):
        inner = axes.bbox
        around = [inner, *(box for axis in (axes.xaxis, axes.yaxis) if (box := axis.get_tightbbox(renderer)))]
        outer = Bbox.union(around)
        beyond = inner.x0 - outer.x0, inner.y0 - outer.y0, outer.x1 - inner.x1, outer.y1 - inner.y1
        needed[number] = np.array(beyond) / canvas.figure.dpi
        if axes.get_title(loc="left"):
            needed[number, 3] = max(needed[number, 3], _TITLE)
    left, bottom, right, top = map(float, needed.max(axis=0) + _PADDING)
    return left, bottom, right, top


def _within(
    figure: Figure, corner: tuple[float, float], size: tuple[float, float], margins: Margins
) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a panel's axes as fractions of the figure; `corner` is its lower left, in inches."""
    width, height = figure.get_size_inches()
    left, bottom, right, top = margins
    return (
        (corner[0] + left) / width,
        (corner[1] + bottom) / height,
        max(size[0] - left - right, _MIN_AXES) / width,
        max(size[1] - bottom - top, _MIN_AXES) / height,
    )


def _svg(artist: Artist, name: str, size: tuple[float, float]) -> ElementTree.Element:
    """The artist as an inline SVG of this size in points."""
    content = io.StringIO()
    renderer = RendererSVG(*size, content, metadata={"Date": None})  # type: ignore[no-untyped-call]
    artist.draw(renderer)
    renderer.finalize()  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(content.getvalue())
    _inline(root, name)
    root.attrib = {"viewBox": f"0 0 {size[0]:g} {size[1]:g}", "class": "plot", "id": name}
    return root


def _text(root: ElementTree.Element) -> str:
    return ElementTree.tostring(root, encoding="unicode")


def _inline(element: ElementTree.Element, name: str) -> None:
    """Prepares matplotlib's SVG for a page with others: no namespaces, unique ids, CSS colours, short coordinates."""
    for child in list(element):
        # A style element would apply to the whole page.
        if child.tag.endswith(("}metadata", "}style")):
            element.remove(child)
        else:
            _inline(child, name)
    element.tag = element.tag.rpartition("}")[2]
    element.tail = None
    if element.tag != "text":
        element.text = None
    attributes = {}
    for key, value in element.attrib.items():
        plain = key.rpartition("}")[2]
        if plain == "id" and value.startswith(_OF_VARIANT):
            attributes["data-variant"] = value.removeprefix(_OF_VARIANT)
        # No reference points to a group.
        elif plain == "id" and element.tag != "g":
            attributes["id"] = f"{name}-{value}"
        elif plain == "href":
            attributes["href"] = f"#{name}-{value.removeprefix('#')}"
        elif plain == "style":
            coloured = _COLOUR.sub(lambda match: _VARIABLES.get(match[0], match[0]), _FONT.sub("", value))
            attributes["style"] = _REFERENCE.sub(f"url(#{name}-", coloured)
        elif plain == "clip-path":
            attributes[plain] = _REFERENCE.sub(f"url(#{name}-", value)
        elif plain in _GEOMETRY:
            short = _AROUND_LETTERS.sub(r"\1", _BEYOND_HUNDREDTHS.sub(r"\1", value.strip()))
            # matplotlib rotates every text, most of them by 0.
            if not short.startswith("rotate(-0 "):
                attributes[plain] = short
        elif plain != "id":
            attributes[plain] = value
    element.attrib = attributes


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # A name may have letters that the font lacks: the PNG shows a box, the page uses the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
