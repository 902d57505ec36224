from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs.dmlab2d.suite import ACTION_SETS, CELLS, COMPONENTS, LEVELS, DMLab2DConfig, make_level, make_spec
from envs.seeding import episode_seed
from envs.spec import Slot, Split
from envs.suites import make_env
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

CELL = 2
NOTHING = (0, 1, 0, 0)


def environment(task: str, slots: int = 1, **options: Any) -> MultitaskVectorEnv:
    pytest.importorskip("dmlab2d")
    config = DMLab2DConfig(tasks=[task], **{"cell_size": CELL, **options})
    return make_env(config, make_spec(config), [Slot(task=0, index=index) for index in range(slots)], 0, Split.TRAIN)


def engine(task: str, **settings: str) -> Any:
    """The engine with only the task's settings."""
    dmlab2d = pytest.importorskip("dmlab2d")
    files = pytest.importorskip("dmlab2d.runfiles_helper").find()
    level = LEVELS[task]
    return dmlab2d.Lab2d(files, {"levelName": level.script, **level.settings, **settings})


def truth(task: str, seed: int, actions: Sequence[Sequence[int]]) -> tuple[list[np.ndarray], list[float], bool]:
    """Pictures, rewards and ends of the level, played on the engine directly. `actions` are choices of COMPONENTS."""
    level, lab = LEVELS[task], engine(task, spriteSize=str(CELL))
    names = lab.action_discrete_names()
    lab.start(0, seed=seed)
    pictures, rewards = [np.array(lab.observation(level.picture))], []
    for move, turn, *fires in actions:
        own = [move, turn - 1, *fires][: len(level.actions)]
        lab.act_discrete(np.array([*own, *[0] * (len(names) - len(own))], np.int32))
        status, reward = lab.advance()
        pictures.append(np.array(lab.observation(level.picture)))
        rewards.append(float(lab.observation(f"{level.player}REWARD") if level.player else reward))
        if status.name == "TERMINATED":
            return pictures, rewards, True
    return pictures, rewards, False


@pytest.mark.parametrize("task", LEVELS)
def test_the_table_of_levels_agrees_with_the_engine(task: str) -> None:
    level, lab = LEVELS[task], engine(task, spriteSize="1")
    names = lab.action_discrete_names()
    known = len(level.actions)
    bounds = [(spec["min"], spec["max"]) for spec in map(lab.action_discrete_spec, names[:known])]
    assert names[:known] == [level.player + name for name in level.actions]
    assert [high - low + 1 for low, high in bounds] == list(COMPONENTS[:known])
    assert [low for low, _ in bounds] == [0, -1, 0, 0][:known]
    others = {name.split(".")[0] for name in names[known:]}
    assert others == ({"2"} if level.script == "running_with_scissors" else set())
    assert lab.read_property("settings.episodeLengthFrames") == str(level.frames)
    assert max(lab.observation_spec(level.picture)["shape"][:2]) <= CELLS


@pytest.mark.parametrize("task", LEVELS)
def test_pictures_rewards_and_ends_are_the_engines(task: str) -> None:
    env = environment(task, actions="multi_discrete", max_episode_frames=60)
    rng = np.random.default_rng(0)
    for episode in range(2):
        actions = rng.integers(0, COMPONENTS, (60, 4))
        image = env.reset()[0]["image"] if episode == 0 else env.step(actions[:1])[0]["image"]
        pictures, rewards, over = truth(task, episode_seed(0, Split.TRAIN, task, 0, episode), actions)
        np.testing.assert_array_equal(image[0], centred(pictures[0]))
        for number, (picture, reward) in enumerate(zip(pictures[1:], rewards, strict=True), 1):
            seen, earned, terminated, truncated, info = env.step(actions[number - 1 : number])
            np.testing.assert_array_equal(seen["image"][0], centred(picture))
            assert earned[0] == np.float32(reward)
            last = number == len(rewards)
            assert (terminated[0], truncated[0]) == (last and over, last and not over)
        assert info["episode_return"][0] == pytest.approx(sum(rewards), rel=1e-5)
    env.close()


