"""Runs of train.py: train, evaluate, resume, kill, interrupt, and stop at success."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import TINY, check_checkpoints, check_metrics, refusal, result, rows

import evaluate
import train
from agents.run.metrics import Statistics
from agents.storage.checkpoint import list_checkpoints, load_checkpoint
from agents.trajectory import Trajectory
from system.files import write_whole

pytestmark = pytest.mark.usefixtures("process_settings")

ROOT = Path(train.__file__).parent


def test_train_evaluate_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train.main([*TINY, f"run={run}", "total_frames=300"]) == 0
    first = result(run)
    assert first["finished"]
    assert 300 <= first["frames"] < 332
    assert check_checkpoints(run) == first["updates"]
    size = json.loads((run / "agent.json").read_text(encoding="utf-8"))
    assert size["parameters"] == first["parameters"]
    assert size["multiply_adds"]["apply"] > size["multiply_adds"]["condition"] > 0
    for name in ("config.yaml", "provenance.json", "vocabulary.json"):
        assert (run / name).exists()

    assert evaluate.main([f"run={run}", "episodes=5", "threads=1"]) == 0
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["provenance"]["updates"] == first["updates"]
    assert evaluation["provenance"]["frames"] == first["frames"]
    assert list(evaluation["tasks"]) == ["map-0", "memory-1"]

    # More frames resume a finished run. No other key of its configuration has to be repeated.
    assert train.main([f"run={run}", "resume=true", "total_frames=600"]) == 0
    second = result(run)
    assert second["updates"] > first["updates"]
    assert 600 <= second["frames"] < 632
    assert second["seconds"] > first["seconds"]
    assert check_checkpoints(run) == second["updates"]
    check_metrics(run)
    assert rows(run)[first["updates"]]["updates"] == first["updates"] + 1
    for task, row in second["tasks"].items():
        assert row["episodes"] >= first["tasks"][task]["episodes"]
        # All 8 slots are in every batch.
        assert row["updates"] == second["updates"] == rows(run)[-1][f"tasks/{task}/updates"]

    # A resumed run keeps the keys that define the experiment, and a new run never overwrites another.
    capsys.readouterr()
    message = refusal(capsys, f"run={run}", "resume=true", "learner.learning_rate=0.5")
    assert "learner.learning_rate=0.5" in message
    assert "the run has 0.0" in message
    assert "resume=true cannot change" in refusal(capsys, f"run={run}", "resume=true", "env=babyai")
    assert "already holds a run" in refusal(capsys, *TINY, f"run={run}")
    assert result(run) == second


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # A checkpoint after every update, so that the kill probably interrupts the writing of one.
    command = [*TINY, f"run={run}", "total_frames=100000000", "checkpoint_seconds=0"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        while len(list_checkpoints(run / "checkpoints")) < 3:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (run / "result.json").exists()
    saved = check_checkpoints(run)
    frames = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["learner"]["counters"]["steps"]
    # A complete line past the checkpoint, and a partial line.
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"updates": saved + 7, "frames": frames, "steps": frames, "seconds": 1.0}) + '\n{"upda')

    (run / "checkpoints" / ".checkpoint-000000000001.pt.tmp").write_bytes(b"half a checkpo")

    # Only total_frames, which also sets the end of annealing, differs from the first command.
    assert train.main([*command, "resume=true", f"total_frames={frames + 200}"]) == 0
    assert 200 <= result(run)["frames"] - frames < 232
    assert check_checkpoints(run) == result(run)["updates"] > saved
    assert not list((run / "checkpoints").glob(".*"))
    check_metrics(run)
    updates = [row["updates"] for row in rows(run)]
    assert updates == list(range(1, result(run)["updates"] + 1))


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    write_whole(path, "old\n")

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new\n")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old\n"
    write_whole(path, "new\n")
    assert path.read_text(encoding="utf-8") == "new\n"
    assert os.listdir(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_saves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    update = Statistics.update
    batches = []

    def interrupted_update(self: Statistics, batch: Trajectory) -> None:
        batches.append(None)
        if len(batches) == 5:
            signal.raise_signal(number)
        update(self, batch)

    monkeypatch.setattr(Statistics, "update", interrupted_update)
    assert train.main([*TINY, f"run={run}", "total_frames=100000000"]) == 130
    assert check_checkpoints(run) == 5  # the fifth update is finished and saved
    assert not result(run)["finished"] and result(run)["ended_by"] == "signal"
    monkeypatch.undo()
    assert train.main([*TINY, f"run={run}", "total_frames=400", "resume=true"]) == 0
    assert result(run)["finished"]
    check_metrics(run)


def test_a_run_ends_when_it_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = [*TINY, f"run={run}", "total_frames=20000", "stop_at_success=0.2"]
    assert train.main(command) == 0
    first = result(run)
    assert first["finished"] and first["ended_by"] == "stop_at_success"
    assert first["frames"] < 20000
    assert first["mean"]["success"] >= 0.2
    assert min(task["episodes"] for task in first["tasks"].values()) >= 100
    # No earlier batch reached the success.
    earlier = [row for row in rows(run) if min(row[f"tasks/{task}/episodes"] for task in first["tasks"]) >= 100]
    assert all(row["mean/success"] < 0.2 for row in earlier[:-1])
    assert check_checkpoints(run) == first["updates"]
    # Without another goal, a resume has nothing to do.
    assert train.main([f"run={run}", "resume=true"]) == 0
    assert result(run)["updates"] == first["updates"]
    frames = first["frames"] + 100
    assert train.main([f"run={run}", "resume=true", "stop_at_success=0", f"total_frames={frames}"]) == 0
    assert result(run)["ended_by"] == "total_frames"
    assert result(run)["frames"] >= frames


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help"]) == 0
    assert "  learner.unroll_length=" in capsys.readouterr().out
