"""Environments that fail within an episode: the actor's trajectory, which the learner treats as a truncation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from counting import COUNTING, NUM_ACTIONS, SLOTS, STATE_SIZE, CountingEngine, CountingNetwork, episode_length
from fakes import fake_config, fake_network
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.learning.replay import Replay
from agents.network.actions import Categorical
from agents.run.metrics import Statistics
from agents.runtime.base import StreamPositions
from agents.setup import builder
from agents.setup.builder import build_learner
from agents.setup.plan import make_plan
from agents.trajectory import PER_COLUMN, Trajectory, allocate, concatenate, trajectory_spec
from conf.loading import compose_train
from conf.schema import RuntimeConfig
from envs.engines.base import Outcome
from envs.faults import Fault
from envs.spec import Slot
from envs.vector import MultitaskVectorEnv

SEATS = [Slot(task=number % 2, index=number // 2) for number in range(SLOTS)]
# The instructions of the counting environment are numbers of slots and ages.
READ = replace(COUNTING, vocabulary=("", "?", *map(str, range(2, 16))))
FAULT = Fault("even", "raised", "Traceback ...")


class TruncatingEngine(CountingEngine):
    """Truncates episodes early, equally in all slots: `ends` maps the number of an episode to its last age."""

    def __init__(self, ends: Mapping[int, int]) -> None:
        super().__init__(SEATS)
        self.ends = ends
        self.early = np.zeros(SLOTS, np.bool_)

    def step(self, actions: np.ndarray) -> Outcome:
        # Makes the counting engine start the next episode.
        for slot in np.flatnonzero(self.early):
            self.age[slot] = episode_length(self.number[slot], self.episode[slot])
        reward, terminated, truncated = super().step(actions)
        self.early = np.array([self._ends_early(slot) for slot in range(SLOTS)])
        return reward / 1024, terminated, truncated | self.early

    def _ends_early(self, slot: int) -> bool:
        age, length = self.age[slot], episode_length(self.number[slot], self.episode[slot])
        return 0 < age < length and self.ends.get(int(self.episode[slot])) == age


class InterruptedEngine(CountingEngine):
    """Fails one step after a TruncatingEngine truncates, and then resets for `delay` steps."""

    def __init__(self, ends: Mapping[int, int], delay: int) -> None:
        super().__init__(SEATS)
        self.ends, self.delay = ends, delay
        self.episode = self.first.copy()
        self.patience = math.inf
        self.resetting = np.zeros(SLOTS, np.bool_)
        self.interrupted = np.zeros(SLOTS, np.bool_)
        self.success = np.full(SLOTS, np.nan, np.float32)
        self.supervision: tuple[float, int, int] | None = None
        self.left = np.zeros(SLOTS, int)
        self.faults: list[Fault] = []

    def supervise(self, hang_seconds: float, memory_limit: int, recycle_episodes: int) -> None:
        self.supervision = hang_seconds, memory_limit, recycle_episodes

    def assign(self, slot: int, task: int) -> None:
        raise NotImplementedError

    def take_faults(self) -> list[Fault]:
        faults, self.faults = self.faults, []
        return faults

    def step(self, actions: np.ndarray) -> Outcome:
        episode, age = self.episode.copy(), self.age.copy()
        failed, self.interrupted[:] = self.interrupted.copy(), False
        self.left[failed] = self.delay
        for slot in np.flatnonzero(failed | self.resetting):
            self.age[slot] = episode_length(self.number[slot], episode[slot])
        reward, terminated, truncated = super().step(actions)
        for slot in range(SLOTS):
            if failed[slot] or self.resetting[slot]:
                self.resetting[slot] = self.left[slot] > 0
                self.left[slot] -= 1
            else:
                last = age[slot] == episode_length(self.number[slot], episode[slot])
                self.interrupted[slot] = not last and 0 < age[slot] == self.ends.get(int(episode[slot]))
                self.faults += [FAULT] * bool(self.interrupted[slot])
        stays = self.interrupted | self.resetting
        self.episode[stays], self.age[stays] = episode[stays], age[stays]
        self._show()
        return np.where(stays, 0, reward / 1024).astype(np.float32), terminated & ~stays, truncated & ~stays


def play(engine: CountingEngine, unrolls: int, length: int) -> tuple[list[Trajectory], list[list[Fault]]]:
    env = MultitaskVectorEnv(engine, COUNTING, SEATS, seed=0)
    actor = Actor(env, Policy(CountingNetwork(), SLOTS), Categorical(NUM_ACTIONS), seed=(0, 0))  # type: ignore[arg-type]
    played, faults = [], []
    for _ in range(unrolls):
        played.append(allocate(trajectory_spec(COUNTING, length, SLOTS, STATE_SIZE)))
        actor.unroll(played[-1])
        faults.append(actor.faults)
    return played, faults


ENDS = st.dictionaries(st.integers(0, 9), st.integers(1, 5), max_size=8)


@settings(max_examples=12)
@given(ENDS, st.integers(0, 3))
def test_an_interrupted_episode_is_a_truncated_one_with_more_masked_steps(ends: dict[int, int], delay: int) -> None:
    truncated, _ = play(TruncatingEngine(ends), 1, 60)
    interrupted, faults = play(InterruptedEngine(ends, delay), 8, 9)
    statistics, failures = Statistics(COUNTING.tasks), 0
    for unroll in interrupted:
        statistics.update(unroll)
    for slot in range(SLOTS):
        wanted = {key: value[:, slot].numpy() for key, value in truncated[0].items() if key not in PER_COLUMN}
        column = {key: np.concatenate([unroll[key][:9, slot].numpy() for unroll in interrupted]) for key in wanted}
        failed = column["interrupted"]
        failures += failed.sum()
        after = np.append(False, failed[:-1])
        assert not column["mask"][failed].any() and not column["reward"][failed].any()
        assert not column["terminated"][failed].any() and np.isnan(column["episode_return"][failed]).all()
        for key in ("vector", "instruction", "task"):
            assert np.array_equal(column[key][after], column[key][np.roll(after, -1)][: after.sum()])
        assert (column["last_action"][after] == NUM_ACTIONS).all() and not column["last_reward"][after].any()
        # Without the additional steps of the reset, everything is equal.
        again = np.append(False, ~(column["mask"][1:] | column["mask"][:-1]))
        assert not column["reset"][again].any()
        rest = {key: value[~again] for key, value in column.items()}
        length = min(len(rest["mask"]), 60)
        for key in (
            "vector",
            "instruction",
            "task",
            "reset",
            "last_action",
            "last_reward",
            "reward",
            "mask",
            "terminated",
        ):
            assert np.array_equal(rest[key][:length], wanted[key][:length]), key
        real = rest["mask"][:length]
        assert np.array_equal(rest["action"][:length][real], wanted["action"][:length][real])
        # An interrupted episode has no return.
        broken = np.append(rest["interrupted"][1:length], False)
        expected = np.where(broken, np.nan, wanted["episode_return"][:length])
        np.testing.assert_array_equal(rest["episode_return"][: length - 1], expected[:-1])
        assert interrupted[-1]["episode"][slot] == interrupted[-1]["vector"][9, slot, 1]
    assert [len(found) for found in faults] == [int(unroll["interrupted"].sum()) for unroll in interrupted]
    assert failures == sum(row["interrupted"] for row in statistics.summary(1).values())
    assert sum(task.steps for task in statistics.tasks.values()) == sum(
        int(unroll["mask"].sum()) for unroll in interrupted
    )


@settings(max_examples=6)
@given(ENDS, st.integers(0, 3), st.sampled_from(["mean", "sum"]))
def test_the_learner_learns_the_same_as_from_a_truncation(ends: dict[int, int], delay: int, reduction: str) -> None:
    """Equal losses, PopArt moments and parameters, which include the bootstrap from the last observation."""
    batches = []
    for engine in (TruncatingEngine(ends), InterruptedEngine(ends, delay)):
        # Every slot reaches episode 5; each column ends where it does.
        (unroll,), _ = play(engine, 1, 80)
        ends_at = [int((unroll["vector"][:, slot, 1] == 5).nonzero()[0, 0]) for slot in range(SLOTS)]
        batches.append([padded(unroll, slot, end, 80) for slot, end in enumerate(ends_at)])
    results = []
    for columns in batches:
        config = fake_config(reduction=reduction, optimizer="rmsprop", epsilon=0.1, reward_clip=0.0)
        learner = build_learner(config, READ, fake_network(READ, config))
        batch = concatenate(columns)
        batch["core_state"] = torch.zeros(SLOTS, learner.network.core_state_size)
        results.append((learner, learner.step(batch)))
    (one, metrics), (other, others) = results
    for key, value in metrics.items():
        torch.testing.assert_close(others[key], value, atol=1e-5, rtol=1e-4, msg=key)
    for mine, theirs in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(other.objective.popart.mu, one.objective.popart.mu)
    torch.testing.assert_close(other.objective.popart.nu, one.objective.popart.nu)
    assert other.counters == one.counters and one.counters.steps > 0


def padded(unroll: Trajectory, slot: int, end: int, length: int) -> Trajectory:
    """A slot's column, with all steps from `end` on masked."""
    column = {
        key: value[slot : slot + 1].clone() if key in PER_COLUMN else value[:, slot : slot + 1].clone()
        for key, value in unroll.items()
    }
    column["mask"][end:] = False
    column["terminated"][end:] = False
    column["reward"][end:] = 0
    assert end < length
    return column


