"""A lost life in a continuing game ends the bootstrapping and nothing else."""

from __future__ import annotations

import numpy as np
import torch
from counting import COUNTING, NUM_ACTIONS, SLOTS, STATE_SIZE, CountingEngine, CountingNetwork

from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.learning.vtrace import vtrace
from agents.network.actions import Categorical
from agents.run.metrics import Statistics
from agents.trajectory import Trajectory, allocate, trajectory_spec
from envs.engines.base import Outcome
from envs.spec import Slot
from envs.vector import MultitaskVectorEnv

SEATS = [Slot(task=number % 2, index=number // 2) for number in range(SLOTS)]


class LosingEngine(CountingEngine):
    """A life is lost at every second step of an episode that does not end it."""

    def __init__(self) -> None:
        super().__init__(SEATS)
        self.life_lost = np.zeros(SLOTS, np.bool_)

    def step(self, actions: np.ndarray) -> Outcome:
        reward, terminated, truncated = super().step(actions)
        self.life_lost[:] = (self.age > 0) & (self.age % 2 == 0) & ~terminated
        return reward, terminated, truncated


def play(engine: CountingEngine) -> Trajectory:
    env = MultitaskVectorEnv(engine, COUNTING, SEATS, seed=0)
    actor = Actor(env, Policy(CountingNetwork(), SLOTS), Categorical(NUM_ACTIONS), seed=(0, 0))  # type: ignore[arg-type]
    trajectory = allocate(trajectory_spec(COUNTING, 60, SLOTS, STATE_SIZE))
    actor.unroll(trajectory)
    return trajectory


def test_a_lost_life_changes_only_terminated() -> None:
    whole, lives = play(CountingEngine(SEATS)), play(LosingEngine())
    for key, value in whole.items():
        if key != "terminated":
            np.testing.assert_array_equal(lives[key], value, err_msg=key)
    age = lives["vector"][1:, :, 2]
    lost = (age > 0) & (age % 2 == 0)
    assert lost.any() and bool(lives["mask"][lost].all())
    assert torch.equal(lives["terminated"], whole["terminated"] | lost)
    # A life may be lost in the step that truncates.
    assert (lost & ~whole["episode_return"].isnan() & ~whole["terminated"]).any()


def test_no_target_looks_beyond_a_lost_life() -> None:
    lives = play(LosingEngine())
    mask, terminated = lives["mask"], lives["terminated"]
    values = torch.randn(terminated.shape, generator=torch.Generator().manual_seed(0))

    def targets(reward: torch.Tensor) -> torch.Tensor:
        discounts = 0.9 * (~terminated).float()
        return vtrace(torch.zeros(mask.shape), discounts, reward, values, values[0], mask).vs

    end, slot = torch.nonzero(terminated[:-1] & mask[1:])[0].tolist()
    changed = lives["reward"].clone()
    changed[end + 1 :, slot] += 100
    before, after = targets(lives["reward"])[:, slot], targets(changed)[:, slot]
    assert torch.equal(before[: end + 1], after[: end + 1])
    assert not torch.equal(before[end + 1 :], after[end + 1 :])


def test_statistics_count_complete_games() -> None:
    summaries = []
    for trajectory in (play(CountingEngine(SEATS)), play(LosingEngine())):
        statistics = Statistics(COUNTING.tasks)
        statistics.update(trajectory)
        summaries.append(statistics.summary(4))
    assert summaries[0] == summaries[1] and all(row["episodes"] > 1 for row in summaries[0].values())
