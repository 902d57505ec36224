"""A killed serial run resumes bit for bit if the environment's state can be saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from agents.storage.checkpoint import list_checkpoints, load_checkpoint

TINY = ["env=conditional", "env.tasks=[map-0,memory-1]", "env.delay=5", "fusion=film", "runtime=serial"]
SIZES = ["core.size=8", "fusion.size=8", "torso.hidden=[8]", "runtime.slots_per_actor=3", "learner.unroll_length=4"]
LOGGED = ["display=false", "log_frames=30", "checkpoint_seconds=0", "keep_checkpoints=1000"]


def content(run: Path) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(run / "checkpoints")[-1])


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of the log without times and other figures of the machine."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    timed = ("time/", "memory/", "seconds", "frames_per_second", "limited_by")
    return [{key: value for key, value in json.loads(line).items() if not key.startswith(timed)} for line in lines]


def shown(run: Path) -> list[int]:
    """Updates of this run in TensorBoard."""
    board = EventAccumulator(str(run), size_guidance={"scalars": 0})
    board.Reload()
    return [int(event.value) for event in board.Scalars("speed/updates")]


def killed_after(run: Path, copy: Path, updates: int) -> Path:
    """A copy of the run folder as a kill some time after checkpoint `updates` would leave it."""
    shutil.copytree(run, copy)
    (copy / "result.json").unlink()
    for path in list_checkpoints(copy / "checkpoints")[updates:]:
        path.unlink()
    return copy


@pytest.mark.parametrize(
    "overrides", [[], pytest.param(["runtime.num_actors=2", "env.observation=image"], marks=pytest.mark.slow)]
)
def test_resumed_run_equals_an_uninterrupted_run(tmp_path: Path, overrides: list[str]) -> None:
    run = tmp_path / "run"
    assert train.main([*TINY, *SIZES, *LOGGED, *overrides, f"run={run}", "total_frames=240"]) == 0
    assert len(rows(run)) >= 8
    expected = content(run)
    for updates in (3, 11):
        again = killed_after(run, tmp_path / f"killed-{updates}", updates)
        assert content(again)["learner"]["counters"]["updates"] == updates
        assert train.main([f"run={again}", "resume=true"]) == 0
        found = content(again)
        # Counters, schedules, optimiser, PopArt, random generators, statistics of every task, and the best checkpoint.
        for part in ("learner", "positions", "runtime", "statistics", "rng"):
            torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0, equal_nan=True)
        assert found["kept"] == expected["kept"] != {}
        # Rows that the killed run wrote after its checkpoint occur once.
        assert rows(again) == rows(run)
        assert shown(again) == [row["updates"] for row in rows(run)]
    rates = [row["loss/learning_rate"] for row in rows(run)]
    assert rates[-1] < 5e-4 / 2 and len(set(rates)) == len(rates)


def test_resume_with_another_number_of_actors_starts_next_episodes(tmp_path: Path) -> None:
    """A runtime state for another number of actors is ignored."""
    run = tmp_path / "run"
    assert train.main([*TINY, *SIZES, *LOGGED, f"run={run}", "total_frames=60"]) == 0
    episodes = content(run)["positions"]["episodes"][0]
    assert train.main([f"run={run}", "resume=true", "runtime.num_actors=2", "total_frames=75"]) == 0
    assert all(new > old for new, old in zip(content(run)["positions"]["episodes"][0], episodes, strict=True))
