"""Checks each value of the trajectories of the counting environment (tests/agents/counting.py)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from counting import (
    COUNTING,
    NUM_ACTIONS,
    NUM_TASKS,
    SLOTS,
    STATE_SIZE,
    CountingNetwork,
    MakeCountingActor,
    MakeCountingPolicy,
    life,
)
from ray_cluster import ray_nodes

from agents.runtime.base import Batch, PoolConfig, Runtime
from agents.runtime.cluster import ClusterRuntime
from agents.runtime.local import LocalRuntime
from agents.runtime.serial import SerialRuntime
from agents.trajectory import PER_COLUMN, Trajectory, trajectory_spec

T = 7
SPEC = trajectory_spec(COUNTING, T, SLOTS, STATE_SIZE)


def counting_pool(num_actors: int, unrolls_per_batch: int = 1, **options: Any) -> PoolConfig:
    """A pool of counting actors."""
    defaults = {"make_actor": MakeCountingActor(), "spec": SPEC, "actions": CountingNetwork.actions}
    return PoolConfig(**defaults | options, num_actors=num_actors, unrolls_per_batch=unrolls_per_batch)


def counting_runtime(name: str, pool: PoolConfig, network: Any, **options: Any) -> Runtime:
    """The runtime `serial`, `local`, `cluster` (on the nodes of ray_cluster.py) or `server` (local, with an inference server)."""
    if name == "serial":
        return SerialRuntime(pool, network, **options)
    if name == "cluster":
        return ClusterRuntime(pool, network, address=ray_nodes().address, **options)
    if name == "server":
        pool = replace(pool, make_policy=MakeCountingPolicy())
    return LocalRuntime(pool, network, **options)


def split(batch: Batch) -> list[tuple[int, int, Trajectory]]:
    """The unrolls of a batch, each with its actor and its weights version."""
    parts = []
    assert batch.trajectory["reset"].shape == (T + 1, len(batch.weights_versions) * SLOTS)
    for number, version in enumerate(batch.weights_versions):
        columns = slice(number * SLOTS, (number + 1) * SLOTS)
        part = {
            key: (value[columns] if key in PER_COLUMN else value[:, columns]).clone()
            for key, value in batch.trajectory.items()
        }
        first = int(part["vector"][0, 0, 0])
        assert first % SLOTS == 0 and part["vector"][:, :, 0].eq(first + torch.arange(SLOTS)).all(), "columns mix"
        parts.append((first // SLOTS, version, part))
    return parts


def step_versions(name: str, version: int, part: Trajectory) -> list[int]:
    """The weights version of each step of an unroll, equal in all columns. Without a server it is `version`, that of the first step.

    A server switches to newer weights between two steps. The actions identify them: (count + number) mod 8.
    """
    if name != "server":
        return [version] * T
    versions, count = [], part["core_state"][:, 0]
    for t in range(T):
        count = torch.where(part["reset"][t], 0.0, count) + 1
        (newer,) = ((part["action"][t] - count - version) % NUM_ACTIONS).unique().tolist()
        version += int(newer)
        versions.append(version)
    return versions


def check_column(unrolls: list[tuple[list[int], Trajectory]], slot: int, first_episode: int = 0) -> None:
    """Compares all unrolls of one slot, in order, with the expected episodes. Each comes with its `step_versions`."""
    column = slot % SLOTS
    versions = [version for versions, _ in unrolls for version in versions]
    moments = life(slot, [*versions, versions[-1]], first_episode)
    for number, (_, unroll) in enumerate(unrolls):
        begin = number * T
        assert tuple(unroll["core_state"][column].tolist()) == moments[begin].state, "core_state is not carried over"
        assert int(unroll["episode"][column]) == moments[begin + T].episode
        for t in range(T + 1):
            moment, at = moments[begin + t], (t, column)
            assert unroll["vector"][at].tolist() == [slot, moment.episode, moment.age], f"observation {begin + t}"
            assert unroll["instruction"][at].tolist() == [slot, moment.age]
            assert int(unroll["task"][at]) == slot % NUM_TASKS
            assert bool(unroll["reset"][at]) == moment.reset
            assert int(unroll["last_action"][at]) == moment.last_action
            assert float(unroll["last_reward"][at]) == moment.last_reward
            if t == T:
                continue
            assert int(unroll["action"][at]) == moment.action, "not the action of the weights that were reported"
            assert float(unroll["behaviour_log_probs"][at]) == 0
            assert float(unroll["reward"][at]) == moment.reward
            assert bool(unroll["terminated"][at]) == moment.terminated
            assert bool(unroll["mask"][at]) == moment.mask
            if moment.ended:
                assert float(unroll["episode_return"][at]) == moment.episode_return
                assert int(unroll["episode_length"][at]) == moment.age + 1
                assert float(unroll["success"][at]) == moment.terminated
            else:
                assert math.isnan(unroll["episode_return"][at]) and math.isnan(unroll["success"][at])
                assert int(unroll["episode_length"][at]) == 0


class Lives:
    """All that a runtime has handed over, by actor, and by each start of that actor.

    Args:
        name: Of the runtime; see `step_versions`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.of: dict[int, list[list[tuple[list[int], Trajectory]]]] = {}

    def add(self, batch: Batch) -> None:
        """Takes in a batch. An unroll that does not begin where the one before it ended must begin new episodes in all slots."""
        for actor, version, part in split(batch):
            starts = self.of.setdefault(actor, [])
            unroll = (step_versions(self.name, version, part), part)
            if starts and torch.equal(part["vector"][0], starts[-1][-1][1]["vector"][T]):
                starts[-1].append(unroll)
                continue
            assert part["reset"][0].all() and not part["core_state"].any()
            if starts:
                assert (part["vector"][0, :, 1] > starts[-1][-1][1]["episode"]).all(), "an episode is played again"
            starts.append([unroll])

    def unrolls(self, actor: int) -> int:
        """How many an actor has handed over."""
        return sum(map(len, self.of.get(actor, [])))

    def restarts(self, actor: int) -> int:
        """Number of observed restarts of an actor."""
        return len(self.of.get(actor, [])) - 1

    def check(self) -> None:
        """Every number of every unroll."""
        for actor, starts in self.of.items():
            for unrolls in starts:
                for column in range(SLOTS):
                    first_episode = int(unrolls[0][1]["vector"][0, column, 1])
                    check_column(unrolls, actor * SLOTS + column, first_episode)
