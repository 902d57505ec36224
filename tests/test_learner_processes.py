"""Runs with several learners: they make the same updates as one learner, and end cleanly when any of them fails."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import train
from agents.cli.signals import InterruptedWait
from agents.distributed.follower import follow
from agents.distributed.leader import DataParallelGroup, GroupRuntime
from agents.distributed.process_group import LEADER, LearnerError, add_shard, shard
from agents.distributed.torchrun import Launched, add_num_processes
from agents.runtime.base import Batch, StreamPositions
from agents.runtime.restarts import Faults
from agents.storage.checkpoint import list_checkpoints, load_checkpoint
from conf.loading import compose_train
from system.errors import ErrorReport, InputError

pytestmark = pytest.mark.usefixtures("process_settings")

ROOT = Path(train.__file__).parent
TINY = [
    *("env=conditional", "env.tasks=[map-0,memory-1,map-1]", "fusion=film", "core.size=8", "fusion.size=8"),
    *("torso.hidden=[8]", "runtime.slots_per_actor=3", "runtime.num_actors=2", "learner.unroll_length=4"),
    *("learner.batch_size=6", "learner.popart_step_size=0.1", "display=false", "precision=fp32"),
]
LONG = "total_frames=100000000"
TWO = "learner.num_processes=2"


def content(run: Path, updates: int | None = None) -> dict[str, Any]:
    """The content of the newest checkpoint, or of the one after `updates` updates if every update saves one."""
    found = list_checkpoints(run / "checkpoints")
    return load_checkpoint(found[-1] if updates is None else found[updates - 1])


def at_update(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[GroupRuntime], object]) -> None:
    """Makes the leader call `action` when it publishes for the `number`th time."""
    publish, calls = GroupRuntime.publish, []

    def published(self: GroupRuntime, version: int) -> None:
        publish(self, version)
        calls.append(version)
        if len(calls) == number:
            action(self)

    monkeypatch.setattr(GroupRuntime, "publish", published)


def listening_addresses(learner: int) -> list[str]:
    """Addresses on which this process, the process `learner` and its descendants listen."""
    other = psutil.Process(learner)
    processes = [psutil.Process(), other, *other.children(recursive=True)]
    found = [connection for process in processes for connection in process.net_connections("inet")]
    return [connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN]


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_is_left_behind")
def test_two_learners_make_the_run_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes and sums over gloo. Ctrl-C interrupts the run, and one learner resumes it."""
    options = [*TINY, "runtime=serial", "checkpoint_seconds=0", "keep_checkpoints=1000", "log_seconds=0"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert train.main([*options, f"run={one}", "total_frames=600"]) == 0
    addresses: list[str] = []

    def look_and_interrupt(runtime: GroupRuntime) -> None:
        assert runtime.processes().keys() == {"learner-1"}
        addresses.extend(listening_addresses(runtime.processes()["learner-1"]))
        signal.raise_signal(signal.SIGINT)

    at_update(monkeypatch, 22, look_and_interrupt)
    assert train.main([*options, f"run={two}", "total_frames=600", TWO]) == 130
    assert len(addresses) >= 2 and set(addresses) == {"127.0.0.1"}
    expected, found = content(one, 22), content(two)
    assert found["learner"]["counters"] == expected["learner"]["counters"]
    for part in ("network", "popart"):
        torch.testing.assert_close(found["learner"][part], expected["learner"][part], rtol=1e-5, atol=1e-5)
    kept, of_one = (each["learner"]["optimizer"]["state"] for each in (found, expected))
    torch.testing.assert_close(kept, of_one, rtol=1e-5, atol=1e-5)
    assert found["positions"] == expected["positions"] and found["positions"]["unrolls"].keys() == {0, 1}
    for task, statistics in expected["statistics"].items():
        for key in ("steps", "episodes", "interrupted", "updates"):
            assert found["statistics"][task][key] == statistics[key], (task, key)
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()[:22]]
        for run in (one, two)
    ]
    for row, of_one_learner in zip(rows[1], rows[0], strict=True):
        for key in ("frames", "policy_lag_max", "loss/total", "loss/gradient_norm", "tasks/map-1/frames"):
            assert row[key] == pytest.approx(of_one_learner[key], rel=1e-3, abs=1e-5), key
        assert 0 <= row["time/reduce"] <= 1
    assert train.main([f"run={two}", "resume=true", "learner.num_processes=1", "total_frames=620"]) == 0
    assert content(two)["learner"]["counters"]["steps"] >= 620


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_is_left_behind")
def test_policy_lag_of_several_learners_is_counted_for_every_update(tmp_path: Path) -> None:
    """Each learner splits its unroll of 6 columns into 2 minibatches of 3 and makes 3 passes: 6 updates per batch."""
    several = ["runtime=serial", "log_seconds=0", "runtime.slots_per_actor=6", "learner.passes=3", TWO]
    assert train.main([*TINY, *several, f"run={tmp_path}", "total_frames=200"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    for number, row in enumerate(rows, start=1):
        assert row["updates"] == 6 * number
        assert (row["policy_lag_min"], row["policy_lag_mean"], row["policy_lag_max"]) == (0, 2.5, 5)


def test_the_end_message_reaches_the_other_learners_when_one_is_gone() -> None:
    notified: list[int] = []

    class PartOfGroup:
        def send(self, message: object, rank: int) -> None:
            notified.append(rank)
            if rank == 1:
                raise LearnerError("another learner is gone")

    DataParallelGroup(4)._send_end(PartOfGroup())  # type: ignore[arg-type]
    assert notified == [1, 2, 3]


def test_an_interrupted_wait_for_followers_loses_no_batch() -> None:
    reports: list[list[dict[str, Any]]] = []

    class NoFollowers(DataParallelGroup):
        def join(self, check: Callable[[], object]) -> None:
            check()

        def receive(self, check: Callable[[], object]) -> list[dict[str, Any]]:
            if not reports:
                raise InterruptedWait
            return reports.pop()

    class Counting:
        collected = 0
        positions = StreamPositions()

        def collect(self, check: Callable[[], object]) -> Batch:
            check()
            self.collected += 1
            self.positions.unrolls[0] = self.collected
            return Batch(
                trajectory={"number": torch.tensor(self.collected)},
                weights_versions=[],
                wait_seconds=0.0,
                actor_seconds=0.0,
                env_seconds=0.0,
                inference_seconds=0.0,
                actor_wait_seconds=0.0,
            )

    own, positions = Counting(), StreamPositions()
    runtime = GroupRuntime(NoFollowers(1), own, positions, Faults())  # type: ignore[arg-type]
    with pytest.raises(InterruptedWait):
        runtime.collect()
    assert positions.unrolls == {}
    for number in (1, 2):
        reports.append([])
        assert int(runtime.collect().trajectory["number"]) == number == positions.unrolls[0]


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_is_left_behind")
def test_three_learners_end_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    others: list[subprocess.Popen[bytes]] = []
    at_update(monkeypatch, 2, lambda runtime: others.extend(runtime._followers._processes.values()))
    options = ["learner.batch_size=9", "runtime.num_actors=3", "learner.num_processes=3", "total_frames=200"]
    assert train.main([*TINY, "runtime=serial", f"run={tmp_path}", *options]) == 0
    assert [process.returncode for process in others] == [0, 0]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_is_left_behind")
def test_a_killed_learner_ends_the_run_which_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    others: list[psutil.Process] = []

    def kill(runtime: GroupRuntime) -> None:
        assert runtime.processes().keys() == {"actor-0", "learner-1"}
        learner = psutil.Process(runtime.processes()["learner-1"])
        others.extend([learner, *learner.children(recursive=True)])
        learner.kill()

    at_update(monkeypatch, 3, kill)
    assert train.main([*TINY, "runtime=local", f"run={tmp_path}", LONG, TWO]) == 1
    message = capfd.readouterr().err
    assert "error: learner 1 was killed: SIGKILL\nThe run was saved up to here: resume=true continues it." in message
    assert "Traceback" not in message
    assert content(tmp_path)["learner"]["counters"]["updates"] >= 3
    # The learner and its own actor.
    assert len(others) >= 2 and not psutil.wait_procs(others, timeout=30)[1]


@pytest.mark.slow
def test_a_group_that_outlives_the_run_writes_to_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored traceback keeps the group alive. FileStore writes to its descriptor when the group is deleted."""
    kept: list[object] = []
    at_update(monkeypatch, 2, lambda runtime: kept.append(runtime._followers._group))
    assert train.main([*TINY, "runtime=serial", f"run={tmp_path / 'run'}", "total_frames=60", TWO]) == 0
    assert kept
    with contextlib.ExitStack() as stack:
        # The new files get the lowest free descriptors: the ones that the run has closed.
        others = [stack.enter_context((tmp_path / f"{number}.yaml").open("w+")) for number in range(50)]
        kept.clear()
        gc.collect()
        assert not [other.name for other in others if os.fstat(other.fileno()).st_size]


@pytest.mark.slow
def test_torchrun_starts_learners(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "train.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*TINY, "runtime=local", f"run={tmp_path}", "total_frames=300", "display=true"]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training in") == done.stdout.count("finished:") == 1
    assert content(tmp_path)["config"]["learner"]["num_processes"] == 2
    assert content(tmp_path)["positions"]["unrolls"].keys() == {0, 1}
    result = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert result["frames"] >= 300 and sum(task["frames"] for task in result["tasks"].values()) == result["frames"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["learner.batch_size=8", "runtime.slots_per_actor=4"],
            r"learner.batch_size=8 \(8 fresh columns\) cannot be shared",
        ),
        (["runtime.num_actors=4"], r"runtime.num_actors=4 cannot be .* learner.num_processes=3: give a multiple of 3"),
        (
            ["learner.batch_size=8", "runtime.slots_per_actor=6", "learner.replay_fraction=0.25"],
            r"learner.replay_fraction=0.25 \(2 of 8 columns\)",
        ),
        (
            ["learner.batch_size=6"],
            r"leaves each learner 2 fresh columns of learner.batch_size=6, .*slots_per_actor=3:",
        ),
        (["learner.num_processes=0"], r"learner.num_processes=0 is out of range"),
    ],
)
def test_sizes_that_the_learners_cannot_divide_are_refused(overrides: list[str], message: str) -> None:
    arguments = [*TINY, "learner.batch_size=9", "runtime.num_actors=3", "learner.num_processes=3"]
    assert compose_train(arguments).learner.num_processes == 3
    with pytest.raises(InputError, match=message):
        compose_train([*arguments, *overrides])


def test_torchrun_sets_the_number_of_learners() -> None:
    launched = Launched(0, 4)
    assert add_num_processes(["fusion=mi"], None) == ["fusion=mi"]
    assert add_num_processes(["fusion=mi"], launched) == ["fusion=mi", "learner.num_processes=4"]
    assert add_num_processes(["learner.num_processes=4"], launched)
    with pytest.raises(InputError, match=r"learner.num_processes=2 contradicts torchrun, which has started 4"):
        add_num_processes(["learner.num_processes=2"], launched)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_add_shard_is_the_inverse_of_shard(size: int) -> None:
    positions = StreamPositions({0: 5, 1: 6, 3: 8}, {0: [1, 2], 1: [3, 4], 3: [5, 6]}, {0: 7})
    shards = [shard(positions, rank, size) for rank in range(size)]
    assert all(part.steps == positions.steps for part in shards)
    joined = StreamPositions(steps=dict(positions.steps))
    for rank, part in enumerate(shards):
        add_shard(joined, part, rank, size)
    assert joined == positions
    if size == 2:
        assert shards[1].unrolls == {0: 6, 1: 8}


class FakeGroup:
    """A follower's group in which the leader sends an invalid first message."""

    rank, size = 1, 2

    def __init__(self) -> None:
        self.failed: list[ErrorReport] = []
        self.left = False

    def wait_for_all(self) -> bool:
        return True

    def join(self) -> None:
        pass

    def receive(self, rank: int) -> dict[str, Any]:
        assert rank == LEADER
        return self.message

    def fail(self, error: Exception) -> None:
        assert not self.left
        self.failed.append(ErrorReport.of(error))

    def leave(self) -> None:
        self.left = True

    message: dict[str, Any]


@pytest.mark.parametrize(
    ("message", "reason", "is_input_error"),
    [({"config": {}}, "it has no `env`", True), ({}, "KeyError: 'config'", False)],
)
def test_a_follower_that_fails_stores_its_reason(message: dict[str, Any], reason: str, is_input_error: bool) -> None:
    group = FakeGroup()
    group.message = message
    assert follow(group) == 1  # type: ignore[arg-type]
    ((error, found),) = group.failed
    assert reason in error and found == is_input_error and group.left
