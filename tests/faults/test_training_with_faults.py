"""Training on failing environments completes and reports the failures, their tasks and their number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import train

SMALL = [
    *(
        "env=gymnasium",
        "context=task",
        "fusion=film",
        "core.size=8",
        "fusion.size=8",
        "torso.hidden=[8]",
        "display=false",
    ),
    *("runtime=local", "runtime.num_actors=1", "runtime.slots_per_actor=4", "learner.batch_size=4", "precision=fp32"),
    *("learner.unroll_length=10", "log_seconds=0", "runtime.max_restarts=1000"),
]

pytestmark = pytest.mark.usefixtures("process_settings", "nothing_is_left_behind")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# An actor takes seconds to restart, an environment much less.
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "frames"), [("true", 200), ("false", 40)])
def test_training_continues_when_environments_crash(processes: str, frames: int, tmp_path: Path) -> None:
    run, tasks = tmp_path / "run", ["environments:Segfaults-v0", "environments:Counts-v0"]
    more = [f"env.tasks=[{','.join(tasks)}]", f"env.processes={processes}", f"run={run}", f"total_frames={frames}"]
    assert train.main([*SMALL, *more]) == 0
    records, result, last = (
        lines(run / "faults.jsonl"),
        json.loads((run / "result.json").read_text()),
        lines(run / "metrics.jsonl")[-1],
    )
    assert result["finished"] and result["restarts"] == len(records) > 0
    where = "an environment of actor 0" if processes == "true" else "actor 0"
    for record in records:
        assert record["where"] == where and record["task"] == tasks[0] and record["cause"] == "killed"
        assert "SIGSEGV" in record["detail"] and "environments.py" in record["detail"], "no stack"
    assert (
        sum(record["episodes_dropped"] for record in records) == last["episodes_dropped"] == result["episodes_dropped"]
    )
    assert last[f"tasks/{tasks[0]}/restarts"] == last["restarts/killed"] == len(records)
    assert last[f"tasks/{tasks[1]}/restarts"] == 0
    assert last["memory/learner"] > last["memory/actor-0"] / 10 > 0


def test_training_saves_and_stops_with_the_reason_when_environments_crash_too_often(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    # Rare enough that the first unroll completes.
    more = ["env.tasks=[environments:Raises-v0]", "env.processes=false", f"run={run}", "total_frames=100000"]
    more += ["env.options={every: 40}"]
    assert train.main([*SMALL, *more, "runtime=serial", "runtime.max_restarts=3"]) == 1
    said = capsys.readouterr().err
    assert "4 restarts within 300 s exceed runtime.max_restarts=3" in said
    assert "4 x actor 0 (task environments:Raises-v0) failed: " in said and "Traceback" in said
    assert list((run / "checkpoints").glob("*.pt")) and len(lines(run / "faults.jsonl")) == 4


def test_repeated_equal_failures_before_the_first_unroll_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    more = ["env.tasks=[gym_oddities:Fails-v0]", f"run={run}", "total_frames=100000", "runtime=serial"]
    assert train.main([*SMALL, *more]) == 1
    said = capsys.readouterr().err
    assert "error: env.tasks=gym_oddities:Fails-v0 failed 3 times in the same way before the first unroll" in said
    assert "(KeyError: 'a missing thing')" in said and "Traceback" not in said
    assert len(lines(run / "faults.jsonl")) == 3 and "Traceback" in lines(run / "faults.jsonl")[0]["detail"]
