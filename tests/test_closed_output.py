"""A program whose reader has gone (`| head`) finishes its work and reports no broken pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
SMALL = ["env=conditional", "runtime=serial", "runtime.slots_per_actor=8", "learner.batch_size=8"]


def without_a_reader(*command: str, also_stderr: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a program whose standard output is closed at the other end before its first line."""
    stderr = subprocess.STDOUT if also_stderr else subprocess.PIPE
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    process.stdout.close()
    error = process.stderr.read() if process.stderr else ""
    return subprocess.CompletedProcess(command, process.wait(), "", error)


@pytest.mark.slow
def test_a_run_and_its_evaluation(tmp_path: Path) -> None:
    ended = without_a_reader("train.py", *SMALL, "total_frames=500", f"run={tmp_path}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "result.json").exists() and list((tmp_path / "checkpoints").iterdir())
    ended = without_a_reader("evaluate.py", f"run={tmp_path}", "episodes=2", "threads=1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("display", ["true", "false"])
def test_a_study(display: str, tmp_path: Path) -> None:
    small = ["quick=true", "functions=[dot]", "networks=[mi]", "dimensions=[1,2]", "steps=10", "parallel=1"]
    ended = without_a_reader("-m", "studies.synthetic", *small, f"folder={tmp_path}", f"display={display}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train.py", "doctor.py"])
def test_help(program: str) -> None:
    ended = without_a_reader(program, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("streams", [(1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed_from_the_start(streams: tuple[int, ...], tmp_path: Path) -> None:
    """As by `>&-`. No file may get a descriptor of a standard stream, and with it the output of libraries."""
    closed = " ".join(f"{number}>&-" for number in streams)
    small = " ".join([*SMALL, "total_frames=500", "display=false"])
    for arguments, code in ((small, 0), ("fusion=mj", 2)):
        line = f'exec "$0" "$1" {arguments} "$2" {closed}'
        words = ["bash", "-c", line, sys.executable, "train.py", f"run={tmp_path / 'run'}"]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == code and "Traceback" not in ended.stderr + ended.stdout
    assert (tmp_path / "run" / "result.json").exists()


def test_the_next_file_gets_no_descriptor_of_a_closed_stream(tmp_path: Path) -> None:
    """begin_program opens the closed streams."""
    result = tmp_path / "descriptor"
    made = f"f = open({str(result)!r}, 'w'); f.write(str(f.fileno()))"
    line = f"from agents.cli.signals import begin_program; begin_program(); print('x'); {made}"
    subprocess.run(["bash", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, line], cwd=ROOT, check=True)
    assert int(result.read_text(encoding="utf-8")) > 2


@pytest.mark.slow
def test_an_error_without_a_reader() -> None:
    assert without_a_reader("train.py", "fusion=mj", also_stderr=True).returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize(
    ("program", "code"), [(["train.py", "--help"], 0), (["doctor.py", *SMALL], 0), (["train.py", "fusion=mj"], 2)]
)
def test_a_disk_that_is_full(program: list[str], code: int) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, *program], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == code and "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr
