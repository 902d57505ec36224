"""Batches of all runtimes, checked number by number with an environment and a network that count."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from typing import Any

import pytest
import torch
from counted import SPEC, Lives, T, check_column, counting_pool, counting_runtime, split, step_versions
from counting import (
    COUNTING,
    NUM_ACTIONS,
    SLOTS,
    STATE_SIZE,
    CountingNetwork,
    MakeCountingActor,
)
from processes import PATIENCE
from torch import nn

from agents.learning.minibatches import split_columns
from agents.runtime.base import ActorError, Runtime, StreamPositions
from agents.runtime.processes.buffers import SharedArrays, SharedWeights
from agents.trajectory import Trajectory, allocate, concatenate, trajectory_spec

ACTORS = 2
UNROLLS = 2


def counting(
    name: str, network: Any, actors: int, unrolls: int, *, fault: str = "", first: int = 0, **options: Any
) -> Runtime:
    """A runtime of counting actors; `fault` and `first` are those of MakeCountingActor."""
    make = MakeCountingActor(fault=fault, first_episode=first)
    return counting_runtime(name, counting_pool(actors, unrolls, make_actor=make), network, **options)


ON_RAY = pytest.param("cluster", marks=pytest.mark.ray)
# test_inference.py runs the server in the quick tier.
PROCESSES = ("local", pytest.param("server", marks=pytest.mark.slow), ON_RAY)


pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


def learn(network: Any, runtime: Runtime, version: int) -> None:
    with torch.no_grad():
        network.number.fill_(version)
    runtime.publish(version)


def collect(runtime: Runtime, times: int) -> None:
    for _ in range(times):
        runtime.collect()


@pytest.mark.parametrize("name", ["serial", *PROCESSES])
def test_every_step_is_in_one_batch_and_in_order(name: str) -> None:
    network = CountingNetwork()
    runtime = counting(name, network, ACTORS, UNROLLS)
    unrolls: dict[int, list[tuple[list[int], Trajectory]]] = {actor: [] for actor in range(ACTORS)}
    try:
        deadline = time.monotonic() + PATIENCE
        for updates in itertools.count():
            if updates >= 24 and all(len(found) >= 3 for found in unrolls.values()):
                break
            assert time.monotonic() < deadline, "an actor finishes no unroll"
            if updates >= 24:  # Slows the other actors down while one process starts.
                time.sleep(0.02)
            batch = runtime.collect()
            assert len(batch.weights_versions) == UNROLLS
            for actor, version, part in split(batch):
                assert 0 <= version <= updates
                versions = step_versions(name, version, part)
                assert versions[0] == version, "not the version of the first step"
                assert not unrolls[actor] or version >= unrolls[actor][-1][0][-1], "weights went back"
                assert versions[-1] <= updates, "weights that were not published yet"
                assert name != "serial" or version == updates
                unrolls[actor].append((versions, part))
            for actor, found in unrolls.items():
                assert runtime.positions.unrolls.get(actor, 0) == len(found)
                assert not found or runtime.positions.episodes[actor] == found[-1][1]["episode"].tolist()
            learn(network, runtime, updates + 1)
    finally:
        runtime.close()
    assert max(versions[-1] for versions, _ in unrolls[0]) > 0, "no actor ever saw new weights"
    for actor, found in unrolls.items():
        for column in range(SLOTS):
            check_column(found, actor * SLOTS + column)


@pytest.mark.parametrize("name", PROCESSES)
def test_one_actor_is_never_further_ahead_than_its_buffers(name: str) -> None:
    network = CountingNetwork()
    runtime = counting(name, network, 1, 1, first=5, version=100)
    found = []
    try:
        for updates in range(100, 120):
            batch = runtime.collect()
            ((_, version, part),) = split(batch)
            if updates % 4 == 0:  # An actor that got the buffer back too early would overwrite it now.
                time.sleep(0.1)
                for key, value in part.items():
                    torch.testing.assert_close(
                        batch.trajectory[key], value, equal_nan=True, msg=f"{key} was overwritten"
                    )
            assert 0 <= updates - version <= 2
            number = 0 if version == 100 else version  # The first weights hold 0 and have version 100.
            found.append((step_versions(name, number, part), part))
            learn(network, runtime, updates + 1)
    finally:
        runtime.close()
        runtime.close()
    for column in range(SLOTS):
        check_column(found, column, first_episode=5)


@pytest.mark.parametrize("name", PROCESSES)
def test_an_interrupted_collect_loses_no_unroll(name: str) -> None:
    class EnoughError(Exception):
        pass

    def raises_after(number: int) -> Callable[[], None]:
        left = iter(range(number))

        def check() -> None:
            if next(left, None) is None:
                raise EnoughError

        return check

    runtime, lives, ended = counting(name, CountingNetwork(), ACTORS, UNROLLS), Lives(name), 0
    try:
        for number in (0, 1, 2, 0, 1, 2, 0):
            before = dict(runtime.positions.unrolls), dict(runtime.positions.episodes)
            try:
                lives.add(runtime.collect(raises_after(number)))
            except EnoughError:
                ended += 1
                assert (runtime.positions.unrolls, runtime.positions.episodes) == before
            lives.add(runtime.collect())
    finally:
        runtime.close()
    lives.check()
    assert ended and all(lives.restarts(actor) == 0 for actor in lives.of)


@pytest.mark.parametrize("name", PROCESSES)
def test_an_actor_that_raises_is_reported_with_its_traceback(name: str) -> None:
    runtime = counting(name, CountingNetwork(), 1, 1, fault="raise")
    try:
        with pytest.raises(ActorError, match=r"(?s)actor 0.*Traceback.*counting\.py.*broke as it was told"):
            collect(runtime, 10)
    finally:
        runtime.close()


@pytest.mark.parametrize("name", PROCESSES)
def test_an_actor_that_exits_is_reported_with_its_exit_code(name: str) -> None:
    runtime = counting(name, CountingNetwork(), 2, 1, fault="exit")
    try:
        with pytest.raises(ActorError, match=r"actor [01].*17"):
            collect(runtime, 20)
    finally:
        runtime.close()


def test_a_serial_runtime_reports_an_actor_that_raises() -> None:
    runtime = counting("serial", CountingNetwork(), 1, 1, fault="raise")
    with pytest.raises(Exception, match="broke as it was told"):
        collect(runtime, 10)
    runtime.close()
    runtime.close()


def test_two_short_unrolls_equal_a_long_one() -> None:
    """The actor reads T from the trajectory: an unroll of 2 T steps equals two of T."""
    long_spec = trajectory_spec(COUNTING, 2 * T, SLOTS, STATE_SIZE)
    whole, halves = allocate(long_spec), [allocate(SPEC), allocate(SPEC)]
    MakeCountingActor()(0, StreamPositions(), CountingNetwork()).unroll(whole)
    actor = MakeCountingActor()(0, StreamPositions(), CountingNetwork())
    for half in halves:
        actor.unroll(half)
    assert actor.unrolls == 2
    for key, value in whole.items():
        first, second = halves[0][key], halves[1][key]
        if key == "core_state":
            assert torch.equal(value, first)
        elif key == "episode":
            assert torch.equal(value, second)
        else:
            torch.testing.assert_close(value[:T], first[:T], equal_nan=True)
            torch.testing.assert_close(value[T:], second, equal_nan=True)


def test_the_next_unroll_does_not_change_a_trajectory() -> None:
    """A filled trajectory keeps its numbers while the actor fills another one."""
    first, second = allocate(SPEC), allocate(SPEC)
    actor = MakeCountingActor()(0, StreamPositions(), CountingNetwork())
    actor.unroll(first)
    kept = {key: value.clone() for key, value in first.items()}
    actor.unroll(second)
    for key, value in kept.items():
        torch.testing.assert_close(first[key], value, equal_nan=True)
    for key in ("vector", "instruction", "reset", "last_action", "last_reward"):
        assert torch.equal(first[key][-1], second[key][0]), (
            "the last observation of one unroll is the first of the next"
        )
    assert int(first["last_action"].max()) == NUM_ACTIONS


def test_concatenate_joins_columns() -> None:
    parts = []
    for number in range(3):
        part = allocate(SPEC)
        for value in part.values():
            value.fill_(number % 2 if value.dtype == torch.bool else number)
        parts.append(part)
    joined = concatenate(parts)
    assert joined["vector"].shape == (T + 1, 3 * SLOTS, 3)
    assert joined["core_state"].tolist() == [[n, n] for n in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert joined["action"][0].tolist() == joined["episode"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("columns", [1, 2, 3, 6, 50])
def test_minibatches_are_the_columns_in_order(columns: int) -> None:
    whole = allocate(trajectory_spec(COUNTING, T, 6, STATE_SIZE))
    for value in whole.values():
        value.copy_(torch.arange(value.numel()).view(value.shape) % 97)
    parts = list(split_columns(whole, columns))
    assert len(parts) == max(1, 6 // columns)
    joined = concatenate(parts)
    assert all(torch.equal(joined[key], value) for key, value in whole.items())


def test_pickled_arrays_share_their_memory() -> None:
    from multiprocessing.reduction import ForkingPickler

    buffers = SharedArrays(SPEC, 3)
    other = pickle.loads(ForkingPickler.dumps(buffers))
    assert len(other) == 3
    for number in range(3):
        for key, array in SPEC.items():
            view = other[number][key]
            assert view.shape == array.shape and view.dtype == getattr(torch, array.dtype)
            view.fill_(True if view.dtype == torch.bool else number + 1)
    for number in range(3):
        for key in SPEC:
            assert buffers[number][key].eq(1 if SPEC[key].dtype == "bool" else number + 1).all(), "buffers overlap"


class Uniform(nn.Module):
    """Parameters that are large enough for a slow copy."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in (100_000, 7, 60_000))

    def fill(self, value: int) -> None:
        with torch.no_grad():
            for part in self.parts:
                part.fill_(value)


