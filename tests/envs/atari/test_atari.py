from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import gymnasium
import numpy as np
import pytest

from envs.atari.games import GAMES, PRESETS
from envs.atari.suite import JOYSTICK, NUM_ACTIONS, AtariConfig, make_spec, nearest_actions
from envs.spec import Slot, Split
from envs.suites import make_env
from envs.vector import MultitaskVectorEnv
from system.errors import InputError


def environment(
    task: str, slots: int = 1, split: Split = Split.TRAIN, seed: int = 0, **options: object
) -> MultitaskVectorEnv:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    config = AtariConfig(tasks=[task], **options)  # type: ignore[arg-type]
    return make_env(config, make_spec(config), [Slot(task=0, index=index) for index in range(slots)], seed, split)


def truth(task: str, action_repeat: int = 4, stack: int = 4, full: bool = True) -> gymnasium.Env:
    """gymnasium's own preprocessing around ale-py's own environment, without no-ops."""
    ale_py = pytest.importorskip("ale_py")
    gymnasium.register_envs(ale_py)
    env = gymnasium.make(f"ALE/{task}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=full)
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=0, frame_skip=action_repeat)
    return gymnasium.wrappers.FrameStackObservation(env, stack)


def played(env: MultitaskVectorEnv, actions: np.ndarray) -> Iterator[tuple[np.ndarray, float, bool, bool]]:
    """(image, reward, terminated, truncated) of slot 0 at every step."""
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(np.full(env.num_envs, action))
        yield observation["image"][0], float(reward[0]), bool(terminated[0]), bool(truncated[0])


@pytest.mark.parametrize(("task", "action_repeat", "stack", "full"), [("Breakout", 4, 4, False), ("Qbert", 4, 2, True)])
def test_pictures_rewards_and_ends_are_those_of_gymnasiums_preprocessing(
    task: str, action_repeat: int, stack: int, full: bool
) -> None:
    env = environment(task, noop_max=0, action_repeat=action_repeat, frame_stack=stack, full_action_space=full)
    slow = truth(task, action_repeat, stack, full)
    actions = np.random.default_rng(1).integers(0, env.spec_of_suite.action_counts[0], 320)
    # Only the first episode of gymnasium starts with the memory of an emulator that was just switched on, as ours always do.
    wanted, _ = slow.reset()
    np.testing.assert_array_equal(env.reset()[0]["image"][0], np.moveaxis(wanted, 0, -1))
    earned, over = 0.0, False
    for action, (image, reward, terminated, truncated) in zip(actions, played(env, actions), strict=True):
        wanted, wanted_reward, over, _, _ = slow.step(int(action))
        assert (reward, terminated, truncated) == (wanted_reward, over, False)
        if over:  # gymnasium repeats the pictures of the step before, ours are from the end
            break
        np.testing.assert_array_equal(image, np.moveaxis(wanted, 0, -1))
        earned += reward
    env.close()
    assert earned > 0 and over


def test_a_game_begins_with_one_to_noop_max_frames_of_no_action() -> None:
    env = environment("Freeway", slots=6, noop_max=2)
    first = env.reset()[0]["image"]
    slow = truth("Freeway", action_repeat=1)
    slow.reset()
    after = [np.moveaxis(slow.step(0)[0], 0, -1)[..., -1] for _ in range(3)]
    assert not any(np.array_equal(one, other) for one, other in pairwise(after))
    numbers = [next(n for n, wanted in enumerate(after, 1) if np.array_equal(image[..., 0], wanted)) for image in first]
    env.close()
    assert set(numbers) == {1, 2}
    assert (first == first[..., :1]).all(), "the first picture fills the stack"


