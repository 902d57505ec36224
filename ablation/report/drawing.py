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
from itertools import takewhile
from typing import Any, NamedTuple
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
    # Right above the axes; to look for what else is there takes long.
    "axes.titley": 1.0,
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
_FONT = re.compile(r"font-family: [^;]*; ")
_GEOMETRY = {"d", "x", "y", "width", "height", "transform"}
_BEYOND_HUNDREDTHS = re.compile(r"(\.\d\d)\d+")
"""Of a point, which nobody sees; curves are most of the page."""
_AROUND_LETTERS = re.compile(r"\s*\b([A-Zz])\s*")
_OF_VARIANT = "variant-"
_DPI, _MOST_PIXELS = 200, 6000
_PAD, _TITLE, _LEAST = 0.05, 0.21, 0.2
"""Inches: around a panel that stay empty, of a title with the gap below, and of the sides of axes that nothing is left for."""


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
        draw: sets ticks that do not depend on the size of the axes, where their labels take room beside them.
    """

    label: str
    size: tuple[float, float]
    draw: Callable[[Axes], None]
    hover: Hover | None = None


class Margins(NamedTuple):
    """Around the axes of a panel, in inches."""

    left: float
    bottom: float
    right: float
    top: float


_USUAL = Margins(0.5, 0.5, 0.2, 0.3)
"""Until it is known what a panel needs."""


class Drawn(NamedTuple):
    """A panel as SVG; `box` has left, top, right and bottom of its axes in the units of the viewBox, `x` and `y` their limits."""

    svg: str
    box: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]


class Sheet(NamedTuple):
    """A figure: all its panels in one PNG for paper, and each of them for the page."""

    png: bytes
    panels: tuple[Drawn, ...]


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


def told(names: Sequence[str], most: int) -> list[str]:
    """`shown(name, most)` of each, but unequal names stay unequal: of long ones that would look alike, what they share is left out, and a
    number is added where that is not enough.
    """
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(shown(name, most), []).append(name)
    texts: dict[str, str] = {}
    for text, group in alike.items():
        start, end = _shared(group), _shared([name[::-1] for name in group])
        for number, name in enumerate(group):
            found = text if len(group) == 1 or len(name) <= most else _around(name, start, len(name) - end, most)
            texts[name] = f"{shown(name, most - 5)} ({number + 1})" if found in texts.values() else found
    return [texts[name] for name in names]


def _shared(names: Sequence[str]) -> int:
    """With how many equal characters all of them begin."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*names, strict=False)))


