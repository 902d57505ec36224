"""Cells are run once for their settings, here or in processes, and what is left over by an interruption goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from studies.running import Cell, CellError, Result, Settings, run, stored

CELLS = [Cell(name=f"cell-{number}", settings={"number": number}) for number in range(3)]


def square(settings: Settings) -> Result:
    return {"square": settings["number"] ** 2, "process": os.getpid()}


def die(settings: Settings) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_results_are_kept_for_their_settings(tmp_path: Path) -> None:
    assert stored(CELLS[1], tmp_path) is None
    outcomes = list(run(CELLS, square, tmp_path, 1))
    assert [outcome.result["square"] for outcome in outcomes] == [0, 1, 4]
    again = stored(CELLS[2], tmp_path)
    assert again is not None and again.result == outcomes[2].result
    assert stored(Cell(name="cell-2", settings={"number": 3}), tmp_path) is None
    (tmp_path / "cell-2.json").write_text("{", encoding="utf-8")
    assert stored(CELLS[2], tmp_path) is None
    (tmp_path / "cell-2.json").write_text(json.dumps({"settings": CELLS[2].settings}), encoding="utf-8")
    assert stored(CELLS[2], tmp_path) is None


def test_what_was_done_before_an_interruption_stays(tmp_path: Path) -> None:
    running = run(CELLS, square, tmp_path, 1)
    next(running)
    running.close()
    assert [stored(cell, tmp_path) is not None for cell in CELLS] == [True, False, False]


def test_processes_do_the_same(tmp_path: Path) -> None:
    outcomes = {outcome.cell.name: outcome.result for outcome in run(CELLS, square, tmp_path, 2)}
    assert {name: result["square"] for name, result in outcomes.items()} == {"cell-0": 0, "cell-1": 1, "cell-2": 4}
    assert os.getpid() not in {result["process"] for result in outcomes.values()}
    with pytest.raises(CellError, match="goes on"):
        list(run(CELLS[:1], die, tmp_path, 2))
    assert not multiprocessing.active_children()
