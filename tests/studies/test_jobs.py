"""Jobs run once for their settings, in this process or in others, and resume after an interruption."""

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
from studies.harness import jobs
from studies.harness.jobs import Checkpoint, Job, JobError, Result, Settings, run, stored

pytestmark = pytest.mark.usefixtures("process_settings")


def make_jobs(folder: Path, count: int = 3) -> list[Job]:
    return [Job(name=f"job-{number}", settings={"number": number}, folder=folder) for number in range(count)]


def square(settings: Settings, checkpoint: Checkpoint) -> Result:
    return {"square": settings["number"] ** 2, "process": os.getpid()}


def die(settings: Settings, checkpoint: Checkpoint) -> Result:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def count_to_four(settings: Settings, checkpoint: Checkpoint) -> Result:
    """Kills its process once, after it has saved a 2."""
    state = checkpoint.load() or {"number": 0, "tensor": torch.zeros(1)}
    loaded = state["number"]
    while state["number"] < 4:
        state = {"number": state["number"] + 1, "tensor": state["tensor"] + 1}
        if state["number"] == 3 and not loaded:
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.save(state)
    return {"loaded": loaded, "sum": state["tensor"].item()}


def report_half(settings: Settings, checkpoint: Checkpoint) -> Result:
    """Reports that it is half done, and ends when the report has arrived."""
    checkpoint.reached(0.5)
    eventually(Path(settings["arrived"]).exists)
    return {"arrived": True}


def fail_last(settings: Settings, checkpoint: Checkpoint) -> Result:
    if settings["number"] == 2:
        raise ValueError("the last")
    return {"number": settings["number"]}


def test_results_are_stored_for_their_settings(tmp_path: Path) -> None:
    three = make_jobs(tmp_path)
    assert stored(three[1]) is None
    outcomes = list(run(three, square, 1))
    assert [outcome.result["square"] for outcome in outcomes] == [0, 1, 4]
    again = stored(three[2])
    assert again is not None and again.result == outcomes[2].result
    assert stored(Job(name="job-2", settings={"number": 3}, folder=tmp_path)) is None
    (tmp_path / "job-2.json").write_text("{", encoding="utf-8")
    assert stored(three[2]) is None
    (tmp_path / "job-2.json").write_text(json.dumps({"settings": three[2].settings}), encoding="utf-8")
    assert stored(three[2]) is None


def test_results_before_an_interruption_stay(tmp_path: Path) -> None:
    three = make_jobs(tmp_path)
    running = run(three, square, 1)
    next(running)
    running.close()
    assert [stored(job) is not None for job in three] == [True, False, False]


@pytest.mark.slow
def test_other_processes_return_the_same(tmp_path: Path) -> None:
    outcomes = {outcome.job.name: outcome.result for outcome in run(make_jobs(tmp_path), square, 2)}
    assert {name: result["square"] for name, result in outcomes.items()} == {"job-0": 0, "job-1": 1, "job-2": 4}
    assert os.getpid() not in {result["process"] for result in outcomes.values()}
    with pytest.raises(JobError, match="resumes"):
        list(run(make_jobs(tmp_path, 1), die, 2))
    assert not multiprocessing.active_children()
    assert list(run([], square, 2)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_progress_of_running_jobs_is_reported(processes: int, tmp_path: Path) -> None:
    three = [
        Job(name=name, settings={"arrived": str(tmp_path / name)}, folder=tmp_path) for name in ("one", "two", "three")
    ]
    reports = []

    def on_progress(job: Job, part: float) -> None:
        reports.append((job.name, part))
        (tmp_path / job.name).touch()

    outcomes = list(run(three, report_half, processes, on_progress))
    assert [outcome.result for outcome in outcomes] == [{"arrived": True}] * 3
    assert set(reports) == {("one", 0.5), ("two", 0.5), ("three", 0.5)}


def test_results_are_stored_though_another_job_fails_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first poll comes after all jobs have ended.
    monkeypatch.setattr(jobs, "FIRST_COMPLETED", ALL_COMPLETED)
    monkeypatch.setattr(jobs, "_POLL_SECONDS", PATIENCE)
    three = make_jobs(tmp_path)
    with pytest.raises(ValueError, match="the last"):
        list(run(three, fail_last, 2))
    assert [stored(job) is not None for job in three] == [True, True, False]


@pytest.mark.slow
def test_a_killed_job_resumes(tmp_path: Path) -> None:
    one = make_jobs(tmp_path, 1)
    with pytest.raises(JobError):
        list(run(one, count_to_four, 2))
    assert {path.name for path in tmp_path.iterdir()} == {"job-0.pt"}
    (outcome,) = run(one, count_to_four, 2)
    assert outcome.result == {"loaded": 2, "sum": 4}
    assert {path.name for path in tmp_path.iterdir()} == {"job-0.json"}


def test_a_checkpoint_is_loaded_for_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "job.pt"
    assert Checkpoint(path, {"number": 0}).load() is None
    Checkpoint(path, {"number": 0}).save({"tensor": torch.arange(3)})
    assert Checkpoint(path, {"number": 1}).load() is None
    saved = Checkpoint(path, {"number": 0}).load()
    assert saved is not None and saved["tensor"].tolist() == [0, 1, 2]
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
def test_a_checkpoint_of_another_form_is_not_loaded(change: dict[str, Any], tmp_path: Path) -> None:
    valid = {"schema": 1, "settings": {"number": 0}, "seconds": 1.0, "content": {}}
    for content, expected in ((valid, {}), (valid | change, None), ({}, None)):
        write_tensors(tmp_path / "job.pt", content)
        assert Checkpoint(tmp_path / "job.pt", {"number": 0}).load() == expected


def test_a_failed_checkpoint_does_not_end_the_job(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "nowhere" / "job.pt", {})
    checkpoint.save({})
    assert not checkpoint.exists and checkpoint.load() is None


def test_finished_jobs_have_no_checkpoint(tmp_path: Path) -> None:
    """A kill while one is written, or right before it is removed, leaves none either."""
    one = make_jobs(tmp_path, 1)
    list(run(one, square, 1))
    for name in ("job-0.pt", ".job-0.pt.tmp"):
        (tmp_path / name).write_bytes(b"")
    one[0].checkpoint().remove()
    one[0].checkpoint().remove()
    assert {path.name for path in tmp_path.iterdir()} == {"job-0.json"}


def test_checkpoints_are_due_at_intervals_and_count_all_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Checkpoint(tmp_path / "job.pt", {})
    assert not first.due
    monkeypatch.setattr(jobs, "CHECKPOINT_SECONDS", 0)
    assert first.due
    monkeypatch.setattr(Checkpoint, "seconds", 100.0)
    first.save({})
    monkeypatch.undo()
    second = Checkpoint(tmp_path / "job.pt", {})
    assert second.seconds < 50
    second.load()
    assert 100 <= second.seconds < 150
