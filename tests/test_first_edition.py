"""Runs of the first edition, written at commit 23491bf: they evaluate, resume and report, and `serial` still gives their parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import ablate
import evaluate
import train
from agents.storage.checkpoint import list_checkpoints, load_checkpoint

DATA = Path(__file__).parent / "data"
SERIAL = json.loads((DATA / "serial_parameters.json").read_text(encoding="utf-8"))
QUICK = ("core=lstm fusion=mi", "core=lstm fusion=film", "core=mlstm fusion=mi")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "first_edition", tmp_path / "run"))


@pytest.mark.usefixtures("tests_keep_their_threads", "process_settings")
def test_a_checkpoint_of_the_first_edition_evaluates(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "evaluation.json"
    assert evaluate.main([f"run={run}", "episodes=3", f"output={output}"]) == 0
    earlier, present = (json.loads(path.read_text(encoding="utf-8")) for path in (run / "evaluation.json", output))
    assert present["tasks"].keys() == earlier["tasks"].keys()
    for task, figures in present["tasks"].items():
        assert figures["episodes"] == 3
        assert figures.keys() == earlier["tasks"][task].keys()


@pytest.mark.usefixtures("process_settings")
def test_a_run_of_the_first_edition_resumes(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert train.main([f"run={run}", "resume=true", "total_frames=800", "display=false"]) == 0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["finished"] and result["frames"] >= 800 and result["updates"] > 116
    assert (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[: len(rows)] == rows


@pytest.mark.usefixtures("process_settings")
def test_a_run_of_the_first_edition_is_reported(run: Path, tmp_path: Path) -> None:
    assert ablate.main([f"folders=[{run}]", f"folder={tmp_path / 'report'}"]) == 0
    assert "mi" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in SERIAL["parameters"]]
)
def test_serial_gives_the_parameters_of_the_first_edition(case: str, tmp_path: Path) -> None:
    """80 updates, up to rounding: the fixture holds the first three numbers of every tensor."""
    assert train.main([*SERIAL["arguments"], *case.split(), f"run={tmp_path}"]) == 0
    network = load_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])["learner"]["network"]
    found = {name: tensor.flatten()[:3].tolist() for name, tensor in network.items()}
    assert found.keys() == SERIAL["parameters"][case].keys()
    for name, numbers in SERIAL["parameters"][case].items():
        assert found[name] == pytest.approx(numbers, abs=1e-6), name
