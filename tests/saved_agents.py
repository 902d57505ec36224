"""Checkpoints of small untrained agents, and damaged copies of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import evaluate
from agents.run.metrics import Statistics
from agents.run.run_state import checkpoint_content
from agents.runtime.base import StreamPositions
from agents.setup import builder
from agents.storage.checkpoint import save_checkpoint
from agents.storage.checksum import seal
from conf.loading import compose_train
from envs.suites import make_spec

SMALL = ["core.size=16", "fusion.size=16", "torso.hidden=[16]", "runtime=serial"]
CONDITIONAL = ["env=conditional", "env.tasks=[map-0,map-1,memory-0]", "context=task"]

Damage = Callable[[dict[str, Any]], object]


def make_checkpoint(folder: Path, *overrides: str) -> Path:
    """Saves a checkpoint of an untrained agent and returns its path."""
    config = compose_train([*SMALL, *overrides])
    env = make_spec(config.env)
    torch.manual_seed(config.seed)
    learner = builder.build_learner(config, env, builder.build_network(config, env))
    content = checkpoint_content(config, env, learner, Statistics(env.tasks), StreamPositions(), 0.0)
    return save_checkpoint(folder, 0, content)


def evaluated(checkpoint: Path, output: Path, *arguments: str) -> dict[str, Any]:
    """Runs evaluate.py and returns the content of its result file."""
    assert evaluate.main([f"run={checkpoint}", f"output={output}", *arguments]) == 0
    content: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return content


def damaged(checkpoint: Path, path: Path, damage: Damage) -> Path:
    """Writes a copy of `checkpoint`, with a valid checksum, whose content `damage` has changed. Returns `path`."""
    content = torch.load(checkpoint, weights_only=True)
    damage(content)
    return write_sealed(content, path)


def write_sealed(content: object, path: Path) -> Path:
    """Writes `content` with a valid checksum, as if it were a checkpoint. Returns `path`."""
    archive = io.BytesIO()
    torch.save(content, archive)
    seal(archive)
    path.write_bytes(archive.getvalue())
    return path
