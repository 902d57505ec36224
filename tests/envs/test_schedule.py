"""Assignment of tasks to slots: proportions by counting, and no episode is played twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import walks
from hypothesis import given, settings
from hypothesis import strategies as st
from walks import WALKS

from envs.engines.gymnasium_engine import GymnasiumEngine
from envs.engines.process_engine import ProcessEngine
from envs.schedule import FrameBalance, deal
from envs.spec import Slot, Split
from envs.vector import MultitaskVectorEnv


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.integers(1, 200))
def test_slots_are_assigned_in_proportion_for_every_count(weights: list[float], count: int) -> None:
    slots = deal(weights, count)
    assert len(set(slots)) == count and slots == deal(weights, count + 7)[:count]
    shares = np.array(weights) / sum(weights)
    for task, share in enumerate(shares):
        numbers = [number for chosen, number in slots if chosen == task]
        assert numbers == list(range(len(numbers)))
        # Two tasks may lack a slot at the same time.
        assert share * count - np.log2(len(weights) + 1) < len(numbers) < share * count + 1


@given(st.integers(1, 30), st.integers(1, 100), st.floats(0.1, 10))
def test_equal_weights_alternate(tasks: int, count: int, weight: float) -> None:
    assert deal([weight] * tasks, count) == [(number % tasks, number // tasks) for number in range(count)]


def simulate(lengths: Sequence[int], slots: int, steps: int, before: Sequence[int] | None = None) -> np.ndarray:
    """Steps of each task after `steps` of every slot; resets take one step, which does not count."""
    task = np.arange(slots, dtype=np.int32) % len(lengths)
    balance = FrameBalance(before or [0] * len(lengths), task)
    left, resets = np.array(lengths)[task], np.zeros(slots, bool)
    taken = np.array(before or [0] * len(lengths), float)
    for _ in range(steps):
        for slot in np.flatnonzero(resets):
            task[slot] = balance.choose(slot)
            left[slot] = lengths[task[slot]] + 1
        np.add.at(taken, task[~resets], 1)
        left -= 1
        ended = left == 0
        balance.count(~resets, ended, np.zeros(slots, bool))
        resets = ended
    return taken


@settings(max_examples=15)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 12))
def test_tasks_get_equal_frames_for_any_length_of_episodes(lengths: list[int], slots: int) -> None:
    taken = simulate(lengths, slots, 1500)
    assert taken.max() - taken.min() <= 3 * max(lengths)


def test_an_earlier_deficit_is_compensated() -> None:
    taken = simulate((20, 20, 20), 6, 1500, before=(3000, 0, 1000))
    assert taken.max() - taken.min() <= 60


ENGINES = {"here": GymnasiumEngine, "processes": ProcessEngine}
SLOTS = [Slot(task=number % 3, index=number) for number in range(4)]


def play(
    engine: str, slots: list[Slot], steps: int, before: Sequence[int] = (0, 0, 0)
) -> tuple[np.ndarray, list[tuple[int, int]], MultitaskVectorEnv]:
    """Steps of each task, the (task, seed) of every episode, and the closed environment."""
    env = MultitaskVectorEnv(ENGINES[engine](walks.make_walk, WALKS, slots, Split.TRAIN), WALKS, slots, 1)
    env.balance_frames(before)
    observation, info = env.reset()
    taken, episodes = np.zeros(3, int), []
    ended, task, episode = np.zeros(len(slots), bool), observation["task"].copy(), info["episode"].copy()
    began = np.ones(len(slots), bool)
    for _ in range(steps):
        seen = observation["vector"]
        assert (seen[began, 3] == 0).all()
        episodes += [
            (int(number), (int(high) << 16) + int(low))
            for number, (high, low) in zip(task[began], seen[began, 1:3], strict=True)
        ]
        observation, _, terminated, truncated, info = env.step(np.zeros(len(slots), np.int32))
        np.add.at(taken, task[~ended], 1)
        # The last observation belongs to the played task.
        assert (observation["task"] == task)[~ended].all()
        assert (info["episode"] == episode + ended).all()
        began, ended = ended, terminated | truncated
        task, episode = observation["task"].copy(), info["episode"].copy()
    env.close()
    return taken, episodes, env


def test_slots_change_their_tasks_and_no_episode_is_played_twice() -> None:
    taken, episodes, env = play("here", SLOTS, 1500)
    assert taken.max() - taken.min() <= 3 * 2 * walks.MEAN_LENGTHS["long"]
    # A fixed quarter or half of the slots would have given this:
    assert taken.max() < 1.1 * taken.mean()
    assert len(set(episodes)) == len(episodes)
    last = env._episode
    resumed = [replace(slot, episode=int(episode) + 1) for slot, episode in zip(SLOTS, last, strict=True)]
    more, others, _ = play("here", resumed, 300, before=taken.tolist())
    assert not set(episodes) & set(others)
    total = taken + more
    assert total.max() - total.min() <= 3 * 2 * walks.MEAN_LENGTHS["long"]


@pytest.mark.usefixtures("processes_are_kept")
def test_processes_change_their_tasks_as_one_process_does() -> None:
    here, processes = (play(engine, SLOTS, 200)[:2] for engine in ENGINES)
    assert here[0].tolist() == processes[0].tolist() and here[1] == processes[1]
    assert len({task for task, _ in here[1]}) == 3


def test_reset_undoes_every_change() -> None:
    env = MultitaskVectorEnv(GymnasiumEngine(walks.make_walk, WALKS, SLOTS, Split.TRAIN), WALKS, SLOTS, 1)
    env.balance_frames([10_000, 0, 10_000])
    lives: list[list[Any]] = []
    for _ in range(2):
        observation, _ = env.reset()
        frames = [observation["task"].tolist()]
        for _ in range(100):
            observation = env.step(np.zeros(4, np.int32))[0]
            frames.append(observation["task"].tolist())
        lives.append(frames)
    assert lives[0] == lives[1]
    assert lives[0][0] == [0, 1, 2, 0] and lives[0][-1] == [1, 1, 1, 1]
    env.close()
