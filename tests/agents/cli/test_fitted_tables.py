"""Tables and lines that fit the width of the terminal."""

from __future__ import annotations

import io
import math

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from agents.cli.tables import FittedTable, Row, fitted_line, sparkline, task_table

NAMES = ["BabyAI-GoToRedBallNoDists-v0", "BabyAI-GoToRedBlueBallNoDists-v0", "[bold]实验实验实验实验实验实验"]


def lines(table: FittedTable, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def example(**options: int | str) -> FittedTable:
    rows = [Row(name, ["0.123", "-", "", "10.0% to 20.0%", "1,234,567"]) for name in NAMES]
    headings = ["task", "return", "score", "", "95% interval", "frames"]
    return FittedTable(headings, rows, [Row("mean", ["0.123", "-", "", "", ""], "bold")], **options)  # type: ignore[arg-type]


def test_a_table_without_rows_has_its_first_heading() -> None:
    assert lines(FittedTable(["task", "return"], []), 80) == ["task"]


def test_a_wide_table_has_all_columns_with_content() -> None:
    assert example().fits(200)
    found = lines(example(title="a [title]"), 200)
    assert found[:2] == ["", "a [title]"]
    assert found[2].split() == ["task", "return", "95%", "interval", "frames"]
    assert [line.split()[0] for line in found[3:]] == [*NAMES, "mean"]


@pytest.mark.parametrize("width", [8, 20, 33, 40, 60, 80, 200])
def test_no_line_is_longer_than_the_width(width: int) -> None:
    found = lines(example(), width)
    assert len(found) == 5 and max(map(cell_len, found)) <= width


def test_names_are_shortened_before_columns_are_left_out() -> None:
    narrow = [line.split() for line in lines(example(), 51)]
    assert len(narrow[1]) == 6 and "…" in narrow[1][0] and narrow[1][0] != narrow[2][0]
    assert example().fits(51) and not example().fits(50)
    assert lines(example(), 50)[0].split() == ["task", "return", "95%", "interval"]
    assert lines(example(), 20)[0].split() == ["task", "return"]


@pytest.mark.parametrize(("height", "shown"), [(0, 9), (12, 9), (11, 9), (10, 7), (5, 2), (1, 1)])
def test_the_totals_stay_when_rows_are_left_out(height: int, shown: int) -> None:
    rows = [Row(f"task-{number}", ["1"]) for number in range(9)]
    found = lines(FittedTable(["task", "return"], rows, [Row("mean", ["1"])], height=height), 80)
    assert found[-1].split() == ["mean", "1"]
    assert [line.split()[0] for line in found[1 : 1 + shown]] == [row.name for row in rows[:shown]]
    assert found[1 + shown : -1] == ([] if shown == 9 else [f"… {9 - shown} more"])
    assert not 3 < height < len(found)
    without = lines(FittedTable(["task", "return"], rows, height=height), 80)
    assert (without[-1].split()[-1] == "more") == (without[-1] != rows[-1].name and len(without) < 10)


def test_unknown_numbers_and_both_ends_of_intervals() -> None:
    columns = [("return", "mean", ".1f"), ("95% interval", "interval", ".2f")]
    table = task_table(columns, {"a": {"mean": 1, "interval": [0.5, 1.5]}, "b": {"mean": None}}, {"all": {"mean": 2}})
    assert lines(table, 80)[1:] == [
        "a        1.0  0.50 to 1.50",
        "b          -",
        "all      2.0",
    ]


def test_a_line_drops_its_last_parts() -> None:
    parts = ["12 frames/s", "3 updates", "lag 1.0"]
    assert fitted_line("speed", parts, 80).plain == "speed    12 frames/s  3 updates  lag 1.0"
    assert fitted_line("speed", parts, 39).plain == "speed    12 frames/s  3 updates"
    text = io.StringIO()
    Console(file=text, width=12).print(Group(fitted_line("speed", parts, 12)))
    assert text.getvalue() == "speed    12…\n"


def test_a_sparkline_goes_from_the_least_to_the_largest_value() -> None:
    assert sparkline([-1, 0, 6], 10) == "▁▂█"
    assert sparkline([2, 2], 10) == "▁▁"
    assert sparkline([math.inf, 0.0], 10) == sparkline([1e308] * 8, 4)[:2] == "▁▁"
    assert sparkline([*[0.0] * 50, *[1.0] * 50], 4) == "▁▁██"
    assert all(len(sparkline(list(range(number)), 7)) == min(number, 7) for number in range(1, 40))