def test_the_frame_limit_truncates_and_the_next_game_begins() -> None:
    env = environment("Pong", noop_max=0, max_episode_frames=40)
    first = env.reset()[0]["image"].copy()
    for _ in range(3):
        steps = list(played(env, np.zeros(11, np.int32)))
        assert [(terminated, truncated) for _, _, terminated, truncated in steps] == (
            [(False, False)] * 9 + [(False, True), (False, False)]
        )
        np.testing.assert_array_equal(steps[-1][0], first[0])
    env.close()


def game(task: str, split: Split, episodic_life: bool, steps: int = 1500) -> dict[str, np.ndarray]:
    """Two slots of random play, by step: the sum of the picture and all results of a step; `lives` comes from the emulator."""
    env = environment(task, slots=2, split=split, episodic_life=episodic_life)
    env.reset()
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(rng.integers(0, NUM_ACTIONS, 2))
        shown = {
            "image": observation["image"].sum((1, 2)),
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
        }
        lives = np.array([game.unwrapped._emulator.lives() for game in env._engine._envs])  # type: ignore[attr-defined]
        rows.append({key: value.copy() for key, value in (shown | info | {"lives": lives}).items()})
    env.close()
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Breakout", "Seaquest"])
def test_with_episodic_life_the_game_its_return_and_its_length_are_those_of_the_whole_game(task: str) -> None:
    whole, lives = game(task, Split.TRAIN, False), game(task, Split.TRAIN, True)
    for key, value in whole.items():
        if key != "life_lost":
            np.testing.assert_array_equal(lives[key], value, err_msg=key)
    assert not whole["life_lost"].any()
    # A life is lost when the emulator counts one less, except for the last one, which ends the game.
    fell = np.zeros_like(lives["life_lost"])
    fell[1:] = (lives["lives"][1:] < lives["lives"][:-1]) & (lives["lives"][1:] > 0)
    np.testing.assert_array_equal(lives["life_lost"], fell & ~lives["terminated"])
    for slot in range(2):
        ends = np.flatnonzero(lives["terminated"][:, slot])
        assert len(ends) > 1
        for before, end in pairwise([-1, *ends]):
            earned = lives["reward"][before + 1 : end + 1, slot]
            assert lives["episode_return"][end, slot] == earned.sum()
            assert lives["life_lost"][before + 1 : end, slot].sum() >= 2
        np.testing.assert_array_equal(lives["episode"][ends, slot], np.arange(len(ends)))


def test_evaluation_ignores_lives() -> None:
    assert not game("Breakout", Split.EVALUATION, True, steps=300)["life_lost"].any()


def test_sticky_actions_hold_the_action_before_as_often_as_asked() -> None:
    env = environment("Pong", slots=2, noop_max=0, action_repeat=50, repeat_action_probability=0.25)
    env.reset()
    held = []

    class Recorder:
        """Wraps an emulator and records the action of each frame."""

        def __init__(self, emulator: object) -> None:
            self.emulator = emulator

        def __getattr__(self, name: str) -> object:
            return getattr(self.emulator, name)

        def act(self, action: object) -> int:
            held.append(action.value)  # type: ignore[attr-defined]
            return self.emulator.act(action)  # type: ignore[attr-defined, no-any-return]

    for game in env._engine._envs:  # type: ignore[attr-defined]
        game._emulator = Recorder(game._emulator)
    delays = []
    for step in range(60):
        env.step(np.full(2, 2 + step % 2))
        for frames in (held[:50], held[50:]):
            delays.append(next(n for n, action in enumerate(frames) if action == 2 + step % 2))
            assert len(set(frames[delays[-1] :])) == 1
        held.clear()
    env.close()
    # The delay of a new action is geometric, with mean p / (1 - p) = 1/3. The deviation of the estimate is 0.06.
    assert 0.1 < np.mean(delays) < 0.6
    assert delays[::2] != delays[1::2]


def test_joystick_actions_have_the_numbers_of_the_emulator() -> None:
    ale_py = pytest.importorskip("ale_py")
    names = {}
    for number, (right, up, button) in enumerate(JOYSTICK):
        sides = {1: "UP", -1: "DOWN", 0: ""}[up] + {1: "RIGHT", -1: "LEFT", 0: ""}[right]
        names[sides + "FIRE" * button or "NOOP"] = number
    assert names == {name: action.value for name, action in ale_py.Action.__members__.items()}


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    "tasks", [["Pong", "Seaquest", "Skiing"], pytest.param(["atari57"], marks=pytest.mark.exhaustive)]
)
def test_every_game_plays_every_action(tasks: list[str], full: bool) -> None:
    """An action is the emulator's action of that number, or the nearest legal one if the game lacks it, as Skiing does."""
    config = AtariConfig(tasks=tasks, action_repeat=1, frame_stack=1, noop_max=0, full_action_space=full)
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    spec = make_spec(config)
    env = make_env(config, spec, [Slot(task=task, index=0) for task in range(len(spec.tasks))], 0, Split.TRAIN)
    games = env._engine._envs  # type: ignore[attr-defined]
    for task, game, count in zip(spec.tasks, games, spec.action_counts, strict=True):
        emulator, table = game._emulator, game._actions
        legal = [action.value for action in emulator.getLegalActionSet()]
        minimal = [action.value for action in emulator.getMinimalActionSet()]
        numbers = [action.value for action in table]
        assert len(numbers) == count and set(minimal) <= set(legal)
        if not full:
            assert numbers == minimal
        elif task == "Skiing":
            assert legal == [0, 2, 3, 4, 5, 6, 7, 8, 9] and numbers == [0, 0, *range(2, 10), *range(2, 10)]
        else:
            assert numbers == legal == list(range(NUM_ACTIONS))
    env.reset()
    for action in range(NUM_ACTIONS):
        _, reward, *_ = env.step(np.minimum(action, np.array(spec.action_counts) - 1))
        assert np.isfinite(reward).all()
    env.close()


@pytest.mark.parametrize(
    ("legal", "wanted"),
    [
        (range(18), tuple(range(18))),
        ([0], (0,) * 18),
        # Without diagonals two sides are equally near, and the lower number is chosen.
        ([0, 1, 2, 3, 4, 5], (0, 1, 2, 3, 4, 5, 2, 2, 3, 4, 2, 3, 4, 5, 2, 2, 3, 4)),
        # Only up and down, with and without the button.
        ([0, 1, 10, 13], (0, 1, 10, 0, 0, 13, 10, 10, 13, 13, 10, 1, 1, 13, 10, 10, 13, 13)),
    ],
)
def test_an_action_that_a_game_lacks_is_its_nearest_legal_one(legal: list[int], wanted: tuple[int, ...]) -> None:
    assert nearest_actions(legal) == wanted


def test_action_sets() -> None:
    pytest.importorskip("ale_py")
    full, minimal = (
        make_spec(AtariConfig(tasks=["Breakout", "Pong", "Freeway"], full_action_space=full)) for full in (True, False)
    )
    assert full.num_actions == minimal.num_actions == NUM_ACTIONS
    assert full.action_counts == (18, 18, 18) and minimal.action_counts == (4, 6, 3)
    env = environment("Freeway", full_action_space=False)
    assert [action.name for action in env._engine._envs[0]._actions] == ["NOOP", "UP", "DOWN"]  # type: ignore[attr-defined]
    env.close()


@pytest.mark.parametrize("task", ["Alien", "KungFuMaster", "Skiing", "UpNDown", "Qbert"])
def test_the_table_of_games_agrees_with_the_emulator(task: str) -> None:
    env = environment(task, full_action_space=False)
    assert len(env._engine._envs[0]._actions) == GAMES[task].minimal_actions == env.spec_of_suite.action_counts[0]  # type: ignore[attr-defined]
    env.close()


