"""Bottlenecks of a run: the rules, their suggestions, and the clock that measures the time shares."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agents.run.timing
from agents.learning.learner import Counters
from agents.run.bottleneck import Facts, TimeShares, Totals, find_bottleneck
from agents.run.timing import Clock
from agents.runtime.base import Batch
from conf.composition import flatten
from conf.loading import compose_train, to_dict

FACTS = Facts(
    runtime="local",
    num_cores=4,
    num_actors=3,
    actor_threads=1,
    learner_threads=1,
    slots_per_actor=64,
    buffers_per_actor=2,
    least_actors=1,
    batch_size=64,
    passes=1,
    core_size=128,
    checkpoint_seconds=60.0,
    log_seconds=5.0,
)
BUSY = TimeShares(learner=0.95, wait=0.05, disk=0, env=0.45, inference=0.45, actor_wait=0.05)
WAITING_LEARNER = BUSY._replace(learner=0.3, wait=0.7)
SLOW_ENV = WAITING_LEARNER._replace(env=0.8, inference=0.1)
SLOW_POLICY = WAITING_LEARNER._replace(env=0.1, inference=0.8)
SLOW_LEARNER = BUSY._replace(env=0.1, inference=0.1, actor_wait=0.7)
SLOW_DISK = BUSY._replace(learner=0.5, disk=0.45, actor_wait=0.5)
TURNS = BUSY._replace(learner=0.5, wait=0.5, env=0.2, inference=0.2, actor_wait=0.5)
CORES = "limited by the cores, which have more threads than they can run"
BALANCE = "limited by nothing in particular, learner and actors keep each other busy"


def facts(**changes: Any) -> Facts:
    return dataclasses.replace(FACTS, **changes)


@pytest.mark.parametrize(
    ("shares", "changes", "name", "sentence"),
    [
        (None, {}, "start", "limited by its start; try a larger total_frames: the run has not passed its warm-up"),
        (SLOW_DISK, {}, "disk", "limited by the disk; try checkpoint_seconds=1380 or run= on a faster disk"),
        (
            SLOW_DISK,
            {"checkpoint_seconds": 0.0, "log_seconds": 0.0},
            "disk",
            "limited by the disk; try checkpoint_seconds=60, log_seconds=5 or run= on a faster disk",
        ),
        (
            SLOW_LEARNER,
            {},
            "learner",
            "limited by the learner; try runtime.num_actors=1 runtime.learner_threads=3, learner.batch_size=128 or core.size=64",
        ),
        (
            SLOW_POLICY,
            {"num_actors": 3, "better_inference": "actor"},
            "inference",
            "limited by inference; try runtime.inference=actor, runtime.slots_per_actor=128 or core.size=64",
        ),
        # Each task keeps a slot. Options of the machine come before options that change the experiment.
        (
            SLOW_LEARNER,
            {"least_actors": 3, "passes": 3, "can_use_bf16": True},
            "learner",
            "limited by the learner; try precision=bf16, learner.passes=2 or learner.batch_size=128",
        ),
        (
            SLOW_LEARNER,
            {"num_cores": 16, "least_actors": 3, "can_use_bf16": True},
            "learner",
            "limited by the learner; try runtime.learner_threads=13, precision=bf16 or learner.batch_size=128",
        ),
        (SLOW_ENV, {}, "environment", "limited by the environment; try learner.passes=3 or a machine with more cores"),
        (
            SLOW_ENV,
            {"passes": 4, "faster_engine": "envpool"},
            "environment",
            "limited by the environment; try env.engine=envpool or a machine with more cores",
        ),
        (SLOW_POLICY, {}, "inference", "limited by inference; try runtime.slots_per_actor=128 or core.size=64"),
        (
            SLOW_POLICY,
            {"can_use_bf16": True, "batch_size": 192},
            "inference",
            "limited by inference; try precision=bf16, runtime.slots_per_actor=192 or core.size=64",
        ),
        # The learner waits and cores are free: enough actors to keep it busy, limited by the cores.
        (
            SLOW_ENV,
            {"num_actors": 1, "num_cores": 16},
            "actors",
            "limited by the number of actors; try runtime.num_actors=4",
        ),
        (
            SLOW_POLICY,
            {"num_actors": 3, "num_cores": 8},
            "actors",
            "limited by the number of actors; try runtime.num_actors=7",
        ),
        # The learner's threads, as many as cores, are idle while it waits.
        (
            SLOW_ENV,
            {"num_actors": 1, "num_cores": 8, "learner_threads": 7},
            "actors",
            "limited by the number of actors; try runtime.num_actors=4",
        ),
        (
            TURNS,
            {},
            "buffers",
            "limited by learner and actors that wait for each other in turn; try runtime.buffers_per_actor=3",
        ),
        (
            TURNS,
            {"num_actors": 1, "num_cores": 2, "batch_size": 256},
            "buffers",
            "limited by learner and actors that wait for each other in turn; try runtime.buffers_per_actor=8",
        ),
        (
            BUSY,
            {"num_actors": 12},
            "cores",
            f"{CORES}; try runtime.num_actors=3",
        ),
        (
            BUSY,
            {"num_cores": 2, "num_actors": 1, "actor_threads": 4, "learner_threads": 4},
            "cores",
            f"{CORES}; try runtime.actor_threads=1 runtime.learner_threads=1",
        ),
        (
            BUSY,
            {},
            "balance",
            f"{BALANCE}; try a machine with more cores to speed up both",
        ),
        (
            BUSY,
            {"num_cores": 12},
            "balance",
            f"{BALANCE}; try runtime.num_actors=11 to speed up both",
        ),
    ],
)
def test_bottleneck_and_suggestion_follow_from_time_shares(
    shares: TimeShares | None, changes: dict[str, Any], name: str, sentence: str
) -> None:
    assert find_bottleneck(shares, facts(**changes)) == (name, sentence)


@pytest.mark.parametrize(
    ("part", "name", "limit"),
    [
        ("learner", "learner", "the learner"),
        ("env", "environment", "the environment"),
        ("inference", "inference", "inference"),
    ],
)
def test_serial_bottleneck_is_the_part_with_the_largest_share(part: str, name: str, limit: str) -> None:
    shares = TimeShares(learner=0.2, wait=0.8, disk=0.15, env=0.2, inference=0.2, actor_wait=0.2)._replace(
        **{part: 0.5}
    )
    alone = facts(runtime="serial", num_actors=1)
    assert find_bottleneck(shares, alone) == (
        name,
        f"limited by {limit}, while the rest waits in the same process; try runtime=local",
    )
    assert find_bottleneck(shares._replace(disk=0.6), alone).name == "disk"
    # On one core runtime=local would not help, so the options change the part itself.
    bottleneck = find_bottleneck(shares, dataclasses.replace(alone, num_cores=1))
    assert bottleneck.name == name
    assert "runtime=local" not in bottleneck.sentence


def advised(sentence: str) -> dict[str, str]:
    """The options in a sentence, by key."""
    return dict(re.findall(r"([\w.]+)=([\w.]+)", sentence))


@given(
    learner=st.floats(0, 1),
    disk=st.floats(0, 1),
    env=st.floats(0, 1),
    inference=st.floats(0, 1),
    runtime=st.sampled_from(["serial", "local"]),
    num_cores=st.integers(1, 64),
    num_actors=st.integers(1, 64),
    actor_threads=st.integers(1, 4),
    learner_threads=st.integers(1, 64),
    slots=st.integers(1, 64),
    several=st.integers(1, 6),
    larger_batch=st.booleans(),
    buffers=st.integers(1, 4),
    passes=st.integers(1, 5),
    core_size=st.integers(1, 512),
    checkpoint_seconds=st.floats(0, 5000),
    bf16=st.booleans(),
)
def test_suggested_options_change_the_configuration_and_are_valid(
    learner: float,
    disk: float,
    env: float,
    inference: float,
    runtime: str,
    num_cores: int,
    num_actors: int,
    actor_threads: int,
    learner_threads: int,
    slots: int,
    several: int,
    larger_batch: bool,
    buffers: int,
    passes: int,
    core_size: int,
    checkpoint_seconds: float,
    bf16: bool,
) -> None:
    disk *= 1 - learner
    inference *= 1 - env
    shares = TimeShares(learner, 1 - learner - disk, disk, env, inference, (1 - env - inference) / 2)
    batch = slots * several
    slots, batch = (slots, batch) if larger_batch else (batch, slots)
    given_facts = facts(
        runtime=runtime,
        num_cores=num_cores,
        num_actors=num_actors,
        actor_threads=actor_threads,
        learner_threads=learner_threads,
        slots_per_actor=slots,
        batch_size=batch,
        buffers_per_actor=buffers,
        passes=passes,
        core_size=core_size,
        checkpoint_seconds=checkpoint_seconds,
        can_use_bf16=bf16,
        faster_engine="envpool",
    )
    present = {
        "runtime": runtime,
        "runtime.num_actors": str(num_actors),
        "runtime.actor_threads": str(actor_threads),
        "runtime.learner_threads": str(learner_threads),
        "runtime.slots_per_actor": str(slots),
        "runtime.buffers_per_actor": str(buffers),
        "learner.batch_size": str(batch),
        "learner.passes": str(passes),
        "core.size": str(core_size),
        "checkpoint_seconds": str(checkpoint_seconds),
        "precision": "fp32" if bf16 else "bf16",
        "env.engine": "minigrid",
        "log_seconds": "0",
    }
    bottleneck = find_bottleneck(shares, given_facts)
    assert re.fullmatch(r"limited by [^;]+; try [^;]+", bottleneck.sentence)
    settings = advised(bottleneck.sentence)
    assert settings or "a machine with more cores" in bottleneck.sentence
    for key, value in settings.items():
        assert value != present[key], bottleneck.sentence
    fit = {"learner.batch_size": batch, "runtime.slots_per_actor": slots}
    for key in fit.keys() & settings.keys():
        least, most = sorted((fit | {key: int(settings[key])}).values())
        assert most % least == 0, f"{key} does not fit"


def test_every_suggested_option_is_accepted_by_train() -> None:
    shown = facts(passes=2, can_use_bf16=True, faster_engine="envpool", log_seconds=0.0)
    bottlenecks = [find_bottleneck(shares, shown) for shares in (SLOW_DISK, SLOW_LEARNER, SLOW_ENV, SLOW_POLICY, TURNS)]
    bottlenecks.append(find_bottleneck(SLOW_LEARNER, facts(runtime="serial")))
    bottlenecks.append(find_bottleneck(SLOW_LEARNER, FACTS))
    bottlenecks.append(find_bottleneck(BUSY, facts(num_actors=9, actor_threads=2)))
    settings: dict[str, str] = {}
    for bottleneck in bottlenecks:
        settings |= advised(bottleneck.sentence)
    assert {"checkpoint_seconds", "core.size", "env.engine", "log_seconds", "precision", "runtime"} < settings.keys()
    assert {f"learner.{key}" for key in ("batch_size", "passes")} < settings.keys()
    assert {f"runtime.{key}" for key in ("actor_threads", "buffers_per_actor", "learner_threads")} < settings.keys()
    assert {f"runtime.{key}" for key in ("num_actors", "slots_per_actor")} < settings.keys()
    flat = flatten(to_dict(compose_train(["env=babyai", *(f"{key}={value}" for key, value in settings.items())])))
    for key, value in settings.items():
        assert str(flat.get(key, flat.get(f"{key}.name"))).removesuffix(".0") == value


def test_learner_and_actor_shares_are_computed_separately() -> None:
    before = Totals(loop=1, wait=1, disk=0, actors=2, env=1, inference=1, actor_wait=0)
    after = Totals(loop=11, wait=5, disk=1, actors=22, env=11, inference=6, actor_wait=4)
    assert TimeShares.between(before, after) == pytest.approx(
        TimeShares(learner=0.5, wait=0.4, disk=0.1, env=0.5, inference=0.25, actor_wait=0.2)
    )
    assert TimeShares.between(after, after).env == 0


def test_clock_excludes_warm_up_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(agents.run.timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = Clock(100.0, Counters(), action_repeat=4)

    def update(number: int, wait: float) -> None:
        """Advances the clock by one second of learning, one of saving, and `wait` seconds."""
        now[0] += wait + 1
        with clock.disk():
            now[0] += 1
        batch = Batch(
            trajectory={},
            weights_versions=[number - 1],
            wait_seconds=wait,
            actor_seconds=8.0,
            env_seconds=4.0,
            inference_seconds=2.0,
            actor_wait_seconds=1.0,
        )
        clock.count_batch(batch, [number - 1], Counters(updates=number, steps=10 * number))

    update(1, wait=1000.0)
    for number in range(2, 21):
        assert clock.shares is None
        update(number, wait=50.0)
    assert clock.shares is None
    row = clock.row(Counters(updates=20, steps=200), {})
    assert row["time/wait"] > 0.9
    for number in range(21, 31):
        update(number, wait=2.0)
    with clock.disk(), pytest.raises(OSError, match="full"):
        now[0] += 500
        raise OSError("the disk is full")
    expected = TimeShares(learner=0.25, wait=0.5, disk=0.25, env=0.5, inference=0.25, actor_wait=0.125)
    assert clock.shares == pytest.approx(expected)
    assert clock.steady_frames_per_second == pytest.approx(10)
    # The row includes the time after the newest update.
    row = clock.row(Counters(updates=30, steps=300), {})
    assert row["time/disk"] == pytest.approx(510 / 540)
    assert row["time/learner"] + row["time/wait"] + row["time/disk"] == pytest.approx(1)
    assert row["time/actor_wait"] == 0.125
    assert clock.seconds == pytest.approx(100 + now[0])


def test_policy_lag_covers_every_update_with_every_unroll() -> None:
    clock = Clock(0.0, Counters(), action_repeat=1)
    times = dict.fromkeys(
        ("wait_seconds", "actor_seconds", "env_seconds", "inference_seconds", "actor_wait_seconds"), 0.0
    )
    for versions, before in (([3, 5], [7, 8]), ([6], [9, 10, 11])):
        clock.count_batch(
            Batch(trajectory={}, weights_versions=versions, **times), before, Counters(updates=before[-1] + 1)
        )
    row = clock.row(Counters(updates=12), {})
    lags = [7 - 3, 7 - 5, 8 - 3, 8 - 5, 9 - 6, 10 - 6, 11 - 6]
    assert (row["policy_lag_min"], row["policy_lag_max"]) == (2, 5)
    assert row["policy_lag_mean"] == pytest.approx(sum(lags) / len(lags))