def publish_until(weights: SharedWeights, stop: Event) -> None:
    """Publishes weights that all equal their version, in bursts: a writer without pauses would keep the reader repeating."""
    torch.set_num_threads(1)
    network, version = Uniform(), 0
    while not stop.is_set():
        version += 1
        network.fill(version)
        weights.publish(network, version)
        if version % 8 == 0:
            stop.wait(0.001)


def test_weights_are_never_read_half_written() -> None:
    context = multiprocessing.get_context("spawn")
    network = Uniform()
    weights = SharedWeights([parameter.shape for parameter in network.parameters()])
    stop = context.Event()
    writer = context.Process(target=publish_until, args=(weights, stop), daemon=True)
    writer.start()
    seen: set[int] = set()
    try:
        for _ in range(200_000):
            if weights.version == 0:
                stop.wait(0.001)
                continue
            version = weights.read(network)
            assert all(part.min() == part.max() == version for part in network.parts)
            assert not seen or version >= max(seen)
            seen.add(version)
            if len(seen) == 100:
                break
    finally:
        stop.set()
        writer.join()
    assert len(seen) == 100


def test_versions_may_skip_numbers() -> None:
    network, other = Uniform(), Uniform()
    weights = SharedWeights([parameter.shape for parameter in network.parameters()])
    for version in (0, 1, 2, 7, 7, 8, 1000):
        network.fill(version + 5)
        weights.publish(network, version)
        assert weights.version == weights.read(other) == version
        assert all(part.min() == part.max() == version + 5 for part in other.parts)