def test_interruptions_are_counted_by_task_and_saved() -> None:
    (unroll,), _ = play(InterruptedEngine({1: 1, 2: 2}, 0), 1, 40)
    statistics = Statistics(COUNTING.tasks)
    statistics.update(unroll)
    counted = [int(unroll["interrupted"][unroll["task"][:-1] == task].sum()) for task in range(len(COUNTING.tasks))]
    assert [row["interrupted"] for row in statistics.summary(4).values()] == counted and min(counted) > 0
    again = Statistics(COUNTING.tasks)
    state = statistics.state_dict()
    again.load_state_dict(state)
    assert again.summary(4) == statistics.summary(4)
    for saved in state.values():
        del saved["interrupted"]
    again.load_state_dict(state)
    assert {row["interrupted"] for row in again.summary(4).values()} == {0}
    # Columns from a replay are not counted again.
    spec = trajectory_spec(COUNTING, 40, SLOTS, STATE_SIZE)
    replay = Replay(spec, seed=(0, 0))
    replay.add(unroll, [0])
    assert "interrupted" not in replay.sample(1)


@pytest.mark.parametrize(("runtime", "supervision"), [("serial", None), ("local", (7.0, 512, 9))])
def test_environments_of_the_serial_runtime_are_not_supervised(
    monkeypatch: pytest.MonkeyPatch, runtime: str, supervision: tuple[float, int, int] | None
) -> None:
    engine = InterruptedEngine({}, 0)
    config = fake_config()
    config.runtime = RuntimeConfig(
        name=runtime, slots_per_actor=SLOTS, num_actors=1, hang_seconds=7.0, memory_limit=512, recycle_episodes=9
    )
    monkeypatch.setattr(builder, "make_env", lambda *_: MultitaskVectorEnv(engine, COUNTING, SEATS, seed=0))
    builder.ActorFactory(config=config, env=COUNTING, plan=make_plan(config, COUNTING))(0, StreamPositions(), None)
    assert engine.supervision == supervision


@pytest.mark.parametrize(("processes", "expected"), [(False, (7.0, 512, 9)), (True, (21.0, 0, 0))])
def test_limits_apply_to_the_processes_that_hold_the_environments(
    processes: bool, expected: tuple[float, int, int]
) -> None:
    """With environment processes, limits of the actor would restart it instead of one of them."""
    config = compose_train(
        [
            *("env=gymnasium", "env.tasks=[CartPole-v1]", "context=task", f"env.processes={str(processes).lower()}"),
            *("runtime.hang_seconds=7", "runtime.memory_limit=512", "runtime.recycle_episodes=9"),
        ]
    )
    assert builder.actor_limits(config) == expected
