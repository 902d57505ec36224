"""Distinct styles of variants, shortened names, and SVGs for a common page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread
from matplotlib.ticker import MaxNLocator

from ablation.analysis.results import Array, Estimate
from ablation.report import drawing, panels
from ablation.report.drawing import DARK, LIGHT, Drawn, Panel, style_of, tag
from system.words import shorten, shorten_all

SIMULATED = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""Simulated colour vision in linear RGB (Machado, Oliveira & Fernandes 2009, full severity)."""

TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def lab(colour: str, simulated: Array) -> Array:
    """CIELAB of #rrggbb in simulated colour vision."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    ratio = TO_XYZ @ np.clip(simulated @ linear, 0, 1) / WHITE
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("simulated", SIMULATED)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_differ_for_colour_blind_readers(colours: Sequence[str], simulated: str) -> None:
    """A difference of 2.3 is just noticeable; thin lines need more."""
    seen = [lab(colour, SIMULATED[simulated]) for colour in colours]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 14


def test_variants_differ_in_more_than_their_colour() -> None:
    looks = [style_of(number) for number in range(32)]
    assert len({(each["color"], str(each["linestyle"])) for each in looks}) == 32
    assert len({(each["color"], each["marker"], each["markerfacecolor"]) for each in looks[:16]}) == 16
    assert len({each["marker"] for each in looks[:8]}) == 8


@pytest.mark.parametrize(
    ("name", "most", "expected"),
    [
        ("mi", 0, "mi"),
        ("a\nb\x00", 0, "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}mi", 0, "\N{REPLACEMENT CHARACTER}mi"),
        ("abcdefghij", 10, "abcdefghij"),
        ("abcdefghijk", 6, "ab…ijk"),
    ],
)
def test_names_are_shortened_to_one_line(name: str, most: int, expected: str) -> None:
    assert shorten(name, most) == expected


def draw(panel: Panel) -> Drawn:
    return drawing.draw([panel], "one").panels[0]


def test_an_svg_is_prepared_for_a_page_with_others() -> None:
    """No namespaces, unique ids, CSS colours, and a mark on each variant's parts."""

    def plot(axes: Axes) -> None:
        for number in range(2):
            axes.plot([0, 1], [0, number], marker="o", color=LIGHT[number], gid=tag(number))
        axes.set_title("$x < y$ & more")

    drawn = draw(Panel(label='a "label"', size=(3, 2), draw=plot))
    root = ElementTree.fromstring(drawn.svg)
    assert root.tag == "svg" and root.attrib["viewBox"] == "0 0 216 144" and root.attrib["aria-label"] == 'a "label"'
    assert {part.attrib["data-variant"] for part in root.iter() if "data-variant" in part.attrib} == {"0", "1"}
    ids = [part.attrib["id"] for part in root.iter() if "id" in part.attrib]
    assert len(ids) == len(set(ids)) and all(name == "one" or name.startswith("one-") for name in ids)
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', drawn.svg)
    assert references and set(references) <= set(ids)
    assert "var(--v0)" in drawn.svg and "var(--v1)" in drawn.svg and "currentColor" in drawn.svg
    assert "#" not in re.sub(r'href="#|url\(#', "", drawn.svg)
    assert any(text.text == "$x < y$ & more" for text in root.iter("text"))
    assert "metadata" not in drawn.svg and "<style" not in drawn.svg
    left, top, right, bottom = drawn.box
    assert 0 < left < right < 216 and 0 < top < bottom < 144
    assert drawn.x == pytest.approx((-0.05, 1.05))


@pytest.mark.parametrize(("number", "columns", "rows"), [(1, 1, 1), (4, 2, 2), (5, 3, 2), (13, 5, 3)])
def test_panels_of_a_figure_have_equal_axes_and_do_not_overlap(number: int, columns: int, rows: int) -> None:
    """Sizes of axes do not depend on their ticks."""

    def plot(place: int, axes: Axes) -> None:
        axes.plot([0, 1], [0, 10.0**place])
        axes.set_title("a title")
        axes.set_ylabel("score")
        axes.yaxis.set_major_locator(MaxNLocator(5))

    panels = [Panel(label="", size=(2, 1.5), draw=partial(plot, place)) for place in range(number)]
    sheet = drawing.draw(panels, "one")
    picture = imread(io.BytesIO(sheet.png))
    assert picture.shape[:2] == (300 * rows, 400 * columns)
    boxes = np.array([drawn.box for drawn in sheet.panels])
    assert boxes == pytest.approx(np.broadcast_to(boxes[0], boxes.shape))
    # 72 units per inch, with space for the longest number, the label and the title.
    left, top, right, bottom = boxes[0]
    assert 20 < left < right < 144
    assert 10 < top < bottom < 100
    # Nothing touches the edges to the neighbours.
    for place in range(columns + 1):
        assert (picture[:, max(0, 400 * place - 4) : 400 * place + 4] == 1).all()
    for place in range(rows + 1):
        assert (picture[max(0, 300 * place - 4) : 300 * place + 4] == 1).all()


def test_matplotlib_settings_of_the_user_are_ignored() -> None:
    panel = Panel(label="", size=(3, 2), draw=lambda axes: axes.set_xlabel("x"))
    plain = draw(panel)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "svg.fonttype": "path"}):
        assert draw(panel) == plain


LONG = [
    f"hypernetwork,core=mogrifier,learner.learning_rate={rate},fusion.sites=[torso,policy]" for rate in ("3e-4", "1e-3")
]


@pytest.mark.parametrize("most", [14, 20, 34, 40])
@pytest.mark.parametrize(
    "names",
    [
        LONG,
        ["a" * 50 + "x", "a" * 50 + "y", "b"],
        ["x" + "a" * 50, "y" + "a" * 50],
        ["a" * 30 + "1" * 40 + "b" * 30, "a" * 30 + "1" * 39 + "2" + "b" * 30],
        ["a" * 20 + "\x01" + "b" * 20, "a" * 20 + "\x02" + "b" * 20],
        ["a\x01", "a\x02"],
    ],
)
def test_shortened_names_stay_different(names: list[str], most: int) -> None:
    found = shorten_all(names, most)
    assert len(set(found)) == len(names)
    assert all(len(name) <= most and name.isprintable() for name in found)
    assert shorten_all([names[1]], most) == [shorten(names[1], most)]


def test_shortened_names_show_the_part_that_differs() -> None:
    assert shorten_all(LONG, 34) == ["…learning_rate=3e-4,fusion.sites=…", "…learning_rate=1e-3,fusion.sites=…"]


def test_rotated_labels_of_the_last_column_are_inside_the_figure() -> None:
    """Column names of a matrix."""
    wide = panels.matrix(LONG, {LONG[0]: {LONG[1]: Estimate(0.5, 0.4, 0.6)}})
    picture = imread(io.BytesIO(drawing.draw([wide], "one").png))
    assert (picture[:, -4:] == 1).all() and (picture[:4] == 1).all()
