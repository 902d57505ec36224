"""ablate.py from the command line: killed and resumed grids, failed runs, Ctrl-C, and error messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ablate
from ablation.grid import cell as cell_process
from ablation.grid import run as grid_run
from ablation.grid.grid import Cell, make_cells, normalize_axes, save_cell, save_grid
from ablation.grid.local_executor import available_cores, split_cores
from ablation.grid.scheduler import CellStatus, State, exit_reason
from agents.storage.checkpoint import list_checkpoints
from conf.loading import compose_ablate, split_axes

pytestmark = pytest.mark.usefixtures("process_settings")

ROOT = Path(ablate.__file__).parent
TINY = [
    *("env=conditional", "env.tasks=[map-0,map-1]", "seeds=1", "parallel=1", "runtime=serial"),
    *("core.size=8", "fusion.size=8", "torso.hidden=[8]", "runtime.slots_per_actor=16"),
    *("episodes=10",),
]


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """ablate.py in a child process."""
    process = subprocess.Popen(
        [sys.executable, "ablate.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def cells_of(*arguments: str) -> list[Cell]:
    single, axes = split_axes(arguments)
    config = compose_ablate(single)
    normalize_axes(config, single, axes)
    return make_cells(config, single, axes)


def play_here(*arguments: str) -> Path:
    """Runs a grid in this process; returns its folder."""
    cells = cells_of(*arguments)
    folder = cells[0].folder.parent
    folder.mkdir()
    save_grid(folder, cells, arguments)
    for cell in cells:
        save_cell(cell)
        assert cell_process.run(cell.folder, threads=1) == 0
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    """analysis.json without values that depend on time, folder and machine."""
    content: dict[str, Any] = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
    for key in ("timing", "command", "cautions"):
        del content[key]
    for run in content["runs"]:
        del run["provenance"]
    return content


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.slow
def test_a_killed_grid_resumes_to_the_same_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    grid = [*TINY, "fusions=[concat,mi]", "total_frames=3200", "checkpoint_seconds=0"]
    play_here(*grid, f"folder={whole}")
    assert ablate.main([f"report={whole}"]) == 0
    capsys.readouterr()
    with started(*grid, f"folder={killed}") as process:
        mi = killed / "mi-seed0"
        wait_for(lambda: list_checkpoints(mi / "checkpoints"), process)
        process.kill()
        process.wait()
    finished = files(killed / "concat-seed0")
    assert (killed / "concat-seed0" / "evaluation.json").exists()
    assert not (mi / "result.json").exists() or not json.loads((mi / "result.json").read_text())["finished"]
    assert ablate.main([*grid, f"folder={killed}"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"concat-seed0: finished already, \w+ \S+ \(1 of 2\)", output)
    assert re.search(r"mi-seed0: finished, \w+ \S+ \(2 of 2\)", output)
    assert files(killed / "concat-seed0") == finished
    assert report_of(killed) == report_of(whole)
    page = (killed / "report.html").read_text(encoding="utf-8")
    assert "mi" in page and "ablate.py" in page


@pytest.mark.slow
def test_a_failed_run_is_named_and_the_rest_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, f"folder={tmp_path}", "fusions=[film,mi]", "total_frames=2000"]
    cells = cells_of(*arguments)
    # The only checkpoint of a cell is torn.
    broken = cells[0].folder
    save_cell(cells[0])
    assert cell_process.run(broken, threads=1) == 0
    (broken / "result.json").unlink()
    list_checkpoints(broken / "checkpoints")[-1].write_bytes(b"torn")
    for path in list_checkpoints(broken / "checkpoints")[:-1]:
        path.unlink()
    capsys.readouterr()
    assert ablate.main(arguments) == 1
    output, errors = capsys.readouterr()
    assert re.search(r"film-seed0: failed: no checkpoint is intact \(.* is truncated or not a checkpoint\)", output)
    assert re.search(r"mi-seed0: finished, \w+ \S+ \(2 of 2\)", output)
    assert "film-seed0 is left out: its training is not finished: continue it with python train.py run=" in errors
    # One variant with one seed is left, so the report must not compare.
    assert "mi: mean score over 2 tasks is " in output and ", from 1 seed." in output
    assert not re.search("compar|better|faster|difference|lead|told apart", output)
    assert "Traceback" not in output + errors
    analysis = json.loads((tmp_path / "analysis.json").read_text(encoding="utf-8"))
    assert analysis["variants"] == ["mi"]
    assert [problem["run"] for problem in analysis["problems"]] == ["film-seed0"]


@pytest.mark.slow
def test_ctrl_c_saves_running_cells_and_a_second_grid_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY, f"folder={tmp_path}", "fusions=[concat]", "total_frames=100000000", "checkpoint_seconds=1000"]
    with started(*arguments) as process:
        run = tmp_path / "concat-seed0"
        wait_for((run / "metrics.jsonl").exists, process)
        assert ablate.main(arguments) == 2
        errors = capsys.readouterr().err
        assert f"is being written by process {process.pid}: " in errors and errors.count("\n") == 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues" in errors
    assert list_checkpoints(run / "checkpoints")
    assert not json.loads((run / "result.json").read_text(encoding="utf-8"))["finished"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fusions=[mii]"], "fusions=mii is unknown"),
        (["env=nowhere"], "env=nowhere is unknown"),
        (["nonsense=1"], "nonsense is not a key"),
        (["report=/nowhere"], "report=/nowhere is not a folder that ablate.py has filled"),
        (["folders=[/nowhere]"], "folders=[/nowhere] does not exist"),
        (["total_frames=${x}"], "interpolation"),
        (["env=conditional", "folder=/dev/null/x"], "folder=/dev/null/x cannot be written"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert ablate.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_help_names_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main(["--help", "experiment=ablate_conditional", "core=lstm,mlstm"]) == 0
    output = capsys.readouterr().out
    assert "  fusions=[concat,gated,film,low_rank,mi]" in output
    assert "  env.name=conditional" in output


def test_cores_are_divided() -> None:
    assert split_cores([0, 1, 2, 3, 4], 2) == [(0, 2, 4), (1, 3)]
    assert split_cores([3], 4) == [(3,)]
    assert available_cores()


def test_the_reason_of_a_failed_cell(tmp_path: Path) -> None:
    cell = cells_of(*TINY, f"folder={tmp_path}", "fusions=[mi]")[0]
    assert exit_reason(cell, -9) == "killed by SIGKILL"
    assert exit_reason(cell, 3) == "exit code 3"
    cell.folder.mkdir(parents=True)
    (cell.folder / "cell.log").write_text("error: first\nerror: the disk is full.\nlater\n", encoding="utf-8")
    assert exit_reason(cell, 2) == "the disk is full."


@pytest.mark.parametrize(("seeds", "expected"), [(1, "mimpala: 1 run in "), (2, "mimpala: 2 runs in ")])
def test_the_message_of_a_grid_whose_runs_all_fail(
    seeds: int, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        grid_run, "run_cells", lambda cells, *rest: {cell.name: CellStatus(State.FAILED) for cell in cells}
    )
    assert ablate.main([*TINY, f"folder={tmp_path}", "fusions=[mi]", f"seeds={seeds}"]) == 1
    said = capsys.readouterr()
    assert expected in said.out
    assert (
        said.err
        == "error: every run failed, so there is no report: the reasons are above, and the same command tries again\n"
    )
