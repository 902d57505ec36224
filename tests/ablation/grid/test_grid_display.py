"""The terminal shows every run of a grid once, with a complete count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ablation.grid.display import CellDisplay
from ablation.grid.grid import Cell, make_cells
from ablation.grid.scheduler import CellStatus, Exit, RunningCell, State, run_cells
from conf.loading import compose_ablate

SINGLE = ["env=conditional", "runtime=serial", "total_frames=100", "fusions=[concat,film]", "seeds=3"]


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return make_cells(compose_ablate(SINGLE), SINGLE, {})


def lines(
    cells: Sequence[Cell], looks: Sequence[dict[str, CellStatus]], capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Printed lines for a sequence of updates; cells that an update does not name are waiting."""
    with CellDisplay(cells, enabled=False) as display:
        for look in looks:
            display.update({cell.name: look.get(cell.name, CellStatus()) for cell in cells})
    return capsys.readouterr().out.splitlines()


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
    expected = capsys.readouterr().out.splitlines()
    assert len(executor.started) == 6
    assert expected == [f"{cell.name}: failed: killed ({number} of 6)" for number, cell in enumerate(cells, start=1)]