def centred(picture: np.ndarray) -> np.ndarray:
    missing = CELLS * CELL - np.array(picture.shape[:2])
    return np.pad(picture, [*((side // 2, side - side // 2) for side in missing), (0, 0)])


def test_rewards_belong_to_one_player() -> None:
    """The engine's reward is the sum over all players, which is always 0 here."""
    env = environment("running_with_scissors", slots=8)
    env.reset()
    rng = np.random.default_rng(0)
    assert any(env.step(rng.integers(0, 8, 8))[1].any() for _ in range(1000))
    env.close()


def test_a_solved_level_terminates_and_the_time_limit_truncates(monkeypatch: pytest.MonkeyPatch) -> None:
    easy = LEVELS["pushbox"]._replace(settings={"numBoxes": "1", "roomSteps": "5"})
    monkeypatch.setitem(LEVELS, "pushbox", easy)
    env = environment("pushbox", slots=4)
    env.reset()
    rng = np.random.default_rng(0)
    ends: set[tuple[bool, float, bool]] = set()
    for _ in range(240):
        if len(ends) > 1:
            break
        _, reward, terminated, truncated, info = env.step(rng.integers(0, 5, 4))
        for slot in np.flatnonzero(terminated | truncated):
            ends.add((bool(terminated[slot]), float(info["success"][slot]), bool(reward[slot] > 0)))
            assert terminated[slot] or info["episode_length"][slot] == easy.frames
    env.close()
    assert ends == {(True, 1.0, True), (False, 0.0, False)}
    assert not make_spec(DMLab2DConfig(tasks=["pushbox", "chase_eat"])).has_success


def test_action_sets_mean_the_same_in_every_level() -> None:
    """A level uses the first ones, and they do not use components that it lacks."""
    assert len(set(ACTION_SETS["single"])) == 9 and len(set(ACTION_SETS["product"])) == np.prod(COMPONENTS)
    assert set(ACTION_SETS["single"]) <= set(ACTION_SETS["product"])
    assert all(sum(one != none for one, none in zip(a, NOTHING, strict=True)) <= 1 for a in ACTION_SETS["single"])
    for name, counts in {"single": (5, 8, 9), "product": (5, 30, 60)}.items():
        spec = make_spec(DMLab2DConfig(tasks=["pushbox", "commons_harvest", "clean_up"], actions=name))
        assert spec.action_counts == counts and spec.num_actions == counts[-1] and spec.action_kind == "discrete"
        for count, known in zip(counts, (1, 3, 4), strict=True):
            assert all(action[known:] == NOTHING[known:] for action in ACTION_SETS[name][:count])
        assert ACTION_SETS[name][0] == NOTHING


@pytest.mark.parametrize("name", ["single", "product"])
def test_a_discrete_action_is_its_components(name: str) -> None:
    count = len(ACTION_SETS[name])
    numbers = np.random.default_rng(1).permutation(np.resize(np.arange(count), 60))
    vectors = np.array(ACTION_SETS[name])[numbers]
    with_numbers = environment("clean_up", actions=name)
    with_vectors = environment("clean_up", actions="multi_discrete")
    assert with_vectors.spec_of_suite.action_kind == "multi_discrete"
    assert with_vectors.spec_of_suite.num_actions == sum(COMPONENTS)
    with_numbers.reset(), with_vectors.reset()
    for number, vector in zip(numbers, vectors, strict=True):
        one, other = with_numbers.step(np.array([number])), with_vectors.step(vector[None])
        np.testing.assert_array_equal(one[0]["image"], other[0]["image"])
        assert one[1] == other[1]
    with_numbers.close(), with_vectors.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("actions", ACTION_SETS)
def test_the_checker_of_gymnasium_passes(actions: str) -> None:
    pytest.importorskip("dmlab2d")
    for task in ("chase_eat", "running_with_scissors"):
        env = make_level(DMLab2DConfig(cell_size=CELL, actions=actions), task)
        check_env(env)
        check_env(env.unwrapped)
        env.close()


def test_it_plays_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = environment("clean_up", cell_size=3)
    assert env.reset()[0]["image"].shape == (1, 33, 33, 3)
    assert env.render(0).shape == (21 * 3, 30 * 3, 3), "the whole map"
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["puchbox"]}, "env.tasks=puchbox is no level or preset of suite dmlab2d: did you mean pushbox?"),
        ({"tasks": ["zzz"]}, "env.tasks=zzz is no level or preset of suite dmlab2d: presets are starter, levels, all?"),
        ({"tasks": []}, "env.tasks=[] names no task"),
        ({"actions": "sticks"}, "env.actions=sticks is unknown: choose one of single, product, multi_discrete."),
        ({"cell_size": 0}, "env.cell_size=0 is too small: give 1 or more."),
        ({"max_episode_frames": -1}, "env.max_episode_frames=-1 is too small: give 0 or more."),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        make_spec(DMLab2DConfig(**options))
    assert str(error.value).startswith(message)


def test_the_message_for_a_missing_engine_has_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'env=dmlab2d needs dmlab2d, .*: pip install "mimpala\[dmlab2d\]"\.'):
        make_spec(DMLab2DConfig())
