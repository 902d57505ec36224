"""The terminal shows every run of a grid once, with a complete count."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from ablation.grid.display import CellDisplay, _Cells
from ablation.grid.grid import Cell, make_cells
from ablation.grid.scheduler import CellStatus, Exit, RunningCell, State, run_cells
from conf.loading import compose_ablate

SINGLE = ["env=conditional", "runtime=serial", "total_frames=100", "fusions=[concat,film]", "seeds=3"]


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return make_cells(compose_ablate(SINGLE), SINGLE, {})


def without_time(line: str) -> str:
    """The line, which must begin with the time."""
    found = re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.*)", line)
    assert found
    return found[1]


def lines(
    cells: Sequence[Cell], looks: Sequence[dict[str, CellStatus]], capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Printed lines for a sequence of updates; cells that an update does not name are waiting."""
    with CellDisplay(cells, enabled=False) as display:
        for look in looks:
            display.update({cell.name: look.get(cell.name, CellStatus()) for cell in cells})
    return [without_time(line) for line in capsys.readouterr().out.splitlines()]


def test_cells_that_end_together_are_counted_one_by_one(cells: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    names = [cell.name for cell in cells]
    done, failed = CellStatus(State.FINISHED, 100), CellStatus(State.FAILED, 7, "no space")
    expected = lines(
        cells,
        [
            {names[4]: done},
            {names[4]: done, names[0]: done},
            {names[4]: done, names[0]: done, names[1]: done, names[2]: failed, names[3]: done},
            {name: failed if name == names[2] else done for name in names},
        ],
        capsys,
    )
    assert expected == [
        f"{names[4]}: finished already (1 of 6)",
        f"{names[0]}: finished (2 of 6)",
        f"{names[1]}: finished (3 of 6)",
        f"{names[2]}: failed: no space (4 of 6)",
        f"{names[3]}: finished (5 of 6)",
        f"{names[5]}: finished (6 of 6)",
    ]


def test_a_grid_that_is_finished_counts_its_runs(cells: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    look = {cell.name: CellStatus(State.FINISHED, 100) for cell in cells}
    assert lines(cells, [look, look], capsys) == [
        f"{cell.name}: finished already ({number} of 6)" for number, cell in enumerate(cells, start=1)
    ]


class AllAtOnce:
    """An executor that starts every cell, and whose cells all end before the first poll."""

    def __init__(self) -> None:
        self.started: list[Cell] = []

    def start(self, cell: Cell) -> RunningCell | None:
        self.started.append(cell)
        return Ended(cell)

    def stop(self) -> None:
        pass


class Ended:
    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    def has_begun(self) -> bool:
        return True

    def poll(self) -> Exit | None:
        return Exit(1, "killed")


def test_the_scheduler_reports_every_cell_once(
    cells: list[Cell], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    executor = AllAtOnce()
    with CellDisplay(cells, enabled=False) as display:
        run_cells(cells, executor, display.update)
    expected = [without_time(line) for line in capsys.readouterr().out.splitlines()]
    assert len(executor.started) == 6
    assert expected == [f"{cell.name}: failed: killed ({number} of 6)" for number, cell in enumerate(cells, start=1)]


TRAINING = CellStatus(State.TRAINING, 41, measure="success", value=0.5123, seconds_left=12.0)


def live(cells: Sequence[Cell], look: dict[str, CellStatus], width: int, *, pausing: bool = False) -> list[str]:
    """The lines of the live part."""
    console = Console(file=io.StringIO(), width=width, height=24)
    status = {cell.name: look.get(cell.name, CellStatus()) for cell in cells}
    console.print(_Cells(cells, status, "1 of 6 runs, 12 s, about 20 s left", pausing=pausing))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_cell_shows_its_score_and_its_seconds_left(cells: list[Cell]) -> None:
    done = CellStatus(State.FINISHED, 100, measure="success", value=0.75)
    look = {cells[0].name: done, cells[1].name: TRAINING, cells[2].name: CellStatus(State.FAILED, 7, "no space")}
    assert live(cells, look, 60) == [
        "               seed 0  seed 1  seed 2",
        "concat      done 0.75  failed       .",
        "film    41% 0.51 12 s       .       .",
        "share of the frames, success in training, time left",
        "1 of 6 runs, 12 s, about 20 s left",
    ]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_a_grid_shows_less_of_its_cells_where_the_terminal_is_narrow(width: int) -> None:
    single = [*SINGLE[:-1], "seeds=9"]
    cells = make_cells(compose_ablate(single), single, {})
    found = live(cells, {cell.name: TRAINING for cell in cells}, width)
    assert max(map(cell_len, found)) <= width
    shown = {20: "0 of 9 runs", 60: "0 of 9 runs", 80: "41%", 200: "0.51 12 s"}[width]
    assert shown in found[1] and found[1].count(shown.split()[-1]) == (1 if "runs" in shown else 9)


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_members_have_their_score_and_seconds_left(cells: list[Cell], width: int) -> None:
    found = live(cells, {cells[0].name: TRAINING}, width, pausing=True)
    assert max(map(cell_len, found)) <= width and len(found) == 8
    if width >= 60:
        assert found[0].split() == ["member", "frames", "success", "to", "comparison", "state"]
        assert found[1].split() == ["concat-seed0", "41", "0.51", "12", "s", "training"]
        assert found[2].split() == ["film-seed0", "0", "waiting"]


def test_running_cells_have_a_line_without_a_terminal(
    cells: list[Cell], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablation.grid.display._LINE_SECONDS", 0.0)
    with CellDisplay(cells) as display:
        display.update({cell.name: TRAINING if cell is cells[0] else CellStatus() for cell in cells})
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"0 of 6 runs, \S+ s; concat-seed0 41%, success 0\.51, 12 s left", without_time(line))


def test_the_newest_log_step_gives_score_and_seconds_left(tmp_path: Path) -> None:
    single = [*SINGLE, f"folder={tmp_path}"]
    cell = make_cells(compose_ablate(single), single, {})[0]
    cell.folder.mkdir()
    now = CellStatus()
    for text, expected in {
        '{"frames": 20, "frames_per_second": 8, "mean/success": 0.5, "mean/return": 2}': (20, "success", 0.5, 10.0),
        '{"frames": 20, "frames_per_second": 8, "mean/success": 0.5, "score/mean": 7}': (20, "score", 7.0, 10.0),
        '{"frames": 200, "frames_per_second": 8, "mean/return": 2}': (200, "return", 2.0, 0.0),
        '{"frames": 20, "frames_per_second": 0, "mean/return": "2"}': (20, "", math.nan, math.nan),
        '{"frames": 20, "frames_per_second": 1' + "0" * 400 + "}": (20, "", math.nan, math.nan),
        "[1]": (0, "", math.nan, math.nan),
    }.items():
        (cell.folder / "metrics.jsonl").write_text(f"{text}\n", encoding="utf-8")
        now.read_log(cell)
        assert (now.frames, now.measure) == expected[:2]
        assert (now.value, now.seconds_left) == pytest.approx(expected[2:], nan_ok=True)
