"""ablate.py with tuning, from the command line: killed, resumed, and with runs that fail."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ablate
from ablation.grid import cell as cell_process
from ablation.grid import run as grid_run
from ablation.grid import tuning
from ablation.grid.grid import Cell, save_cell
from ablation.grid.scheduler import CellStatus, Exit, State
from agents.storage.checkpoint import list_checkpoints

pytestmark = pytest.mark.usefixtures("process_settings")

TINY = [
    *("env=conditional", "env.tasks=[map-0,map-1]", "parallel=1", "runtime=serial", "display=false"),
    *("core.size=8", "fusion.size=8", "torso.hidden=[8]", "runtime.slots_per_actor=16", "episodes=10"),
]
GRID = [*TINY, "fusions=[concat,mi]", "seeds=1", "total_frames=2560", "checkpoint_seconds=0"]


class Ended(NamedTuple):
    """A cell that has run in this process."""

    cell: Cell
    code: int

    def has_begun(self) -> bool:
        return True

    def poll(self) -> Exit:
        return Exit(self.code)


class Here:
    """Runs cells in this process, because another one takes longer to start than to train. `fails`: names of cells that fail."""

    fails: frozenset[str] = frozenset()

    def start(self, cell: Cell) -> Ended:
        save_cell(cell)
        return Ended(cell, 1 if cell.name in self.fails else cell_process.run(cell.folder, threads=1))

    def stop(self) -> None: ...


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    executor = Here()
    monkeypatch.setattr(grid_run, "open_executor", lambda config, cells, say: contextlib.nullcontext(executor))
    return executor


def content(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    return found


def report_of(folder: Path) -> dict[str, Any]:
    """analysis.json without values that depend on time, folder and machine."""
    found = content(folder, "analysis.json")
    for key in ("timing", "command", "cautions"):
        del found[key]
    for run in found["runs"]:
        del run["provenance"]
    return found


@pytest.mark.slow
def test_a_grid_that_is_killed_while_it_is_tuned_resumes_to_the_same_report(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*GRID, "tune={learner.learning_rate: [1e-3, 1e-2]}", "tune_fraction=0.5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert ablate.main([*arguments, f"folder={whole}"]) == 0
    output = capsys.readouterr().out
    chosen = {choice["variant"]: choice["chosen"] for choice in content(whole, "tuning.json")["choices"]}
    for variant, values in chosen.items():
        assert f"{variant}: learner.learning_rate={values['learner.learning_rate']}\n" in output
        run = content(whole / f"{variant}-seed0", "cell.json")["train"]
        assert run["learner"]["learning_rate"] == values["learner.learning_rate"] and run["total_frames"] == 2560
    assert "4 tuning runs took 5,120 frames" in output

    process = subprocess.Popen(
        [sys.executable, "ablate.py", *arguments, f"folder={killed}"],
        cwd=Path(ablate.__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    second = killed / "tuning" / "concat,learner.learning_rate=0.01-seed1000000000"
    until = time.monotonic() + 300
    while not list_checkpoints(second / "checkpoints"):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (killed / "tuning.json").exists() and not (killed / "mi-seed0").exists()
    assert ablate.main([*arguments, f"folder={killed}"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"concat,learner.learning_rate=0.001-seed1000000000: finished already.* \(1 of 4\)", output)
    assert report_of(killed) == report_of(whole)
    # Nothing runs again, and the report is the same without the command.
    assert ablate.main([*arguments, f"folder={killed}"]) == 0
    assert re.search(r"concat-seed0: finished already.* \(1 of 2\)", capsys.readouterr().out)
    assert ablate.main([f"report={killed}"]) == 0
    assert report_of(killed) == report_of(whole)
    assert ablate.main([f"report={killed / 'tuning'}"]) == 0
    assert content(killed / "tuning", "analysis.json")["variants"] == [
        f"{variant} learner.learning_rate={rate}" for rate in (0.001, 0.01) for variant in ("concat", "mi")
    ]


@pytest.mark.slow
def test_a_tuning_run_that_fails_is_named_and_not_chosen(
    here: Here, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = "mi,learner.learning_rate=0.01-seed1000000000"
    arguments = [*TINY, "fusions=[mi]", "seeds=1", "total_frames=2000", f"folder={tmp_path}"]
    here.fails = frozenset([failed])
    assert ablate.main([*arguments, "tune={learner.learning_rate: [1e-2, 1e-3]}"]) == 1
    output, errors = capsys.readouterr()
    assert f"{failed}: failed: exit code 1" in output
    assert f"1 tuning run failed and does not count: {failed} (exit code 1)." in output
    assert "mi: learner.learning_rate=0.001\n" in output and "Traceback" not in output + errors
    # The choice is final, because its run has begun.
    here.fails = frozenset()
    assert ablate.main([*arguments, "tune={learner.learning_rate: [1e-2, 1e-3]}"]) == 0
    assert f"{failed}: f" not in capsys.readouterr().out


def test_without_a_tuning_run_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: object, cells: Sequence[Cell], command: object) -> dict[str, CellStatus]:
        return {cell.name: CellStatus(State.FAILED, reason="it broke") for cell in cells}

    monkeypatch.setattr(tuning, "run_grid", fail)
    arguments = [*TINY, "fusions=[mi]", "seeds=1", f"folder={tmp_path}", "tune={learner.learning_rate: [1e-3, 1e-2]}"]
    assert ablate.main(arguments) == 1
    output, errors = capsys.readouterr()
    assert output == "mi: no choice, because every tuning run failed\n" and errors.startswith("error: every run failed")
    assert not (tmp_path / "grid.json").exists() and not (tmp_path / "report.html").exists()