def test_the_table_of_games_agrees_with_the_registry_of_ale_py() -> None:
    ale_py = pytest.importorskip("ale_py")
    gymnasium.register_envs(ale_py)
    assert len(GAMES) == len(PRESETS["atari57"]) == 57
    for task, game in GAMES.items():
        assert gymnasium.spec(f"ALE/{task}-v5").kwargs["game"] == game.rom
        assert ale_py.roms.get_rom_path(game.rom).exists()
        assert game.random != game.human
    assert all(task in GAMES for preset in PRESETS.values() for task in preset)


def test_scores_and_presets_are_in_the_description() -> None:
    pytest.importorskip("ale_py")
    spec = make_spec(AtariConfig(tasks=["atari5", "Pong"]))
    assert spec.tasks == ("BattleZone", "DoubleDunk", "NameThisGame", "Phoenix", "Qbert", "Pong")
    assert (spec.scores["Pong"].random, spec.scores["Pong"].human) == (-20.7, 14.6)
    assert make_spec(AtariConfig()).tasks == ("Breakout",)


@pytest.mark.parametrize("task", ["Qbert", "Solaris"])
def test_an_episode_does_not_depend_on_earlier_ones(task: str) -> None:
    """One game that ale-py does not restore exactly, and one that starts from the contents of memory."""
    config = AtariConfig(tasks=[task], max_episode_frames=160)
    spec = make_spec(config)
    actions = np.random.default_rng(0).integers(0, NUM_ACTIONS, 200)

    def episode(number: int, first: int) -> list[np.ndarray]:
        env = make_env(config, spec, [Slot(task=0, index=0, episode=first)], 0, Split.TRAIN)
        observation, info = env.reset()
        frames: list[np.ndarray] = []
        while info["episode"][0] <= number:
            if info["episode"][0] == number:
                frames.append(observation["image"][0].copy())
            action = actions[len(frames)] if info["episode"][0] == number else actions[-1]
            observation, *_, info = env.step(np.array([action]))
        env.close()
        return frames

    one, other = episode(2, first=0), episode(2, first=2)
    assert len(one) > 20
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "words_in_message"),
    [
        ({"tasks": ["Breakot"]}, "env.tasks=Breakot is no game.*did you mean Breakout"),
        ({"tasks": ["breakout"]}, "did you mean Breakout"),
        ({"tasks": ["CartPole-v1"]}, "env.tasks=CartPole-v1"),
        ({"tasks": ["atari57", "Pong"]}, "Pong more than once"),
        ({"action_repeat": 0}, "env.action_repeat=0 is too small"),
        ({"image_size": 0}, "env.image_size=0"),
        ({"noop_max": -1}, "env.noop_max=-1"),
        ({"max_episode_frames": 30}, "env.max_episode_frames=30 is too small: give 31 or more"),
        ({"frame_stack": 3}, "env.frame_stack=3 is not possible: choose one of 1, 2, 4, 8"),
        ({"repeat_action_probability": 1.0}, "env.repeat_action_probability=1.0"),
        ({"repeat_action_probability": float("nan")}, "env.repeat_action_probability=nan"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], words_in_message: str) -> None:
    with pytest.raises(InputError, match=words_in_message) as error:
        make_spec(AtariConfig(**options))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["ale_py", "cv2"])
def test_the_message_for_a_missing_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else real(name))
    with pytest.raises(InputError, match=r'env=atari needs .*pip install "mimpala\[atari\]"'):
        make_spec(AtariConfig())


def test_checking_a_config_imports_no_engine() -> None:
    pytest.importorskip("ale_py")
    program = (
        "import sys; from envs.suites import make_spec; from envs.atari.suite import AtariConfig;"
        "make_spec(AtariConfig(tasks=['atari57'])); assert not {'ale_py', 'cv2', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_success_is_unknown() -> None:
    env = environment("Breakout", max_episode_frames=100)
    assert not env.spec_of_suite.has_success
    env.reset()
    for _ in range(30):
        *_, info = env.step(np.array([1]))
        assert np.isnan(info["success"]).all()
    env.close()
