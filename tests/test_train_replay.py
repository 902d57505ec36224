"""Replay and policy lag in runs of train.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import TINY, result, rows, same

import train
from agents.learning.learner import Learner
from agents.runtime.base import Batch
from agents.runtime.local import LocalRuntime

pytestmark = pytest.mark.usefixtures("process_settings")

REPLAY = ["learner.passes=2", "learner.batch_size=8", "learner.replay_fraction=0.5", "learner.replay_size=40"]


@pytest.mark.slow
def test_replay_is_reproducible_and_counts_each_step_once(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b", "other")]
    for run, seed in zip(runs, (1, 1, 2), strict=True):
        assert train.main([*TINY, *REPLAY, f"run={run}", "total_frames=200", f"seed={seed}"]) == 0
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])
    final = result(runs[0])
    assert final["frames"] == sum(task["frames"] for task in final["tasks"].values())
    # 8 slots, 4 fresh columns per update, 2 passes: 4 updates for each unroll of at most 32 frames.
    assert final["updates"] >= 4 * 200 / 32
    for number, row in enumerate(rows(runs[0])):
        # The 4 updates of a batch have lags 0 to 3. Replayed columns are 4, 8, 12, ... updates older.
        assert (row["policy_lag_min"], row["policy_lag_mean"], row["policy_lag_max"]) == (0, 1.5, 3)
        assert ("replay_lag_max" in row) == (number > 0)
        if number > 0:
            held = min(5, number)
            assert 4 <= row["replay_lag_min"] <= row["replay_lag_mean"] <= row["replay_lag_max"] <= 4 * held + 3
        assert row["replay_columns"] == min(40, 8 * (number + 1))
        # Weights from 4, 8, 12, ... updates ago played the held columns.
        assert row["replay_age_max"] == 4 * row["replay_columns"] / 8
        assert row["replay_age_mean"] == pytest.approx(2 * (row["replay_columns"] / 8 + 1))


@pytest.mark.parametrize(
    ("columns", "passes", "made"), [(8, 1, 1), (2, 1, 4), (8, 4, 4), (4, 2, 4), (4, 3, 6), (16, 2, 2)]
)
def test_policy_lag_is_counted_for_every_update(tmp_path: Path, columns: int, passes: int, made: int) -> None:
    """The serial runtime acts with the newest weights, so update k of a batch's `made` updates has lag k."""
    command = [*TINY, f"learner.batch_size={columns}", f"learner.passes={passes}", f"run={tmp_path}"]
    assert train.main([*command, "total_frames=150"]) == 0
    for number, row in enumerate(rows(tmp_path), start=1):
        assert row["updates"] == made * number
        assert (row["policy_lag_min"], row["policy_lag_max"]) == (0, made - 1)
        assert row["policy_lag_mean"] == (made - 1) / 2
        assert "replay_lag_max" not in row


@pytest.mark.slow
def test_policy_lag_of_actors_that_run_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logged lags match the weights' versions in the batches and a count of the updates."""
    versions: list[list[int]] = []
    updates: list[list[int]] = []
    collect, update = LocalRuntime.collect, Learner.update

    def collected(self: LocalRuntime, *arguments: Any) -> Batch:
        batch = collect(self, *arguments)
        versions.append(batch.weights_versions)
        updates.append([])
        return batch

    def updated(self: Learner, *arguments: Any, **options: Any) -> Any:
        updates[-1].append(sum(map(len, updates)))
        return update(self, *arguments, **options)

    monkeypatch.setattr(LocalRuntime, "collect", collected)
    monkeypatch.setattr(Learner, "update", updated)
    ahead = ["runtime=local", "runtime.num_actors=1", "runtime.buffers_per_actor=4", "learner.batch_size=4"]
    command = [*TINY, *ahead, "learner.passes=2", "precision=fp32", f"run={tmp_path}"]
    assert train.main([*command, "total_frames=1500"]) == 0
    found = rows(tmp_path)
    assert len(found) == len(updates)
    for row, played, made in zip(found, versions, updates, strict=True):
        assert len(made) == 4 and row["updates"] == made[-1] + 1
        lags = [before - version for before in made for version in played]
        assert (row["policy_lag_min"], row["policy_lag_max"]) == (min(lags), max(lags))
        assert row["policy_lag_mean"] == sum(lags) / len(lags)
    assert max(row["policy_lag_max"] for row in found) > 3


def test_a_resumed_replay_starts_empty_and_is_reproducible(tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    assert train.main([*TINY, *REPLAY, f"run={run}", "total_frames=100"]) == 0
    shutil.copytree(run, copy)
    before = result(run)["updates"]
    for folder in (run, copy):
        assert train.main([f"run={folder}", "resume=true", "total_frames=300"]) == 0
    assert same(run, copy)
    resumed = [row for row in rows(run) if row["updates"] > before]
    assert [row["replay_columns"] for row in resumed[:6]] == [8, 16, 24, 32, 40, 40]
    assert resumed[0]["policy_lag_max"] == 3 and resumed[0]["replay_age_max"] == 4
