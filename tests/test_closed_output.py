"""A reader that is gone, as after `| head`, ends no program: what it was to do is done, and nothing is said about the pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent


def without_a_reader(*command: str) -> subprocess.CompletedProcess[str]:
    """Runs a program whose standard output nobody reads, from before its first line on."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    return subprocess.CompletedProcess(command, process.wait(), "", error)


def test_a_run_and_its_evaluation(tmp_path: Path) -> None:
    small = ["env=conditional", "runtime=serial", "runtime.slots_per_actor=8", "learner.batch_size=8"]
    ended = without_a_reader("train.py", *small, "total_frames=2000", f"run={tmp_path}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "result.json").exists() and list((tmp_path / "checkpoints").iterdir())
    ended = without_a_reader("evaluate.py", f"run={tmp_path}", "episodes=2", "threads=1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize("display", ["true", "false"])
def test_a_study(display: str, tmp_path: Path) -> None:
    small = ["quick=true", "functions=[dot]", "networks=[mi]", "dimensions=[1,2]", "steps=10", "parallel=1"]
    ended = without_a_reader("-m", "studies.synthetic", *small, f"folder={tmp_path}", f"display={display}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "results.json").exists()


@pytest.mark.parametrize("program", ["train.py", "doctor.py"])
def test_help(program: str) -> None:
    ended = without_a_reader(program, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
