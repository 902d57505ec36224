"""`train.py -m`: a run for each combination of values, each as train.py alone would train it, and ready for ablate.py."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import ablate
import train
from ablation.grid import multirun
from ablation.grid.grid import Cell
from ablation.grid.scheduler import CellStatus, State
from conf.ablate_schema import AblateConfig
from conf.loading import compose_train
from conf.schema import TrainConfig

pytestmark = pytest.mark.usefixtures("process_settings")

SMALL = ["env=conditional", "env.tasks=[map-0]", "runtime=serial", "total_frames=20000"]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Cell]:
    """The cells of the multirun that the test starts; none is run."""
    found: list[Cell] = []

    def take(config: AblateConfig, cells: list[Cell], command: list[str]) -> dict[str, CellStatus]:
        found.extend(cells)
        assert command[:3] == ["python", "train.py", "-m"]
        return {cell.name: CellStatus(State.FINISHED) for cell in cells}

    monkeypatch.setattr(multirun, "run_grid", take)
    monkeypatch.chdir(tmp_path)
    return found


def trained(cell: Cell) -> TrainConfig:
    """The cell's training with the keys that a grid sets for itself as in train.py alone."""
    alone = compose_train([])
    cell.train.run, cell.train.resume, cell.train.display, cell.train.log_frames = "", False, True, alone.log_frames
    return cell.train


def test_product_of_values_makes_a_run_for_each_combination(planned: list[Cell]) -> None:
    assert train.main(["-m", *SMALL, "fusion=concat,mi", "seed=0,1"]) == 0
    assert [cell.name for cell in planned] == ["concat-seed0", "mi-seed0", "concat-seed1", "mi-seed1"]
    assert {cell.folder.parent for cell in planned} == {Path("runs/multirun-conditional")}
    assert all(cell.evaluate is None for cell in planned)
    for cell, (fusion, seed) in zip(planned, [("concat", 0), ("mi", 0), ("concat", 1), ("mi", 1)], strict=True):
        assert trained(cell) == compose_train([*SMALL, f"fusion={fusion}", f"seed={seed}"])


@pytest.mark.parametrize(
    ("arguments", "names", "folder"),
    [
        (
            ["--multirun", "lr=1e-3,1e-4", "run=x"],
            ["gated learner.learning_rate=0.001", "gated learner.learning_rate=0.0001"],
            "x",
        ),
        (["-m", "core=gru,lstm", "seed=3", "folder=y", "parallel=2"], ["gated core=gru", "gated core=lstm"], "y"),
        (["-m", "fusion=film", "experiment=few_frames"], ["film"], "runs/multirun-conditional"),
        (["-m", "seed=range(0,3)", "resume=true"], ["gated"] * 3, "runs/multirun-conditional"),
    ],
)
def test_other_keys_are_axes_and_the_rest_is_that_of_train(
    planned: list[Cell], arguments: list[str], names: list[str], folder: str
) -> None:
    assert train.main([*SMALL, *arguments]) == 0
    assert [cell.variant for cell in planned] == names
    assert {cell.folder.parent for cell in planned} == {Path(folder)}
    seeds = [cell.seed for cell in planned]
    assert seeds == ([0, 1, 2] if "seed=range(0,3)" in arguments else [3 * ("seed=3" in arguments)] * len(seeds))


def test_ctrl_c_ends_it_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(multirun, "run_grid", interrupted)
    assert train.main(["-m", *SMALL, "seed=0,1", f"run={tmp_path / 'all'}"]) == 130
    assert capsys.readouterr().err == "interrupted and saved: the same command continues\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=0,1", "episodes=5"], "episodes is not a key"),
        (["fusion=concat,mj"], "fusion=mj is unknown"),
        (["seed=0,0"], "seed=0,0 repeats a value"),
        (["seed=0,1", "learner.nothing=1"], "learner.nothing is not a key"),
        (["log_seconds=1,2"], "log_seconds=1,2 is not an axis"),
        (["learner.learning_rate=interval(0,1)"], "learner.learning_rate=interval(0,1) cannot be read as a list"),
    ],
)
def test_bad_input_starts_no_run(
    planned: list[Cell], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert train.main(["-m", *SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not planned


@pytest.mark.slow
def test_runs_are_trained_and_evaluated_by_the_printed_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again trains nothing, and ablate.py evaluates the runs without training them again."""
    monkeypatch.chdir(tmp_path)
    command = [
        "-m",
        "fusion=concat,mi",
        "seed=1",
        "total_frames=1000",
        "env=conditional",
        "runtime=serial",
        "run=all",
    ]
    assert train.main(command) == 0
    out = capsys.readouterr().out
    folders = sorted(path.parent for path in Path("all").glob("*/result.json"))
    assert [folder.name for folder in folders] == ["concat-seed1", "mi-seed1"]
    written = {folder: (folder / "result.json").read_bytes() for folder in folders}
    assert train.main(command) == 0
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    python, program, *arguments = shlex.split(line.removeprefix("next: "))
    assert (python, program) == ("python", "ablate.py")
    assert ablate.main([*arguments, "episodes=4"]) == 0
    assert {folder: (folder / "result.json").read_bytes() for folder in folders} == written
    assert json.loads(Path("all/grid.json").read_text(encoding="utf-8"))["command"][:2] == ["python", "ablate.py"]
    assert all((folder / "evaluation.json").exists() for folder in folders) and Path("all/report.html").exists()
