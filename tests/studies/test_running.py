"""Cells are run once for their settings, here or in processes, and what is left over by an interruption goes on."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from concurrent.futures import ALL_COMPLETED
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import PATIENCE, eventually

from agents.storage.tensor_file import write_tensors
from studies.harness import running
from studies.harness.running import Cell, CellError, Checkpoint, Result, Settings, begun_anew, run, stored, tidy

CELLS = [Cell(name=f"cell-{number}", settings={"number": number}) for number in range(3)]


def _square(settings: Settings) -> Result:
    return {"square": settings["number"] ** 2, "process": os.getpid()}


square = begun_anew(_square)


def die(settings: Settings, checkpoint: Checkpoint) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def count_to_four(settings: Settings, checkpoint: Checkpoint) -> Result:
    """Is killed once, after it has kept a 2."""
    counted = checkpoint.load() or {"number": 0, "tensor": torch.zeros(1)}
    before = counted["number"]
    while counted["number"] < 4:
        counted = {"number": counted["number"] + 1, "tensor": counted["tensor"] + 1}
        if counted["number"] == 3 and not before:
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.save(counted)
    return {"before": before, "sum": counted["tensor"].item()}


def halves(settings: Settings, checkpoint: Checkpoint) -> Result:
    """Says that it is half done, and ends when somebody has heard that."""
    checkpoint.reached(0.5)
    eventually(Path(settings["heard"]).exists)
    return {"heard": True}


def fails_with_the_last(settings: Settings) -> Result:
    if settings["number"] == 2:
        raise ValueError("the last")
    return {"number": settings["number"]}


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
    begun = run(CELLS, square, tmp_path, 1)
    next(begun)
    begun.close()
    assert [stored(cell, tmp_path) is not None for cell in CELLS] == [True, False, False]


@pytest.mark.slow
def test_processes_do_the_same(tmp_path: Path) -> None:
    outcomes = {outcome.cell.name: outcome.result for outcome in run(CELLS, square, tmp_path, 2)}
    assert {name: result["square"] for name, result in outcomes.items()} == {"cell-0": 0, "cell-1": 1, "cell-2": 4}
    assert os.getpid() not in {result["process"] for result in outcomes.values()}
    with pytest.raises(CellError, match="goes on"):
        list(run(CELLS[:1], die, tmp_path, 2))
    assert not multiprocessing.active_children()
    # All of them were there already.
    assert list(run([], square, tmp_path, 2)) == []


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_whoever_looks_on_hears_how_far_a_cell_is(processes: int, tmp_path: Path) -> None:
    cells = [Cell(name=name, settings={"heard": str(tmp_path / name)}) for name in ("one", "other", "third")]
    told = []

    def look(cell: Cell, part: float) -> None:
        told.append((cell.name, part))
        (tmp_path / cell.name).touch()

    outcomes = list(run(cells, halves, tmp_path / "cells", processes, look))
    assert [outcome.result for outcome in outcomes] == [{"heard": True}] * 3
    assert set(told) == {("one", 0.5), ("other", 0.5), ("third", 0.5)}


@pytest.mark.slow
def test_what_is_done_is_kept_though_another_failed_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody looks before all have ended.
    monkeypatch.setattr(running, "FIRST_COMPLETED", ALL_COMPLETED)
    monkeypatch.setattr(running, "_LOOK_SECONDS", PATIENCE)
    with pytest.raises(ValueError, match="the last"):
        list(run(CELLS, begun_anew(fails_with_the_last), tmp_path, 2))
    assert [stored(cell, tmp_path) is not None for cell in CELLS] == [True, True, False]


@pytest.mark.slow
def test_a_cell_that_was_killed_goes_on(tmp_path: Path) -> None:
    with pytest.raises(CellError):
        list(run(CELLS[:1], count_to_four, tmp_path, 2))
    assert {path.name for path in tmp_path.iterdir()} == {"cell-0.pt"}
    (outcome,) = run(CELLS[:1], count_to_four, tmp_path, 2)
    assert outcome.result == {"before": 2, "sum": 4}
    assert {path.name for path in tmp_path.iterdir()} == {"cell-0.json"}


def test_a_checkpoint_is_of_its_cell(tmp_path: Path) -> None:
    path = tmp_path / "cell.pt"
    assert Checkpoint(path, {"number": 0}).load() is None
    Checkpoint(path, {"number": 0}).save({"tensor": torch.arange(3)})
    assert Checkpoint(path, {"number": 1}).load() is None
    kept = Checkpoint(path, {"number": 0}).load()
    assert kept is not None and kept["tensor"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-200])
    assert Checkpoint(path, {"number": 0}).load() is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 0},
        {"schema": torch.tensor(1)},
        {"settings": {"number": torch.tensor([0, 0])}},
        {"seconds": "long"},
        {"seconds": math.nan},
        {"content": []},
    ],
)
def test_a_checkpoint_of_another_form_counts_as_none(change: dict[str, Any], tmp_path: Path) -> None:
    whole = {"schema": 1, "settings": {"number": 0}, "seconds": 1.0, "content": {}}
    for content, expected in ((whole, {}), (whole | change, None), ({}, None)):
        write_tensors(tmp_path / "cell.pt", content)
        assert Checkpoint(tmp_path / "cell.pt", {"number": 0}).load() == expected


def test_a_disk_that_refuses_costs_a_checkpoint_and_no_more(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "nowhere" / "cell.pt", {})
    checkpoint.save({})
    assert not checkpoint.exists and checkpoint.load() is None


def test_nothing_is_left_of_checkpoints(tmp_path: Path) -> None:
    """Neither after a kill while one is written, nor after one right before it would be removed."""
    list(run(CELLS[:1], square, tmp_path, 1))
    for name in ("cell-0.pt", ".cell-0.pt.tmp"):
        (tmp_path / name).write_bytes(b"")
    tidy(CELLS[0], tmp_path)
    tidy(CELLS[1], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"cell-0.json"}


def test_checkpoints_come_at_intervals_and_count_all_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Checkpoint(tmp_path / "cell.pt", {})
    assert not first.due
    monkeypatch.setattr(running, "CHECKPOINT_SECONDS", 0)
    assert first.due
    monkeypatch.setattr(Checkpoint, "seconds", 100.0)
    first.save({})
    monkeypatch.undo()
    second = Checkpoint(tmp_path / "cell.pt", {})
    assert second.seconds < 50
    second.load()
    assert 100 <= second.seconds < 150
