"""Runs with normalised observations, and with one large reward."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import TINY, refusal, result, rows

import evaluate
import train
from agents.learning.learner import Learner
from agents.learning.popart import sigma
from agents.learning.prefetch import Staged
from agents.storage.checkpoint import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.usefixtures("process_settings")


@pytest.mark.slow
def test_normalised_observations_are_resumed_bit_for_bit_and_frozen_in_evaluation(tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    keys = [*TINY, "env.normalize_observation=true", "checkpoint_seconds=0", "keep_checkpoints=1000"]
    assert train.main([*keys, f"run={run}", "total_frames=400"]) == 0
    shutil.copytree(run, again)
    (again / "result.json").unlink()
    for path in list_checkpoints(again / "checkpoints")[5:]:
        path.unlink()
    assert train.main([f"run={again}", "resume=true"]) == 0
    newest = [list_checkpoints(folder / "checkpoints")[-1] for folder in (run, again)]
    one, two = (load_checkpoint(path)["learner"]["network"] for path in newest)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    played = sum(task["frames"] for task in result(run)["tasks"].values())
    assert one["normalizer.count"].sum() == played and (one["normalizer.count"] > 50).all()
    before = newest[0].read_bytes()
    assert evaluate.main([f"run={run}", "episodes=3"]) == 0
    assert newest[0].read_bytes() == before


def test_actor_processes_get_the_moments(tmp_path: Path) -> None:
    run = tmp_path / "run"
    local = ["runtime=local", "runtime.num_actors=1", "env.normalize_observation=true", "total_frames=400"]
    assert train.main([*TINY, *local, f"run={run}"]) == 0
    network = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["learner"]["network"]
    assert (network["normalizer.count"] > 50).all() and (network["normalizer.variance"] != 1).any()


def test_normalised_observations_need_a_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, "env.observation=image", "env.normalize_observation=true", f"run={tmp_path / 'run'}"]
    assert "env.normalize_observation=true" in refusal(capsys, *arguments)
    assert not (tmp_path / "run").exists()


def test_a_large_reward_is_reported_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch of the 15th update has one reward of 1e4 in task memory-1."""
    run, learn, sigmas = tmp_path / "run", Learner.update, []

    def update(learner: Learner, staged: Staged) -> Any:
        batch = staged.batch
        if learner.counters.updates == 14:
            t, column = (batch["mask"] & (batch["task"][:-1] == 1)).nonzero()[0].tolist()
            batch["reward"][t, column] = 1e4
        metrics = learn(learner, staged)
        sigmas.append(sigma(learner.objective.popart).tolist())
        return metrics

    monkeypatch.setattr(Learner, "update", update)
    assert train.main([*TINY, "learner.reward_transform=none", f"run={run}", "total_frames=700"]) == 0
    assert sigmas[14][1] == sigmas[13][1]
    assert sigmas[14][0] == pytest.approx(sigmas[13][0], rel=1e-2)
    reported = [line for line in capsys.readouterr().out.splitlines() if "standard deviations" in line]
    assert len(reported) == 1 and "task memory-1" in reported[0]
    last = rows(run)[-1]
    assert (last["tasks/map-0/surges"], last["tasks/memory-1/surges"]) == (0, 1)
