"""The suite `gymnasium`: conversion of spaces, and refusals."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import gym_tasks  # noqa: F401  (registers its environments)
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium_cases import bare, config, opened

from envs.gymnasium_ids.suite import GymnasiumConfig, make_task
from envs.seeding import episode_seed
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suites import make_env, make_spec
from system.errors import InputError

ALL = ["Match-v0", "MatchShifted-v0", "MatchFew-v0"]


@pytest.mark.parametrize("task", [*ALL, "Pair-v0", "Point-v0", "ImageAndMore-v0", "Digits-v0", "Fine-v0", "Nested-v0"])
def test_gymnasium_accepts_every_adapted_environment(task: str) -> None:
    settings = config(task)
    spec = make_spec(settings)
    with warnings.catch_warnings():
        # The checker warns about unbounded values and ranges other than [-1, 1], which are allowed here.
        warnings.simplefilter("ignore")
        check_env(make_task(settings, spec, spec.tasks[0]), skip_render_check=True)


def test_discrete_tasks_of_different_sizes_share_one_interface() -> None:
    spec = make_spec(config(*ALL))
    assert (spec.action_kind, spec.num_actions, spec.action_counts) == ("discrete", 4, (3, 4, 2))
    assert spec.observation == {"vector": ArraySpec(shape=(7,), dtype="float32")}
    assert not spec.has_success and not spec.scores
    env = opened(config(*ALL), 3)
    observation, _ = env.reset()
    # Match observes 3 numbers and MatchFew 2, padded with zeros.
    assert observation["vector"][0].tolist() == [*observation["vector"][0, :3], 0, 0, 0, 0]
    assert observation["vector"][0, :3].sum() == observation["vector"][2, :2].sum() == 1


@pytest.mark.parametrize("task", ["Match-v0", "MatchShifted-v0", "Pair-v0", "Point-v0"])
def test_the_best_action_is_the_shown_target(task: str) -> None:
    """With any offset of the spaces: the target is read from the observation and counted from 0."""
    env = opened(config(task))
    spec = env.spec_of_suite
    observation, _ = env.reset()
    for _ in range(12):
        shown = observation["vector"][0]
        if spec.action_kind == "continuous":
            low, high = np.array(spec.action_low), np.array(spec.action_high)
            action = low + (shown + 1) * (high - low) / 2
        elif spec.action_kind == "multi_discrete":
            parts = np.split(shown, np.cumsum(spec.action_sizes)[:-1])
            action = np.array([part.argmax() for part in parts])
        else:
            action = shown.argmax()
        observation, reward, terminated, truncated, _ = env.step(action[None])
        assert reward[0] == pytest.approx(1, abs=1e-5)
        if terminated[0] or truncated[0]:
            observation, *_ = env.step(action[None])


def test_a_time_limit_truncates() -> None:
    env = opened(config("Match-v0", options={"end": 0.0, "max_episode_steps": 3}))
    env.reset()
    ends = [tuple(bool(flags[0]) for flags in env.step(np.zeros(1))[2:4]) for _ in range(8)]
    assert ends == [(False, False), (False, False), (False, True), (False, False)] * 2


def test_cart_pole_equals_that_of_gymnasium() -> None:
    """Step for step, from the same seed."""
    env = opened(config("CartPole-v1"))
    observation, _ = env.reset()
    own = gymnasium.make("CartPole-v1")
    seen, _ = own.reset(seed=episode_seed(0, Split.TRAIN, "CartPole-v1", 0, 0))
    for action in np.random.default_rng(0).integers(0, 2, 12):
        np.testing.assert_array_equal(observation["vector"][0], seen)
        observation, reward, terminated, _, _ = env.step(np.array([action]))
        seen, *outcome = own.step(action)
        assert (reward[0], terminated[0]) == tuple(outcome[:2])
        if terminated[0]:
            break


# Observations


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("Image-v0", {"image": (24, 30, 3)}),
        ("ImageAndMore-v0", {"image": (24, 30, 3), "vector": (7,)}),
        ("TwoImages-v0", {"image": (24, 30, 6)}),
        ("Choice-v0", {"vector": (5,)}),
        ("Choices-v0", {"vector": (5,)}),
        ("Nested-v0", {"vector": (8,)}),
        ("Memory-v0", {"vector": (6,)}),
    ],
)
def test_every_observation_has_a_place(task: str, expected: dict[str, tuple[int, ...]]) -> None:
    env = opened(config(task))
    spec = env.spec_of_suite
    assert {key: array.shape for key, array in spec.observation.items()} == expected
    assert spec.image_kind == ("pixels" if "image" in expected else "none")
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)


def test_observations_are_the_numbers_of_the_environment() -> None:
    env = opened(config("ImageAndMore-v0"))
    env.reset()
    drawn: list[Any] = []
    sample = bare(env).observation_space.sample
    bare(env).observation_space.sample = lambda: drawn.append(sample()) or drawn[-1]
    observation, *_ = env.step(np.zeros(1))
    np.testing.assert_array_equal(observation["image"][0], drawn[0]["look"])
    # By name: a before b, which is one-hot.
    np.testing.assert_array_equal(observation["vector"][0], [*drawn[0]["a"].ravel(), *np.eye(3)[drawn[0]["b"]]])


# Actions


@pytest.mark.parametrize(
    ("task", "action", "expected"),
    [
        ("Switches-v0", [1, 0, 0, 1], [[1, 0], [0, 1]]),
        ("Digits-v0", [1, 2, 0, 4], [[1, 3], [0, 1]]),
        # Single precision rounds 0.3, and its 0.1 is larger than 0.1.
        ("Fine-v0", [0.3, 0.1], [[0.3], [0.1]]),
    ],
)
def test_actions_have_the_form_that_the_environment_takes(task: str, action: list[float], expected: Any) -> None:
    env = opened(config(task))
    env.reset()
    env.step(np.array([action]))
    (taken,) = bare(env).taken
    assert taken.dtype == bare(env).action_space.dtype
    np.testing.assert_allclose(taken, expected, atol=1e-7)


def test_kinds_of_actions() -> None:
    pair, point = make_spec(config("Pair-v0", "PairLong-v0")), make_spec(config("Point-v0", "PointShort-v0"))
    assert (pair.action_sizes, pair.num_actions, pair.action_counts) == ((3, 4), 7, (7, 7))
    assert (point.action_low, point.action_high, point.num_actions) == ((-2.0, 10.0), (2.0, 11.0), 2)


# Wrappers and options


def test_wrappers_of_the_user_are_put_around_in_order() -> None:
    env = opened(config("Match-v0", wrappers=["gym_tasks:Negate", "gymnasium.wrappers:RecordEpisodeStatistics"]))
    assert "RecordEpisodeStatistics<Negate<" in str(env._engine._envs[0])  # type: ignore[attr-defined]
    env.reset()
    assert env.step(np.zeros(1))[1][0] <= 1e-6


def test_wrappers_do_not_print_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    opened(config("Match-v0", wrappers=["gym_tasks:Loud"])).close()
    printed = capfd.readouterr()
    assert printed.out == "" and "hello" in printed.err


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (config("Match-v0", "Point-v0"), r"mixes discrete actions \(gym_tasks:Match-v0\) with continuous ones"),
        (config("Pair-v0", "Digits-v0"), "has another multi_discrete action space"),
        (config("Point-v0", "Fine-v0"), "has another continuous action space"),
        (config("Image-v0", "SmallImage-v0"), r"observes images \[24, 24, 3\] and"),
        (config("Image-v0", "Choice-v0"), r"observes a vector of 5 and gym_tasks:Image-v0 images"),
        (config("Image-v0", pictures="upright"), "env.pictures=upright is unknown"),
        (config("Unbounded-v0"), "continuous actions without bounds"),
        (config("HalfBounded-v0"), "continuous actions without bounds"),
        (config("Huge-v0"), "continuous actions without bounds"),
        (config("Nothing-v0"), r"env.tasks=gym_tasks:Nothing-v0 cannot be made \(NameNotFound"),
        (GymnasiumConfig(tasks=["no_such_module:X-v0"]), r"cannot be made \(ModuleNotFoundError"),
        (GymnasiumConfig(tasks=["CartPole"]), "env.tasks=CartPole cannot be made"),
        (config("Match-v0", options={"colour": 3}), r"cannot be made \(TypeError.*env\.options"),
        (config("Match-v0", options=3), "env.options=3 is no mapping"),
        (config("Match-v0", "Match-v0"), "more than once"),
        (GymnasiumConfig(tasks=[]), "names no task"),
        (config("Match-v0", wrappers=["Negate"]), "env.wrappers=Negate is no class"),
        (config("Match-v0", wrappers=["gym_tasks:Absent"]), r"env.wrappers=gym_tasks:Absent cannot be imported"),
        (config("Match-v0", wrappers=["os:system"]), "env.wrappers=os:system is no subclass of gymnasium.Wrapper"),
        *(
            (config("Match-v0", wrappers=[name]), rf"^env.wrappers={name} normalises by .*{advice}")
            for name, advice in {
                "gymnasium.wrappers:NormalizeObservation": "env.normalize_observation=true",
                "gymnasium.wrappers:NormalizeReward": "learner.reward_transform",
                "gym_tasks:Adapting": "env.normalize_observation=true",
                "gym_tasks:Around": "learner.reward_transform",
            }.items()
        ),
        (
            config("Adapting-v0"),
            "^env.tasks=gym_tasks:Adapting-v0 normalises by Adapting .*env.normalize_observation=true",
        ),
        (
            config("Holding-v0"),
            "^env.tasks=gym_tasks:Holding-v0 normalises by Adapting .*env.normalize_observation=true",
        ),
        (config("AdaptingSpec-v0"), "^env.tasks=gym_tasks:AdaptingSpec-v0 normalises by NormalizeReward .*PopArt"),
        (config("Match-v0", wrappers=["gym_tasks:NeedsMore"]), r"cannot be put around gym_tasks:Match-v0 \(TypeError"),
    ],
)
def test_bad_options_are_refused(settings: GymnasiumConfig, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_spec(settings)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")


def test_a_task_without_pictures_is_refused_only_when_it_is_rendered() -> None:
    env = opened(config("Choice-v0"))
    env.reset()
    with pytest.raises(InputError, match="video=true cannot draw gym_tasks:Choice-v0"):
        env.render()


# Elsewhere


def _play(settings: GymnasiumConfig, spec: EnvSpec) -> list[float]:
    env = make_env(settings, spec, [Slot(task=0, index=0)], 3, Split.TRAIN)
    env.reset()
    return [float(env.step(env.action_space.sample() * 0)[1][0]) for _ in range(5)]


def _play_elsewhere(folder: Path, settings: GymnasiumConfig, spec: EnvSpec) -> list[float]:
    os.chdir(folder)
    return _play(settings, spec)


def test_a_spawned_process_in_another_folder_plays_the_same(tmp_path: Path) -> None:
    settings = config("Point-v0", wrappers=["gym_tasks:Negate"])
    spec = make_spec(settings)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_play_elsewhere, (tmp_path, settings, spec)) == _play(settings, spec)


def test_a_spec_for_more_tasks_fits_each_of_them() -> None:
    """Evaluation plays a subset of the tasks with the interface of all."""
    settings = config("MatchShifted-v0", "Match-v0")
    spec = make_spec(settings)
    few = dataclasses.replace(settings, tasks=settings.tasks[1:])
    assert make_spec(few).observation != spec.observation
    task = make_task(few, spec, settings.tasks[1])
    assert task.reset(seed=0)[0]["vector"].shape == (7,)
