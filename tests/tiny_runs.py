"""Runs of a tiny agent on the suite `conditional` with train.py, and what their folders must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from agents.storage.checkpoint import list_checkpoints, load_checkpoint

# 8 slots x 4 steps: a batch of at most 32 frames.
TINY = [
    *("env=conditional", "env.tasks=[map-0,memory-1]", "context=task"),
    *("runtime=serial", "runtime.slots_per_actor=8", "learner.unroll_length=4"),
    *("core.size=16", "fusion.size=16", "torso.hidden=[16]", "log_seconds=0", "display=false"),
]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which train.py refuses."""
    assert train.main(arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def result(run: Path) -> dict[str, Any]:
    """result.json."""
    content: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return content


def check_checkpoints(run: Path) -> int:
    """Every checkpoint loads and counts as its name says. Returns the newest one's updates."""
    found = list_checkpoints(run / "checkpoints")
    assert found
    assert set(found) == set((run / "checkpoints").glob("*.pt"))
    for path in found:
        updates = load_checkpoint(path)["learner"]["counters"]["updates"]
        assert path.name == f"checkpoint-{updates:012d}.pt"
    return int(updates)


def check_metrics(run: Path) -> None:
    """No update is reported twice, and no counter ever goes back."""
    updates = [row["updates"] for row in rows(run)]
    assert updates == sorted(set(updates))
    for key in ("frames", "steps", "seconds"):
        values = [row[key] for row in rows(run)]
        assert values == sorted(values)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint's."""
    content: dict[str, torch.Tensor] = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["learner"]["network"]
    return content


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    return all(torch.equal(value, theirs[key]) for key, value in ours.items())
