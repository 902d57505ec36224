"""Setting the system clock during a run changes only the recorded times of day."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest

import train
from agents.storage.checkpoint import list_checkpoints

SMALL = [
    *(
        "env=conditional",
        "env.tasks=[map-0,memory-1]",
        "context=task",
        "fusion=film",
        "runtime=serial",
        "display=false",
    ),
    *("core.size=8", "fusion.size=8", "torso.hidden=[8]", "runtime.slots_per_actor=8", "learner.unroll_length=4"),
]


@pytest.mark.slow
@pytest.mark.usefixtures("process_settings")
def test_intervals_are_measured_by_the_monotonic_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    year = 365 * 24 * 3600.0
    jumps = itertools.cycle([year, -year, 0.0, 30 * year])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    run = tmp_path / "run"
    # Checkpoints are an hour apart. An earlier one would mean that the wrong clock was used.
    assert train.main([*SMALL, f"run={run}", "total_frames=2000", "log_seconds=0", "checkpoint_seconds=3600"]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = [row["seconds"] for row in rows]
    assert len(rows) > 20 and seconds == sorted(seconds) and 0 < seconds[0] <= seconds[-1] < 600
    assert all(row["frames_per_second"] > 0 for row in rows)
    assert len(list_checkpoints(run / "checkpoints")) == 1
    assert train.main([f"run={run}", "resume=true", "total_frames=2400"]) == 0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["finished"] and seconds[-1] <= result["seconds"] < 600
