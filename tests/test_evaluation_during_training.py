"""Evaluation while a run trains: its results, the best checkpoint, and what happens to its process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import PATIENCE, each, eventually, is_gone
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TINY, check_checkpoints, result, rows, same

import evaluate
import train
from agents.evaluation.during_training import FILE, Evaluations
from agents.run.session import Session
from agents.storage.checkpoint import find_checkpoint, list_checkpoints
from conf.loading import compose_train
from envs.suites import make_spec

pytestmark = [
    pytest.mark.usefixtures("process_settings", "tests_keep_their_threads", "nothing_is_left_behind"),
]

ROOT = Path(train.__file__).parent
EVERY = [*TINY, "evaluate_every=300", "evaluate_episodes=6", "keep_checkpoints=1"]
ENDLESS = ["total_frames=100000000", "evaluate_episodes=100000000"]


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / FILE).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with evaluations, which waits for each, so that their number does not depend on the machine."""
    folder = tmp_path_factory.mktemp("runs") / "evaluated"
    advance = Evaluations.advance

    def waiting(self: Evaluations) -> None:
        advance(self)
        self._wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluations, "advance", waiting)
        assert train.main([*EVERY, f"run={folder}", "total_frames=1000", "checkpoint_seconds=0"]) == 0
    return folder


