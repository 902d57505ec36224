"""Environments with unusual behaviour are played. Environments that violate their interface are refused before a run starts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gym_oddities  # noqa: F401  (registers its environments)
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium_cases import opened

from envs.engines import foreign_code
from envs.gymnasium_ids.suite import GymnasiumConfig
from envs.suites import make_spec
from system.errors import InputError


def config(task: str, **options: Any) -> GymnasiumConfig:
    return GymnasiumConfig(tasks=[f"gym_oddities:{task}-v0"], **options)


def refusal(settings: GymnasiumConfig) -> str:
    with pytest.raises(InputError) as caught:
        make_spec(settings)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and f"env.tasks={settings.tasks[0]} " in text
    return text


@pytest.mark.filterwarnings("ignore:close")
def test_unusual_behaviour_changes_nothing() -> None:
    env = opened(config("Unusual"), 2)
    env.reset()
    rewards, ends = [], []
    for _ in range(11):
        _, reward, terminated, _, info = env.step(np.array([0, 2]))
        rewards.append(reward.tolist())
        ends.append(bool(terminated[0]))
    assert rewards == [[1.5, 1.5] if step % 6 < 5 else [0.0, 0.0] for step in range(11)]
    assert ends == [step % 6 == 4 for step in range(11)] and info["episode_length"].tolist() == [5, 5]
    taken = env._engine._envs[1].unwrapped.taken  # type: ignore[attr-defined]
    assert type(taken) is np.int64 and taken == 7
    with pytest.warns(RuntimeWarning, match=r"close\(\) of an environment failed \(RuntimeError: closed already\)"):
        env.close()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Box(-1, 1, (2, 2), np.float64),
        spaces.Box(-1, 1, (2,), np.float32),
    ],
)
def test_actions_are_what_the_space_would_sample(space: Any) -> None:
    env = opened(config("Takes", options={"space": space}))
    env.reset()
    env.step(env.action_space.sample())
    taken = env._engine._envs[0].unwrapped.taken  # type: ignore[attr-defined]
    assert type(taken) is type(space.sample()) and taken.dtype == space.dtype and space.contains(taken)


def test_returned_arrays_are_copied() -> None:
    env = opened(config("Same"))
    first = env.reset()[0]["vector"].copy()
    second = env.step(np.zeros(1))[0]["vector"]
    assert (second == first + 1).all()


def test_a_close_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_code, "_CLOSE_SECONDS", 0.05)
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match="did not end within"):
        opened(config("NeverCloses"), 2).close()
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("task", ["Stays", "Removes"])
def test_environments_have_their_own_working_directory(task: str) -> None:
    here = os.getcwd()
    env = opened(config(task))
    env.reset()
    for _ in range(13):
        assert os.getcwd() == here
        env.step(np.zeros(1))
    env.close()
    assert os.getcwd() == here


OUTDATED = pytest.mark.parametrize(
    ("task", "message"),
    [
        ("OldReset", "returns from reset an observation without an info, as environments for gym before 0.26 do"),
        ("OldSeed", "takes no seed in reset"),
        ("NoOptions", "takes no options in reset"),
        ("OldStep", "does not return 5 values from step"),
        ("OwnUnpacking", r"fails at its first reset or step, 3 times out of 3 (ValueError: not enough values"),
        ("FailsAtOnce", "fails at its first reset or step, 3 times out of 3 (KeyError: 'a missing thing')"),
    ],
)


@OUTDATED
def test_another_interface_is_refused_before_a_run_begins(task: str, message: str) -> None:
    text = refusal(config(task))
    assert message in text and "reset(seed=, options=) -> (observation, info)" in text


@pytest.mark.parametrize(
    ("task", "message"),
    [("OldStep", "does not return 5 values from step"), ("FailsAtOnce", "fails at its first reset or step, 3 times")],
)
def test_another_interface_is_refused_with_processes_too(task: str, message: str) -> None:
    assert message in refusal(config(task, processes=True))


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("at", ["reset", "step"])
def test_a_wrong_shape_is_refused_before_a_run_begins(at: str, processes: bool) -> None:
    options = {"space": spaces.Box(-1, 1, (3,)), "seen": np.zeros(2), "at": at}
    text = refusal(config("Returns", options=options, processes=processes))
    assert f"returns from {at} an array [2] where its observation space declares an array [3]" in text


@pytest.mark.parametrize(
    ("reward", "found"), [(np.zeros(2), r"an array [2]"), (None, "NoneType"), ("1", "str"), ([1, [2]], "list")]
)
def test_a_reward_is_one_number(reward: Any, found: str) -> None:
    options = {"space": spaces.Box(-1, 1, (3,)), "seen": np.zeros(3), "reward": reward}
    assert f"returns from step {found} for reward" in refusal(config("Returns", options=options))


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.int64(1), np.array(1.0), np.array([[1]]), [1.0]])
def test_numbers_may_have_any_type(reward: Any) -> None:
    options = {"space": spaces.Box(-1, 1, (3,)), "seen": np.zeros(3), "reward": reward}
    env = opened(config("Returns", options=options))
    env.reset()
    assert env.step(np.zeros(1))[1][0] == 1


def test_a_shape_that_changes_later_is_an_input_error() -> None:
    env = opened(config("Late"))
    env.reset()
    with pytest.raises(InputError, match=r"returns from step an array \[2\] where"):
        for _ in range(3):
            env.step(np.zeros(1))


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (0,)), spaces.Box(-1, 1, (2, 0))])
def test_empty_actions_are_refused(space: Any) -> None:
    assert "takes no action" in refusal(config("Takes", options={"space": space}))


def test_rendered_frames_may_have_any_form_or_be_missing() -> None:
    env = opened(config("Draws", options={"drawn": np.full((20, 20, 4), 7, np.uint8)}))
    env.reset()
    assert env.render().shape == (20, 20, 3) and (env.render() == 7).all()
    env = opened(config("Draws", options={"drawn": None}))
    env.reset()
    with pytest.raises(InputError, match="offers no rgb_array"):
        env.render()


def test_a_probe_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_spec(config("Moves"))
    assert Path.cwd() == tmp_path and not list(tmp_path.iterdir())
