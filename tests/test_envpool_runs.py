"""Training and evaluation on envpool's families; Procgen and Craftax on the fake of envpool 1.2.7 where no such version is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "envs"))
from newer_envpool import FAKE_ENVPOOL, has_newer_envpool  # noqa: E402

SMALL = ["torso.size=16", "core.size=16", "fusion.size=16", "learner.unroll_length=8", "learner.batch_size=4"]
ONE_ACTOR = ["runtime.num_actors=1", "runtime.slots_per_actor=4", "display=false"]


BOTH = """
import json, sys
import evaluate, train
first, second = map(json.loads, sys.argv[1:])
if __name__ == "__main__":
    assert train.main(first) == 0 and evaluate.main(second) == 0
"""
"""Both programs in one process: the start takes longer than they do."""


def programs(*arguments: list[str], fake: bool) -> None:
    """Runs train.py and evaluate.py to their ends."""
    folders = [str(FAKE_ENVPOOL)] if fake and not has_newer_envpool() else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, str(ROOT)])}
    command = [sys.executable, "-c", BOTH, *map(json.dumps, arguments)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def trained_and_evaluated(folder: Path, *keys: str, frames: int, fake: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """result.json and evaluation.json; all numbers of metrics.jsonl are finite."""
    train = [*keys, *SMALL, *ONE_ACTOR, f"run={folder}", f"total_frames={frames}", "log_seconds=0"]
    programs(train, [f"run={folder}", "episodes=2", "slots=2", "threads=1"], fake=fake)
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        losses = [value for key, value in json.loads(line).items() if key.startswith("loss/")]
        assert np.isfinite(losses).all()
    found = [json.loads((folder / name).read_text(encoding="utf-8")) for name in ("result.json", "evaluation.json")]
    return found[0], found[1]


@pytest.mark.slow
def test_metaworld_trains_with_continuous_actions_and_reports_success(tmp_path: Path) -> None:
    pytest.importorskip("envpool")
    tasks = ["env=metaworld", "env.tasks=[reach-v3,drawer-close-v3]", "env.max_episode_steps=20", "torso.hidden=[16]"]
    result, evaluation = trained_and_evaluated(tmp_path, *tasks, frames=600, fake=False)
    assert set(result["tasks"]) == {"reach-v3", "drawer-close-v3"} and result["score"] == {}
    for row in result["tasks"].values():
        assert row["episodes"] > 4 and row["length"] == 20 and 0 <= row["success"] <= 1
    assert 0 <= evaluation["aggregate"]["success"] <= 1
    # envpool seeds the first episode of a slot only, so each of these has a slot of its own.
    assert all(None not in row["seeds"] for row in evaluation["tasks"].values())


@pytest.mark.slow
def test_procgen_trains_and_reports_normalised_scores(tmp_path: Path) -> None:
    keys = ["env=procgen", "runtime=serial", "env.tasks=[dodgeball,starpilot]", "torso=shallow"]
    result, evaluation = trained_and_evaluated(tmp_path, *keys, frames=3000, fake=True)
    for task, row in result["tasks"].items():
        low, high = {"dodgeball": (1.5, 19), "starpilot": (2.5, 64)}[task]
        assert row["score"] == pytest.approx(100 * (row["return"] - low) / (high - low))
    assert set(evaluation["scores"]["tasks"]) == {"dodgeball", "starpilot"}
    assert evaluation["aggregate"]["success"] is None


@pytest.mark.slow
@pytest.mark.parametrize("observation", ["symbolic", "pixels"])
def test_craftax_trains_and_reports_the_percentage_of_the_maximum(tmp_path: Path, observation: str) -> None:
    kind = ["torso.hidden=[16]", "runtime=serial"] if observation == "symbolic" else ["torso=shallow"]
    keys = ["env=craftax", f"env.observation={observation}", *kind]
    result, evaluation = trained_and_evaluated(tmp_path, *keys, frames=2400, fake=True)
    row = result["tasks"]["classic"]
    assert row["score"] == pytest.approx(100 * row["return"] / 22)
    assert evaluation["scores"]["tasks"]["classic"]["score"] == pytest.approx(
        100 * evaluation["tasks"]["classic"]["mean"] / 22
    )