def test_each_multiple_of_the_frames_and_the_end_are_evaluated(run: Path, tmp_path: Path) -> None:
    found = evaluations(run)
    assert [row["frames"] // 300 for row in found] == [1, 2, 3, 3] and found[-1]["frames"] == result(run)["frames"]
    # The last one equals evaluate.py's.
    assert evaluate.main([f"run={run}", "episodes=6", "threads=1", f"output={tmp_path / 'evaluation.json'}"]) == 0
    alone = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert found[-1]["aggregate"] == alone["aggregate"] and found[-1]["updates"] == alone["provenance"]["updates"]
    for task, row in found[-1]["tasks"].items():
        assert row == {key: alone["tasks"][task][key] for key in row}
    board = EventAccumulator(str(run), size_guidance={"scalars": 0})
    board.Reload()
    shown = [(event.step, event.value) for event in board.Scalars("evaluation/success/mean")][: len(found)]
    assert shown == [(row["frames"], pytest.approx(row["value"])) for row in found]
    assert result(run)["evaluation"]["evaluation/success/mean"] == found[-1]["value"]


def test_the_best_checkpoint_is_that_of_the_best_evaluation(run: Path) -> None:
    best = max(evaluations(run), key=lambda row: row["value"])
    path = find_checkpoint(run / "best", print)
    assert int(path.stem.split("-")[1]) == best["updates"]
    assert set(list_checkpoints(run / "checkpoints")) == {path, find_checkpoint(run, print)}


@pytest.mark.slow
def test_evaluations_do_not_change_what_is_learned(run: Path, tmp_path: Path) -> None:
    assert train.main([*TINY, f"run={tmp_path / 'run'}", "total_frames=1000"]) == 0
    assert same(run, tmp_path / "run")


def test_an_evaluation_that_fails_is_reported_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process of the first is killed, the second has no checkpoint, the third works."""
    start, save, started = Evaluations._start, Session.save, []

    def starting(self: Evaluations) -> None:
        started.append(None)
        if len(started) == 2:
            monkeypatch.setattr(Session, "save", lambda session: save(session) and tmp_path / "missing.pt")
        start(self)
        monkeypatch.setattr(Session, "save", save)
        if len(started) == 1:
            assert self._running and self._running.process.pid
            os.kill(self._running.process.pid, signal.SIGKILL)
        self._wait()

    monkeypatch.setattr(Evaluations, "_start", starting)
    assert train.main([*EVERY, f"run={tmp_path / 'run'}", "total_frames=1000"]) == 0
    first, second, *others = evaluations(tmp_path / "run")
    assert "SIGKILL" in first["error"] and "missing.pt" in second["error"]
    assert others and all("value" in row for row in others)
    said = [line for line in capsys.readouterr().out.splitlines() if "failed" in line]
    assert len(said) == 2 and all(line.endswith("training continues.") for line in said)
    assert check_checkpoints(tmp_path / "run") == result(tmp_path / "run")["updates"]


@pytest.mark.parametrize("ending", ["while it trains", "at its end"])
def test_a_signal_ends_the_evaluation_and_a_resume_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    run = tmp_path / "run"
    start, pids = Evaluations._start, []

    def starting(self: Evaluations) -> None:
        start(self)
        assert self._running
        pids.append(self._running.process.pid)
        signal.raise_signal(signal.SIGINT)

    every = "evaluate_every=300" if ending == "while it trains" else "evaluate_every=100000"
    with monkeypatch.context() as patch:
        patch.setattr(Evaluations, "_start", starting)
        arguments = [every, "evaluate_episodes=100000000", "total_frames=600"]
        assert train.main([*EVERY, f"run={run}", *arguments]) == 130
    assert len(pids) == 1 and is_gone(pids[0])
    assert not (run / FILE).exists() and not result(run)["finished"]
    assert train.main([f"run={run}", "resume=true", "evaluate_episodes=2"]) == 0
    (*_, last) = evaluations(run)
    assert last["frames"] == result(run)["frames"] and result(run)["finished"]


@pytest.mark.slow
def test_the_evaluation_ends_with_a_killed_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "train.py", *EVERY, *ENDLESS, f"run={run}"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        eventually(lambda: process.poll() is not None or any(players(process.pid)))
        (pid,) = players(process.pid)
    finally:
        process.kill()
        process.wait(PATIENCE)
    eventually(lambda: is_gone(pid))
    assert train.main([f"run={run}", "resume=true", "evaluate_episodes=2", "total_frames=1500"]) == 0
    assert evaluations(run)[-1]["frames"] == result(run)["frames"]


def players(parent: int) -> list[int]:
    """Process ids of the evaluations of a serial run: it forks no other process from the fork server."""
    found = []
    for server, command in each(psutil.Process(parent).children(), lambda child: child.cmdline()):
        if "forkserver" in " ".join(command):
            found += [child.pid for child in server.children()]
    return found


def test_a_resume_drops_later_evaluations_and_finds_the_best_one(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "result.json").unlink()
    found = evaluations(copy)
    better = {**found[-1], "value": 2.0}
    later = {**found[-1], "updates": found[-1]["updates"] + 1, "value": 3.0}
    lines = [*found[:-1], better, later, {"updates": -1}]
    (copy / FILE).write_text("".join(json.dumps(row) + "\n" for row in lines) + '{"updates": 3', encoding="utf-8")
    assert train.main([f"run={copy}", "resume=true", "total_frames=1100", "evaluate_every=100000"]) == 0
    *kept, last = evaluations(copy)
    assert kept == [*found[:-1], better] and last["frames"] >= 1100
    assert int(find_checkpoint(copy / "best", print).stem.split("-")[1]) == better["updates"]


def test_thresholds_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = [*TINY, f"run={run}", "total_frames=20000", "stop_at={success: 0.2, return: 0.25}"]
    assert train.main(command) == 0
    first = result(run)
    assert first["ended_by"] == "stop_at" and first["finished"] and first["frames"] < 20000
    assert first["mean"]["success"] >= 0.2 and first["mean"]["return"] >= 0.25
    last, *_ = (row for row in rows(run)[::-1] if row["updates"] < first["updates"])
    ended = min(value for key, value in last.items() if key.endswith("/episodes"))
    assert ended < 100 or last["mean/return"] < 0.25
    capsys.readouterr()
    for arguments in ([], ["stop_at={return: 0.1}"]):
        assert train.main([f"run={run}", "resume=true", *arguments]) == 0
        assert "is finished: nothing to do" in capsys.readouterr().out
    frames = first["frames"] + 100
    assert train.main([f"run={run}", "resume=true", "stop_at=null", f"total_frames={frames}"]) == 0
    assert result(run)["ended_by"] == "total_frames" and result(run)["frames"] >= frames


def test_a_score_needs_reference_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["env=gymnasium", "env.tasks=[CartPole-v1]", f"run={tmp_path / 'run'}", "stop_at={score: 50}"]
    assert not make_spec(compose_train(keys).env).scores
    assert train.main([*keys, "runtime=serial", "display=false"]) == 2
    assert "needs reference scores of every task and env=gymnasium has none" in capsys.readouterr().err
