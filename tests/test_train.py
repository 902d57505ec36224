"""train.py as a user meets it: train, evaluate, resume, kill, interrupt, and being told what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import evaluate
import train
from agents.learning.learner import Learner
from agents.learning.popart import sigma
from agents.run.metrics import Statistics
from agents.runtime.base import Batch
from agents.runtime.local import LocalRuntime
from agents.storage.checkpoint import list_checkpoints, load_checkpoint
from agents.trajectory import Trajectory
from system.files import write_whole

pytestmark = pytest.mark.usefixtures("process_settings")

ROOT = Path(train.__file__).parent
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


def test_train_evaluate_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train.main([*TINY, f"run={run}", "total_frames=300"]) == 0
    first = result(run)
    assert first["finished"]
    assert 300 <= first["frames"] < 332
    assert check_checkpoints(run) == first["updates"]
    size = json.loads((run / "agent.json").read_text(encoding="utf-8"))
    assert size["parameters"] == first["parameters"]
    assert size["multiply_adds"]["apply"] > size["multiply_adds"]["condition"] > 0
    for name in ("config.yaml", "provenance.json", "vocabulary.json", "tensorboard"):
        assert (run / name).exists()

    assert evaluate.main([f"run={run}", "episodes=5", "threads=1"]) == 0
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["provenance"]["updates"] == first["updates"]
    assert evaluation["provenance"]["frames"] == first["frames"]
    assert list(evaluation["tasks"]) == ["map-0", "memory-1"]

    # A finished run goes on when it is given more frames, without a word about the rest of its configuration.
    assert train.main([f"run={run}", "resume=true", "total_frames=600"]) == 0
    second = result(run)
    assert second["updates"] > first["updates"]
    assert 600 <= second["frames"] < 632
    assert second["seconds"] > first["seconds"]
    assert check_checkpoints(run) == second["updates"]
    check_metrics(run)
    assert rows(run)[first["updates"]]["updates"] == first["updates"] + 1
    for task, row in second["tasks"].items():
        assert row["episodes"] >= first["tasks"][task]["episodes"]
        # All 8 slots are in every batch.
        assert row["updates"] == second["updates"] == rows(run)[-1][f"tasks/{task}/updates"]

    # What belongs to the experiment itself cannot be changed on the way, and a run is never overwritten.
    capsys.readouterr()
    message = refusal(capsys, f"run={run}", "resume=true", "learner.learning_rate=0.5")
    assert "learner.learning_rate=0.5" in message
    assert "the run has 0.0" in message
    assert "resume=true cannot change" in refusal(capsys, f"run={run}", "resume=true", "env=babyai")
    assert "already holds a run" in refusal(capsys, *TINY, f"run={run}")
    assert result(run) == second


def test_resume_refuses_a_change_to_a_default_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train.main([*TINY, f"run={run}", "total_frames=32", "seed=1", "fusion=concat"]) == 0
    capsys.readouterr()
    assert "seed=0 (the run has 1)" in refusal(capsys, f"run={run}", "resume=true", "seed=0")
    assert "fusion.name=film (the run has concat)" in refusal(capsys, f"run={run}", "resume=true", "fusion=film")
    # Saying the same again is no change.
    again = [f"run={run}", "resume=true", "seed=1", "fusion=concat", "total_frames=64"]
    assert train.main([*TINY, *again]) == 0


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # A checkpoint after every update: the kill most likely comes while one is being written.
    command = [*TINY, f"run={run}", "total_frames=100000000", "checkpoint_seconds=0"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *command], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        while len(list_checkpoints(run / "checkpoints")) < 3:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (run / "result.json").exists()
    saved = check_checkpoints(run)
    frames = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["learner"]["counters"]["steps"]
    # A line that was being written, and one past the checkpoint.
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"updates": saved + 7, "frames": frames, "steps": frames, "seconds": 1.0}) + '\n{"upda')

    (run / "checkpoints" / ".checkpoint-000000000001.pt.tmp").write_bytes(b"half a checkpo")

    # total_frames is what counts the learning rate down, so the command may change it; nothing else is new.
    assert train.main([*command, "resume=true", f"total_frames={frames + 200}"]) == 0
    assert 200 <= result(run)["frames"] - frames < 232
    assert check_checkpoints(run) == result(run)["updates"] > saved
    assert not list((run / "checkpoints").glob(".*"))
    check_metrics(run)
    updates = [row["updates"] for row in rows(run)]
    assert updates == list(range(1, result(run)["updates"] + 1))


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    write_whole(path, "old\n")

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new\n")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "old\n"
    write_whole(path, "new\n")
    assert path.read_text(encoding="utf-8") == "new\n"
    assert os.listdir(tmp_path) == ["config.yaml"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_saves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    update = Statistics.update
    batches = []

    def interrupted_update(self: Statistics, batch: Trajectory) -> None:
        batches.append(None)
        if len(batches) == 5:
            signal.raise_signal(number)
        update(self, batch)

    monkeypatch.setattr(Statistics, "update", interrupted_update)
    assert train.main([*TINY, f"run={run}", "total_frames=100000000"]) == 130
    assert check_checkpoints(run) == 5  # what was going on is finished and saved
    assert not result(run)["finished"] and result(run)["ended_by"] == "signal"
    monkeypatch.undo()
    assert train.main([*TINY, f"run={run}", "total_frames=400", "resume=true"]) == 0
    assert result(run)["finished"]
    check_metrics(run)


REPLAY = ["learner.passes=2", "learner.batch_size=8", "learner.replay_fraction=0.5", "learner.replay_size=40"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint's."""
    content: dict[str, torch.Tensor] = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["learner"]["network"]
    return content


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    return all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_replay_is_reproducible_and_counts_nothing_twice(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b", "other")]
    for run, seed in zip(runs, (1, 1, 2), strict=True):
        assert train.main([*TINY, *REPLAY, f"run={run}", "total_frames=200", f"seed={seed}"]) == 0
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])
    final = result(runs[0])
    assert final["frames"] == sum(task["frames"] for task in final["tasks"].values())
    # 8 slots, 4 fresh columns to an update, 2 passes: 4 updates for each unroll of at most 32 frames.
    assert final["updates"] >= 4 * 200 / 32
    for number, row in enumerate(rows(runs[0])):
        # Of the 4 updates, each has the weights of the ones before it; what is held was played by weights 4, 8, 12, ... updates older.
        assert (row["policy_lag_min"], row["policy_lag_mean"], row["policy_lag_max"]) == (0, 1.5, 3)
        assert ("replay_lag_max" in row) == (number > 0)
        if number > 0:
            held = min(5, number)
            assert 4 <= row["replay_lag_min"] <= row["replay_lag_mean"] <= row["replay_lag_max"] <= 4 * held + 3
        assert row["replay_columns"] == min(40, 8 * (number + 1))
        # All that is held was played 4, 8, 12, ... updates ago.
        assert row["replay_age_max"] == 4 * row["replay_columns"] / 8
        assert row["replay_age_mean"] == pytest.approx(2 * (row["replay_columns"] / 8 + 1))


