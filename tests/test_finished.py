"""resume=true leaves a finished run unchanged, and an evaluation keeps earlier ones with other settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from saved_agents import CONDITIONAL, SMALL, make_checkpoint

import evaluate
import train
from agents.evaluation.earlier_files import keep_earlier, keep_folder
from agents.run.layout import RESULT

pytestmark = pytest.mark.usefixtures("process_settings")

ROOT = Path(train.__file__).parent
TINY = [
    *(*SMALL, *CONDITIONAL, "runtime.slots_per_actor=4", "learner.unroll_length=5"),
    *("log_seconds=0", "checkpoint_seconds=0", "display=false"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train.main([*TINY, f"run={folder}", "total_frames=100"]) == 0
    return folder


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Modification time and content of every file."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["total_frames=100"],
        ["display=true", "device=cuda", "precision=bf16"],
        ["runtime=cluster", "runtime.address=nowhere:1", "learner.num_processes=2"],
        ["runtime=local", "checkpoint_seconds=7", "keep_checkpoints=1"],
        [*TINY, "total_frames=100"],
    ],
)
def test_resume_leaves_a_finished_run_unchanged(
    finished: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    before = files(finished)
    assert train.main([f"run={finished}", "resume=true", *arguments]) == 0
    assert f"run={finished} is finished: nothing to do" in capsys.readouterr().out
    assert files(finished) == before


@pytest.mark.slow
def test_resume_of_a_finished_run_under_torchrun_ends_every_process(finished: Path) -> None:
    before = files(finished)
    words = ["--standalone", "--nproc-per-node=2", "train.py", f"run={finished}", "resume=true"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is finished: nothing to do") == 1
    assert files(finished) == before


def test_total_frames_below_the_frames_played_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(finished)
    played = json.loads((finished / RESULT).read_text(encoding="utf-8"))["frames"]
    assert train.main([f"run={finished}", "resume=true", "total_frames=50"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: total_frames=50 is less than the {played} frames") and error.count("\n") == 1
    assert files(finished) == before


def test_unfinished_run_continues(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = json.loads((finished / RESULT).read_text(encoding="utf-8"))
    for number, change in enumerate(({"finished": False, "ended_by": "signal"}, {"updates": 1}, None)):
        run = tmp_path / str(number)
        shutil.copytree(finished, run)
        (run / RESULT).unlink()
        if change:
            (run / RESULT).write_text(json.dumps(played | change), encoding="utf-8")
        # Exactly the frames played, because fewer frames are refused here too.
        assert train.main([f"run={run}", "resume=true", "total_frames=50"]) == 2
        assert train.main([f"run={run}", "resume=true"]) == 0
        assert "nothing to do" not in capsys.readouterr().out
        found = json.loads((run / RESULT).read_text(encoding="utf-8"))
        assert found["finished"] and found["updates"] == played["updates"]
    assert train.main([f"run={tmp_path / '0'}", "resume=true", "total_frames=200"]) == 0
    assert json.loads((tmp_path / "0" / RESULT).read_text(encoding="utf-8"))["frames"] >= 200


@pytest.mark.slow
def test_run_that_ended_at_stop_at_success_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train.main([*TINY, f"run={run}", "total_frames=30000", "stop_at_success=0.05"]) == 0
    assert json.loads((run / RESULT).read_text(encoding="utf-8"))["ended_by"] == "stop_at_success"
    before = files(run)
    for arguments in ([], ["total_frames=40000"], ["stop_at_success=0.01"]):
        capsys.readouterr()
        assert train.main([f"run={run}", "resume=true", *arguments]) == 0
        assert "is finished: nothing to do" in capsys.readouterr().out
        assert files(run) == before
    frames = json.loads((run / RESULT).read_text(encoding="utf-8"))["frames"] + 100
    assert train.main([f"run={run}", "resume=true", "stop_at_success=0", f"total_frames={frames}"]) == 0
    assert json.loads((run / RESULT).read_text(encoding="utf-8"))["frames"] >= frames


# Evaluations


def evaluated(run: Path, *arguments: str) -> dict[str, Any]:
    assert evaluate.main([f"run={run}", "threads=1", "tasks=[map-0]", *arguments]) == 0
    content: dict[str, Any] = json.loads((run.parent / "evaluation.json").read_text(encoding="utf-8"))
    return content


def test_an_earlier_evaluation_with_other_settings_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_checkpoint(tmp_path, *CONDITIONAL)
    first = evaluated(path, "episodes=4", "greedy=true")
    assert evaluated(path, "episodes=4", "greedy=true") == first
    assert [one.name for one in tmp_path.glob("evaluation*")] == ["evaluation.json"]
    capsys.readouterr()
    second = evaluated(path, "episodes=5")
    kept = tmp_path / "evaluation-episodes4-seed0-greedy.json"
    printed = capsys.readouterr().out
    assert f"written: {tmp_path / 'evaluation.json'}" in printed and f"kept: {kept}" in printed
    assert json.loads(kept.read_text(encoding="utf-8")) == first
    # The same settings replace their earlier file; other settings get a separate name.
    assert evaluated(path, "episodes=4", "greedy=true") == first
    other = evaluated(path, "episodes=5", "slots=1")
    assert evaluated(path, "episodes=4", "greedy=true") == first
    names = sorted(one.name for one in tmp_path.glob("evaluation-*"))
    assert len(names) == 3 and kept.name in names
    contents = [json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in names]
    assert all(content in contents for content in (first, second, other))


def test_earlier_evaluation_in_output_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = make_checkpoint(tmp_path, *CONDITIONAL), tmp_path / "mine.json"
    for episodes in (2, 3):
        assert evaluate.main([f"run={path}", f"output={output}", "tasks=[map-0]", f"episodes={episodes}"]) == 0
    assert (tmp_path / "mine-episodes2-seed0-sampled.json").exists()
    notes = tmp_path / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    capsys.readouterr()
    assert evaluate.main([f"run={path}", f"output={notes}", "tasks=[map-0]", "episodes=2"]) == 2
    error = capsys.readouterr().err
    assert "no evaluation" in error and error.count("\n") == 1
    assert notes.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"tasks": 3, "provenance": {}}',
        '{"tasks": {"a": {"episodes": "../../x"}}, "provenance": {"seed": 0, "greedy": true}}',
        '{"tasks": {"a": {"episodes": 5}}, "provenance": {"seed": "../x", "greedy": true}}',
        '{"tasks": {"a": {"episodes": 5}}, "provenance": {"seed": ' + "9" * 300 + ', "greedy": true}}',
        '{"tasks": {"a": {"episodes": 5}}, "provenance": {"seed": 0, "greedy": "/"}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_evaluation_is_kept_under_a_safe_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(content, encoding="utf-8")
    kept = keep_earlier(path, {})
    assert kept is not None and kept.parent == tmp_path
    assert kept.name.startswith("evaluation-unreadable-") and kept.read_text(encoding="utf-8") == content
    assert not path.exists()


def test_an_evaluation_of_any_size_is_kept_without_reading_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "evaluation.json"
    with path.open("wb") as file:
        file.truncate(2**33)
    monkeypatch.setattr(Path, "read_bytes", None)
    kept = keep_earlier(path, {})
    assert kept is not None and kept.name.startswith("evaluation-unreadable-") and kept.stat().st_size == 2**33


def test_videos_and_probes_of_another_evaluation_are_kept(tmp_path: Path) -> None:
    folder, names = tmp_path / "videos", []
    for seed in (0, 0, 1, 0, 1):
        kept = keep_folder(folder, {"sha256": "x", "seed": seed})
        names.append(kept and kept.name)
        folder.mkdir(exist_ok=True)
        (folder / "map-0.mp4").write_text(str(seed), encoding="utf-8")
    assert names[:2] == [None, None] and names[3:] == [names[3], names[2]]
    assert names[2] and names[2].startswith("videos-seed0-")
    assert (tmp_path / names[2] / "map-0.mp4").read_text(encoding="utf-8") == "0"
    # An evaluation without recorded settings, and one with an invalid record.
    for number, note in enumerate(("", '{"seed": "../../x"}', "[")):
        (tmp_path / "videos.json").write_text(note, encoding="utf-8")
        kept = keep_folder(folder, {"seed": 10 + number})
        assert kept is not None and kept.parent == tmp_path and kept.name.startswith("videos-earlier")
        (folder / "map-0.mp4").write_text("more", encoding="utf-8")