def _around(name: str, start: int, stop: int, most: int) -> str:
    """A part of the name with name[start:stop] in its middle, or the beginning of that, where it is longer."""
    room = most - 2
    first = max(0, min(start - max(0, room - (stop - start)) // 2, len(name) - room))
    return shown(f"{'…' if first else ''}{name[first : first + room]}{'…' if first + room < len(name) else ''}")


def swatch(variant: int) -> str:
    """A variant's line and marker as SVG, for the legend."""
    width, height = 30.0, 12.0
    with _style():
        line = _sample(variant)
        line.set_transform(Affine2D().translate(0.1, 0.5).scale(width / 2.2, height))
        root = _svg(line, f"swatch-{variant}", (width, height))
    root.attrib["aria-hidden"] = "true"
    return _text(root)


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


def draw(panels: Sequence[Panel], name: str, variants: Sequence[str] = ()) -> Sheet:
    """Draws a figure, each of its panels once for both paper and page.

    Args:
        name: letters, digits and hyphens that no other figure of the page has; the ids of panel N begin with it and `-N`.
        variants: names for the legend on paper; left out where the panels name their rows themselves.
    """
    columns = 2 if len(panels) == 4 else min(len(panels), 3 if len(panels) <= 12 else 5)
    rows = math.ceil(len(panels) / columns)
    wide, high = (max(sides) for sides in zip(*(panel.size for panel in panels), strict=True))
    width, height = columns * wide, rows * high
    entries = [_sample(number, name) for number, name in enumerate(told(variants, 40))]
    longest = max((len(str(entry.get_label())) for entry in entries), default=1)
    per_row = max(1, int(width / (0.085 * longest + 0.6)))
    height += 0.22 * math.ceil(len(entries) / per_row) + 0.1 if entries else 0
    with _style():
        figure = Figure(figsize=(width, height), dpi=min(_DPI, _MOST_PIXELS / max(width, height)), facecolor=PAPER)
        canvas = FigureCanvasAgg(figure)
        drawn = []
        for number, panel in enumerate(panels):
            axes = figure.add_axes(_within(figure, (0, 0), panel.size, _USUAL))
            panel.draw(axes)
            drawn.append(
                (axes, panel, ((number % columns) * wide, height - (number // columns) * high - panel.size[1]))
            )
        margins = _USUAL
        for _ in range(2):
            # A turned label of the last column reaches the farther beyond the axes, the narrower these are.
            margins = _margins(canvas, [axes for axes, _, _ in drawn])
            for axes, panel, corner in drawn:
                axes.set_position(_within(figure, corner, panel.size, margins))
        if entries:
            figure.legend(handles=entries, loc="lower center", ncols=per_row, handlelength=3)
        picture = png(canvas)
        figure.dpi = 72
        return Sheet(
            picture,
            tuple(
                _panel(figure, axes, panel, f"{name}-{number}", margins)
                for number, (axes, panel, _) in enumerate(drawn)
            ),
        )


def png(canvas: FigureCanvasAgg) -> bytes:
    """The figure of the canvas. Figure.savefig would draw it twice."""
    content = io.BytesIO()
    canvas.print_png(content, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return content.getvalue()


def _margins(canvas: FigureCanvasAgg, drawn: Sequence[Axes]) -> Margins:
    """What titles, ticks and labels need around the axes, the same for all panels of a figure, so that these compare."""
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
    return Margins(*(needed.max(axis=0) + _PAD))


def _within(
    figure: Figure, corner: tuple[float, float], size: tuple[float, float], margins: Margins
) -> tuple[float, float, float, float]:
    """Left, bottom, width and height, as shares of the figure, of the axes of a panel of this size (inches) whose lower left is there."""
    width, height = figure.get_size_inches()
    left, bottom, right, top = margins
    return (
        (corner[0] + left) / width,
        (corner[1] + bottom) / height,
        max(size[0] - left - right, _LEAST) / width,
        max(size[1] - bottom - top, _LEAST) / height,
    )


def _panel(figure: Figure, axes: Axes, panel: Panel, name: str, margins: Margins) -> Drawn:
    axes.set_position(_within(figure, (0, 0), panel.size, margins))
    width, height = 72 * panel.size[0], 72 * panel.size[1]
    root = _svg(axes, name, (width, height))
    root.attrib |= {"role": "img", "aria-label": shown(panel.label)}
    box = axes.bbox
    return Drawn(_text(root), (box.x0, height - box.y1, box.x1, height - box.y0), axes.get_xlim(), axes.get_ylim())


def _svg(artist: Artist, name: str, size: tuple[float, float]) -> ElementTree.Element:
    """What matplotlib draws on a canvas of so many points, to stand inside of a page."""
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
    """Makes matplotlib's SVG a part of a page with others, and small: no namespaces, ids of its own, colours of the page."""
    for child in list(element):
        # The style would hold for the whole page; the metadata are matplotlib's.
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
        elif plain == "id":
            # Nothing refers to a group.
            if element.tag != "g":
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
            # Every text is turned, most by nothing.
            if not short.startswith("rotate(-0 "):
                attributes[plain] = short
        else:
            attributes[plain] = value
    element.attrib = attributes


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # A name may have letters that the font has not: a box stands for them on paper, the page has the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