@pytest.mark.parametrize(
    ("columns", "passes", "made"), [(8, 1, 1), (2, 1, 4), (8, 4, 4), (4, 2, 4), (4, 3, 6), (16, 2, 2)]
)
def test_policy_lag_is_counted_for_every_update(tmp_path: Path, columns: int, passes: int, made: int) -> None:
    """In one process the newest weights act: update k of the `made` of one batch changes weights that are k updates newer."""
    command = [*TINY, f"learner.batch_size={columns}", f"learner.passes={passes}", f"run={tmp_path}"]
    assert train.main([*command, "total_frames=150"]) == 0
    for number, row in enumerate(rows(tmp_path), start=1):
        assert row["updates"] == made * number
        assert (row["policy_lag_min"], row["policy_lag_max"]) == (0, made - 1)
        assert row["policy_lag_mean"] == (made - 1) / 2
        assert "replay_lag_max" not in row


def test_policy_lag_of_actors_that_run_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held to what actors said they played with, and to a count of the updates."""
    versions: list[list[int]] = []
    updates: list[list[int]] = []
    collect, step = LocalRuntime.collect, Learner.step

    def collected(self: LocalRuntime, *arguments: Any) -> Batch:
        batch = collect(self, *arguments)
        versions.append(batch.weights_versions)
        updates.append([])
        return batch

    def stepped(self: Learner, *arguments: Any, **options: Any) -> Any:
        updates[-1].append(sum(map(len, updates)))
        return step(self, *arguments, **options)

    monkeypatch.setattr(LocalRuntime, "collect", collected)
    monkeypatch.setattr(Learner, "step", stepped)
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


def test_a_resumed_replay_begins_empty_and_goes_on_the_same_way_each_time(tmp_path: Path) -> None:
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


def test_a_run_ends_when_it_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = [*TINY, f"run={run}", "total_frames=20000", "stop_at_success=0.2"]
    assert train.main(command) == 0
    first = result(run)
    assert first["finished"] and first["ended_by"] == "stop_at_success"
    assert first["frames"] < 20000
    assert first["mean"]["success"] >= 0.2
    assert min(task["episodes"] for task in first["tasks"].values()) >= 100
    # It could not have ended a batch earlier.
    earlier = [row for row in rows(run) if min(row[f"tasks/{task}/episodes"] for task in first["tasks"]) >= 100]
    assert all(row["mean/success"] < 0.2 for row in earlier[:-1])
    assert check_checkpoints(run) == first["updates"]
    # There is nothing to go on with, unless the aim changes.
    assert train.main([f"run={run}", "resume=true"]) == 0
    assert result(run)["updates"] == first["updates"]
    frames = first["frames"] + 100
    assert train.main([f"run={run}", "resume=true", "stop_at_success=0", f"total_frames={frames}"]) == 0
    assert result(run)["ended_by"] == "total_frames"
    assert result(run)["frames"] >= frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["env=nowhere"],
            "env=nowhere is unknown: choose one of atari, babyai, conditional, dmlab2d, dmlab30, gymnasium, vizdoom",
        ),
        (["fusion=nothing"], "fusion=nothing is unknown: choose one of attention, concat, concat_mlp"),
        (["runtime=nothing"], "runtime=nothing is unknown"),
        (["runtime.inference=nothing"], "runtime.inference=nothing is unknown: choose one of auto, actor, server"),
        (["runtime.inference=server"], "runtime.inference=server needs processes of its own"),
        (["fusion.sites=[nowhere]"], "fusion.sites=nowhere is unknown"),
        (["env.tasks=[map-99]"], "env.tasks=map-99 is no task"),
        (["env.tasks=[map-0,map]"], "more than once"),
        (["context=instruction"], "context=instruction needs instructions"),
        (["torso=deep"], "torso=deep does not fit"),
        (["laerner.unroll_length=4"], "laerner.unroll_length is not a key"),
        (["learner.unrol_length=4"], "did you mean learner.unroll_length"),
        (["learner.unroll_length=0"], "learner.unroll_length=0"),
        (["learner.unroll_length=four"], "learner.unroll_length"),
        (["learner.discounting=1.5"], "learner.discounting=1.5"),
        (["learner.learning_rate=nan"], "learner.learning_rate=nan"),
        (["learner.epsilon=0"], "learner.epsilon=0.0 is out of range: give a finite number of at least 1e-20"),
        (["learner.batch_size=12"], "learner.batch_size=12 does not fit"),
        (
            ["learner.replay_fraction=0.5", "learner.replay_size=1000000000000"],
            "lower learner.replay_size=1000000000000",
        ),
        (["total_frames=-1"], "total_frames=-1"),
        (["precision=fp8"], "precision=fp8 is unknown"),
        (["seed=${oc.env:HOME}"], "interpolation"),
        (["+new=1"], "adds or removes a key"),
        (["total_frames"], "write key=value"),
        (["runtime.slots_per_actor=1"], "without a slot"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run = tmp_path / "run"
    assert message in refusal(capsys, *TINY, f"run={run}", *arguments)
    assert not run.exists()


def test_bad_input_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "fusion=nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: fusion=nothing is unknown")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(capsys, *TINY, f"run={tmp_path / 'file' / 'run'}")


@pytest.mark.parametrize(
    "text", ["", "- a list", "env: {name: babyai", "env: {name: nowhere}", "env: {name: conditional}\nx: 1"]
)
def test_a_damaged_config_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert "config.yaml" in refusal(capsys, f"run={tmp_path}", "resume=true")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help"]) == 0
    assert "  learner.unroll_length=" in capsys.readouterr().out


# Observations of any size, and one reward of any size


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


def test_actors_of_their_own_get_the_moments(tmp_path: Path) -> None:
    run = tmp_path / "run"
    local = ["runtime=local", "runtime.num_actors=1", "env.normalize_observation=true", "total_frames=400"]
    assert train.main([*TINY, *local, f"run={run}"]) == 0
    network = load_checkpoint(list_checkpoints(run / "checkpoints")[-1])["learner"]["network"]
    assert (network["normalizer.count"] > 50).all() and (network["normalizer.variance"] != 1).any()


def test_normalised_observations_need_a_vector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY, "env.observation=image", "env.normalize_observation=true", f"run={tmp_path / 'run'}"]
    assert "env.normalize_observation=true" in refusal(capsys, *arguments)
    assert not (tmp_path / "run").exists()


def test_a_large_reward_is_told_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The 15th update finds one reward of 1e4 in task memory-1."""
    run, learn, sigmas = tmp_path / "run", Learner.step, []

    def step(learner: Learner, batch: Trajectory, *, fresh: int | None = None) -> Any:
        if learner.counters.updates == 14:
            t, column = (batch["mask"] & (batch["task"][:-1] == 1)).nonzero()[0].tolist()
            batch["reward"][t, column] = 1e4
        metrics = learn(learner, batch, fresh=fresh)
        sigmas.append(sigma(learner.popart).tolist())
        return metrics

    monkeypatch.setattr(Learner, "step", step)
    assert train.main([*TINY, "learner.reward_transform=none", f"run={run}", "total_frames=700"]) == 0
    assert sigmas[14][1] == sigmas[13][1]
    assert sigmas[14][0] == pytest.approx(sigmas[13][0], rel=1e-2)
    told = [line for line in capsys.readouterr().out.splitlines() if "standard deviations" in line]
    assert len(told) == 1 and "task memory-1" in told[0]
    last = rows(run)[-1]
    assert (last["tasks/map-0/surges"], last["tasks/memory-1/surges"]) == (0, 1)
