"""The suite `metaworld` on envpool."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from envs.envpool_families.metaworld import PRESETS, TASKS, MetaworldConfig, env_id
from envs.spec import Slot, Split
from envs.suites import make_env, make_spec
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

pytest.importorskip("envpool")

HAND, GOAL = slice(0, 3), slice(36, 39)


def opened(
    tasks: list[str], slots: int = 1, seed: int = 0, split: Split = Split.TRAIN, steps: int = 500
) -> MultitaskVectorEnv:
    config = MetaworldConfig(tasks=tasks, max_episode_steps=steps)
    spec = make_spec(config)
    seats = [Slot(task=n % len(spec.tasks), index=n // len(spec.tasks)) for n in range(slots)]
    return make_env(config, spec, seats, seed, split)


def test_every_task_is_registered_and_every_preset_names_tasks() -> None:
    import envpool

    registered = {name for name in envpool.list_all_envs() if name.startswith("MetaWorld/")}
    assert registered == {env_id(task) for task in TASKS}
    assert {name: len(tasks) for name, tasks in PRESETS.items()} == {"mt10": 10, "mt25": 25, "mt50": 50}
    assert all(len(set(tasks)) == len(tasks) and set(tasks) <= set(TASKS) for tasks in PRESETS.values())


def test_the_goal_is_visible_and_drawn_for_every_episode() -> None:
    with closing(opened(["reach-v3"], slots=3, steps=2)) as env:
        goals = [env.reset()[0]["vector"][:, GOAL].copy()]
        for _ in range(6):
            observation, _, _, truncated, info = env.step(np.zeros((3, 4), np.float32))
            if (info["episode"] == len(goals)).all():
                goals.append(observation["vector"][:, GOAL].copy())
            assert truncated.all() == (info["episode_length"] == 2).all()
    drawn = np.concatenate(goals)
    assert len(drawn) == 9 and len(np.unique(drawn, axis=0)) == 9 and (drawn[:, 2] > 0).all()


def test_success_counts_at_any_step_and_the_episode_lasts_until_its_limit() -> None:
    """The first slot reaches the goal and leaves it, the second never moves."""
    with closing(opened(["reach-v3"], slots=2, steps=120)) as env:
        observation, _ = env.reset()
        nearest = np.inf
        for step in range(120):
            hand, goal = observation["vector"][0, HAND], observation["vector"][0, GOAL]
            nearest = min(nearest, float(np.linalg.norm(hand - goal)))
            wanted = 10 * (goal - hand) if step < 80 else np.ones(3)
            actions = np.zeros((2, 4), np.float32)
            actions[0, :3] = np.clip(wanted, -1, 1)
            observation, reward, terminated, truncated, info = env.step(actions)
        last = np.linalg.norm(observation["vector"][0, HAND] - observation["vector"][0, GOAL])
        assert nearest < 0.05 < last
        assert truncated.all() and not terminated.any() and info["success"].tolist() == [1, 0]
        _, reward, _, _, _ = env.step(np.zeros((2, 4), np.float32))
        assert (reward == 0).all()


def first_observations(seed: int, resets: int, split: Split = Split.TRAIN) -> list[np.ndarray]:
    """The first observations of `resets` episodes, 2 slots of each task of mt10."""
    with closing(opened(["mt10"], slots=20, seed=seed, split=split, steps=1)) as env:
        seen = [env.reset()[0]["vector"].copy()]
        while 20 * len(seen) < resets:
            env.step(np.zeros((20, 4), np.float32))
            seen.append(env.step(np.zeros((20, 4), np.float32))[0]["vector"].copy())
    return seen


@pytest.mark.parametrize("resets", [40, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_resets_with_equal_seeds_are_equal(resets: int) -> None:
    first, again, other, evaluation = (
        np.stack(first_observations(*arguments))
        for arguments in ((3, resets), (3, resets), (4, 40), (3, 40, Split.EVALUATION))
    )
    assert np.count_nonzero(first != again) == 0
    for one in (other, evaluation):
        assert (first[:2] != one).any(axis=(0, 2)).all(), "a slot draws the same with another seed or split"


def test_unknown_tasks_and_options_are_refused() -> None:
    with pytest.raises(InputError, match=r"reach-v2.*reach-v3"):
        make_spec(MetaworldConfig(tasks=["reach-v2"]))
    with pytest.raises(InputError, match=r"env\.max_episode_steps=0 is too small"):
        make_spec(MetaworldConfig(max_episode_steps=0))
    with pytest.raises(InputError, match=r"env\.threads=0 is too small"):
        make_spec(MetaworldConfig(threads=0))
