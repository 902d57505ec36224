"""Reports of a population rank nothing: there is one run of each member, and no interval."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablation.population.history import History
from ablation.population.pbt import Decision
from ablation.population.population import Fitness, row_of
from ablation.population.report import describe_comparison, summary, table

NAMES = ["member-00", "member-01", "member-02"]


def rows(generation: int, *fitness: float | None) -> list[dict[str, Any]]:
    return [
        row_of(
            generation,
            400 * generation,
            member,
            Fitness(points, "" if points is None else "success", 30),
            Decision(None, False, {"learning_rate": 1e-3 * (1 + member / 1e4)}),
        )
        for member, points in enumerate(fitness)
    ]


def history(folder: Path, *fitness: float | None) -> History:
    found = History(folder)
    for generation, points in enumerate(([None] * len(fitness), fitness)):
        found.add(rows(generation, *points))
    return found


def test_members_are_in_the_order_of_their_names_and_none_is_bold(tmp_path: Path) -> None:
    found = table(summary(history(tmp_path, 41.02, None, 41.04), NAMES))
    assert not any(row.style for row in found.rows)
    text = io.StringIO()
    Console(file=text, width=100).print(found)
    lines = [line.split() for line in text.getvalue().splitlines()]
    # Unequal numbers have unequal texts.
    assert lines[1:] == [
        ["member-00", "41.02", "0.001", "0"],
        ["member-01", "-", "0.0010001", "0"],
        ["member-02", "41.04", "0.0010002", "0"],
    ]


@pytest.mark.parametrize(
    ("fitness", "expected"),
    [
        ((41.02, 43.0, 41.04), "400 frames: success 41 to 43, 0 of 3 members copied another member"),
        ((41.02, 41.03, 41.02), "400 frames: success 41.02 to 41.03, 0 of 3 members copied another member"),
        ((41.0, None, 41.0), "400 frames: success 41 (2 of 3 members), 0 of 3 members copied another member"),
        (
            (None, None, None),
            "400 frames: no comparison, because no member has finished enough episodes (at most 30 each)",
        ),
    ],
)
def test_a_comparison_names_no_best_member(fitness: tuple[float | None, ...], expected: str) -> None:
    assert describe_comparison(rows(1, *fitness), NAMES) == [expected]
