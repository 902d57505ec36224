"""Resets that take several steps: the actor's trajectories, and the learner's updates on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from counting import (
    COUNTING,
    NUM_ACTIONS,
    SLOTS,
    STATE_SIZE,
    CountingEngine,
    CountingNetwork,
    episode_length,
    life,
)
from fakes import fake_batch, fake_config, fake_env, fake_network
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.learning.learner import Learner
from agents.network.actions import Categorical
from agents.run.metrics import Statistics
from agents.runtime.base import StreamPositions
from agents.setup import builder
from agents.setup.builder import build_learner
from agents.setup.plan import make_plan
from agents.trajectory import OBSERVED, PER_COLUMN, Trajectory, allocate, trajectory_spec
from conf.schema import RuntimeConfig
from envs.engines.base import Outcome
from envs.faults import Fault
from envs.spec import Slot
from envs.vector import MultitaskVectorEnv

T, UNROLLS = 11, 4
SEATS = [Slot(task=number % 2, index=number // 2) for number in range(SLOTS)]
SPEC = trajectory_spec(COUNTING, T, SLOTS, STATE_SIZE)


class SlowCountingEngine(CountingEngine):
    """Each reset takes additional steps: the next of `delays`, cyclically."""

    def __init__(self, slots: Sequence[Slot], delays: Sequence[int]) -> None:
        super().__init__(slots)
        self.patience = math.inf
        self.resetting, self.interrupted = np.zeros((2, len(slots)), np.bool_)
        self.episode = self.first.copy()
        self.success = np.full(len(slots), np.nan, np.float32)
        self.delays = delays
        self.resets = 0
        self.left = [-1] * len(slots)

    def step(self, actions: np.ndarray) -> Outcome:
        episode, age = self.episode.copy(), self.age.copy()
        outcome = super().step(actions)
        for slot in range(len(self.number)):
            if age[slot] < episode_length(self.number[slot], episode[slot]):
                continue
            if self.left[slot] < 0:
                self.left[slot] = self.delays[self.resets % len(self.delays)]
                self.resets += 1
            self.resetting[slot] = self.left[slot] > 0
            self.left[slot] -= 1
            if self.resetting[slot]:
                self.episode[slot], self.age[slot] = episode[slot], age[slot]
        self._show()
        return outcome

    def supervise(self, hang_seconds: float, memory_limit: int, recycle_episodes: int) -> None:
        pass

    def take_faults(self) -> list[Fault]:
        return []

    def assign(self, slot: int, task: int) -> None:
        raise NotImplementedError


@settings(max_examples=12)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_slow_resets_add_masked_steps_and_change_nothing_else(delays: list[int]) -> None:
    env = MultitaskVectorEnv(SlowCountingEngine(SEATS, delays), COUNTING, SEATS, seed=0)
    actor = Actor(env, Policy(CountingNetwork(), SLOTS), Categorical(NUM_ACTIONS), seed=(0, 0))  # type: ignore[arg-type]
    statistics = Statistics(COUNTING.tasks)
    unrolls = []
    for _ in range(UNROLLS):
        unrolls.append(allocate(SPEC))
        actor.unroll(unrolls[-1])
        statistics.update(unrolls[-1])
    rows = {key: torch.cat([unroll[key][:T] for unroll in unrolls]).numpy() for key in SPEC if key not in PER_COLUMN}
    real = 0
    for slot in range(SLOTS):
        column = {key: value[:, slot] for key, value in rows.items()}
        again = np.append(False, ~(column["mask"][1:] | column["mask"][:-1]))
        for key in ("vector", "instruction", "task"):
            assert np.array_equal(column[key][again], column[key][np.roll(again, -1)])
        assert not column["reset"][again].any() and not column["reward"][again].any()
        assert (column["last_action"][again] == NUM_ACTIONS).all() and np.isnan(column["episode_return"][again]).all()
        column = {key: value[~again] for key, value in column.items()}
        moments = life(slot, [0] * len(column["mask"]))
        assert column["vector"].tolist() == [[slot, moment.episode, moment.age] for moment in moments]
        for key in ("reset", "last_action", "last_reward", "action", "reward", "terminated", "mask"):
            assert column[key].tolist() == [getattr(moment, key) for moment in moments], key
        ended = [moment for moment in moments if moment.ended]
        assert np.isnan(column["episode_return"]).tolist() == [not moment.ended for moment in moments]
        assert column["episode_return"][~np.isnan(column["episode_return"])].tolist() == [
            moment.episode_return for moment in ended
        ]
        assert column["episode_length"].sum() == sum(moment.age + 1 for moment in ended)
        assert unrolls[-1]["episode"][slot] == unrolls[-1]["vector"][T, slot, 1]
        real += sum(moment.mask for moment in moments)
    assert sum(task.steps for task in statistics.tasks.values()) == real


@pytest.mark.parametrize(("runtime", "patience"), [("serial", math.inf), ("local", 0.25)])
def test_only_the_local_runtime_limits_the_patience_for_resets(
    monkeypatch: pytest.MonkeyPatch, runtime: str, patience: float
) -> None:
    engine = SlowCountingEngine(SEATS, [0])
    config = fake_config()
    config.runtime = RuntimeConfig(name=runtime, slots_per_actor=SLOTS, num_actors=1, reset_patience=0.25)
    monkeypatch.setattr(builder, "make_env", lambda *_: MultitaskVectorEnv(engine, COUNTING, SEATS, seed=0))
    builder.ActorFactory(config=config, env=COUNTING, plan=make_plan(config, COUNTING))(0, StreamPositions(), None)
    assert engine.patience == patience


# The learner

ENV = fake_env()
STEPS, COLUMNS, EXTRA = 9, 5, 6


def learner(reduction: str) -> Learner:
    config = fake_config(reduction=reduction, optimizer="rmsprop", epsilon=0.1, reward_clip=0.0)
    return build_learner(config, ENV, fake_network(ENV, config))


def stretched(batch: Trajectory, seed: int) -> Trajectory:
    """Every column with EXTRA more steps of resetting, after randomly chosen masked steps."""
    rng = np.random.default_rng(seed)
    columns = []
    for column in range(COLUMNS):
        masked = np.flatnonzero(~batch["mask"][:, column].numpy())
        repeats = np.ones(STEPS, int)
        np.add.at(repeats, rng.choice(masked, EXTRA), 1)
        between = np.repeat(np.arange(STEPS), repeats)
        added = np.append(np.diff(between, prepend=-1) == 0, False)
        observed = np.append(between, STEPS)
        part = {}
        for key, value in batch.items():
            if key in PER_COLUMN:
                part[key] = value[column]
                continue
            part[key] = value[observed if key in OBSERVED else between, column].clone()
        part["reset"][added] = False
        part["last_action"][added] = ENV.num_actions
        part["last_reward"][added] = 0.0
        part["action"][added[:-1]] = 0
        part["behaviour_log_probs"][added[:-1]] = -0.5
        columns.append(part)
    return {
        key: torch.stack([part[key] for part in columns], dim=0 if key in PER_COLUMN else 1).contiguous()
        for key in batch
    }


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from(["mean", "sum"]))
def test_the_learner_learns_the_same_from_a_reset_of_several_steps(seed: int, reduction: str) -> None:
    one, other = learner(reduction), learner(reduction)
    batch = fake_batch(ENV, one.network.core_state_size, STEPS, COLUMNS, seed)
    for column in range(COLUMNS):  # at least one reset in each: after an episode that was truncated, before a reset
        if batch["mask"][:, column].all():
            batch["mask"][4, column] = False
            batch["terminated"][3:5, column] = False
            batch["reward"][4, column] = 0.0
            batch["reset"][4, column], batch["reset"][5, column] = False, True
    more = stretched(batch, seed)
    assert more["action"].shape == (STEPS + EXTRA, COLUMNS)
    metrics, others = one.step(batch), other.step(more)
    for key, value in metrics.items():
        torch.testing.assert_close(others[key], value, atol=1e-5, rtol=1e-4, msg=key)
    for mine, theirs in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(other.objective.popart.mu, one.objective.popart.mu)
    torch.testing.assert_close(other.objective.popart.nu, one.objective.popart.nu)
    assert other.counters == one.counters
