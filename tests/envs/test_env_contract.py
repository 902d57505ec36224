"""The contract of `MultitaskVectorEnv`, checked for every suite and engine."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import walks
from gymnasium.vector import AutoresetMode

from envs.atari.suite import AtariConfig
from envs.babyai.suite import BabyAIConfig
from envs.conditional.suite import ConditionalConfig
from envs.dmlab2d.suite import DMLab2DConfig
from envs.dmlab30.config import DMLab30Config
from envs.engines.base import WRITTEN_IN_PLACE
from envs.envpool_families.metaworld import MetaworldConfig
from envs.envpool_families.procgen import ProcgenConfig
from envs.gymnasium_ids.suite import GymnasiumConfig
from envs.spec import Slot, Split
from envs.suite import EnvConfig, Suite
from envs.suites import SUITES, make_env, make_spec
from envs.vector import MultitaskVectorEnv
from envs.vizdoom.suite import VizdoomConfig

# An order of slots that no engine would choose.
TASKS_OF_SLOTS = (1, 0, 1, 2, 0, 2, 1)
LEVELS = ["BabyAI-GoToLocalS5N2-v0", "BabyAI-GoToLocalS6N4-v0", "MiniGrid-LavaGapS5-v0"]


def babyai(engine: str, **options: Any) -> Callable[[], EnvConfig]:
    def config() -> EnvConfig:
        pytest.importorskip(engine)
        return BabyAIConfig(tasks=LEVELS, engine=engine, **options)

    return config


def atari() -> EnvConfig:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    # Small and with short games, because emulating a frame takes as long as many steps of the other suites.
    options: dict[str, Any] = {"action_repeat": 1, "max_episode_frames": 120, "noop_max": 8, "image_size": 42}
    return AtariConfig(tasks=["Freeway", "SpaceInvaders", "Pong"], repeat_action_probability=0.25, **options)


def vizdoom() -> EnvConfig:
    pytest.importorskip("vizdoom")
    pytest.importorskip("cv2")
    # The scenarios with the shortest episodes; a game's process costs as much as hundreds of steps.
    tasks = ["predict_position", "basic", "deadly_corridor"]
    return VizdoomConfig(tasks=tasks, action_repeat=12, image_size=[30, 40], full_action_space=True, variables=True)


def dmlab2d() -> EnvConfig:
    pytest.importorskip("dmlab2d")
    tasks = ["clean_up", "chase_eat", "running_with_scissors"]
    return DMLab2DConfig(tasks=tasks, cell_size=2, max_episode_frames=60)


def dmlab30(second: str = "language_select_described_object", **options: Any) -> EnvConfig:
    # On the fake engine, with long steps, so that episodes end.
    levels = ["rooms_select_nonmatching_object", second, "rooms_keys_doors_puzzle"]
    options |= {"width": 32, "height": 24, "processes": False}
    return DMLab30Config(tasks=levels, action_repeat=60, truncate_at_time_limit=True, **options)


def metaworld() -> EnvConfig:
    pytest.importorskip("envpool")
    return MetaworldConfig(tasks=["reach-v3", "drawer-open-v3", "push-v3"], max_episode_steps=25)


def gymnasium(*names: str) -> Callable[[], EnvConfig]:
    return lambda: GymnasiumConfig(tasks=[f"gym_tasks:{name}-v0" for name in names])


CASES: dict[str, Callable[[], EnvConfig]] = {
    "envpool": babyai("envpool"),
    "minigrid": babyai("minigrid"),
    "minigrid-holdout": babyai("minigrid", holdout_fraction=0.5),
    "atari": atari,
    "vizdoom": vizdoom,
    "dmlab2d": dmlab2d,
    "dmlab30": dmlab30,
    "dmlab30-fresh": lambda: dmlab30(fresh_engine=True),
    "metaworld": metaworld,
    "procgen": lambda: ProcgenConfig(tasks=["bossfight", "dodgeball", "starpilot"]),
    "gymnasium-discrete": gymnasium("Match", "MatchShifted", "MatchFew"),
    "gymnasium-multi-discrete": gymnasium("Pair", "PairShort", "PairLong"),
    "gymnasium-continuous": gymnasium("Point", "PointShort", "PointLong"),
    "conditional-map": lambda: ConditionalConfig(tasks=["map-0", "map-1", "map-2"]),
    "conditional-memory": lambda: ConditionalConfig(tasks=["memory-0", "map-3", "memory-1"]),
    "conditional-image": lambda: ConditionalConfig(tasks=["memory-0", "map-3", "memory-1"], observation="image"),
    "conditional-blend": lambda: ConditionalConfig(tasks=["blend-4", "map-3", "blend-2"], holdout=["0+2", "1"]),
    "processes": lambda: EnvConfig(name="walks", tasks=[]),
}
SEEDS_FIRST_EPISODE = ("envpool", "metaworld", "procgen")
SEEDS_EACH_EPISODE = {case: make for case, make in CASES.items() if case not in SEEDS_FIRST_EPISODE} | {
    # Without fresh engines, episodes of language levels depend on earlier ones.
    "dmlab30": lambda: dmlab30("rooms_exploit_deferred_effects_train")
}


@pytest.fixture(autouse=True)
def suite_of_processes(monkeypatch: pytest.MonkeyPatch, processes_are_kept: None) -> None:
    """Adds a suite whose only engine is ProcessEngine."""
    suite = Suite(EnvConfig, {}, walks.make_spec, walks.make_engine)
    monkeypatch.setitem(SUITES, "walks", suite)


@pytest.fixture(params=CASES)
def config(request: pytest.FixtureRequest) -> EnvConfig:
    if request.param == "procgen":
        request.getfixturevalue("newer_envpool")
    return CASES[request.param]()


def slots_at(episode: int = 0, first_index: int = 0) -> list[Slot]:
    indices = [first_index + TASKS_OF_SLOTS[:place].count(task) for place, task in enumerate(TASKS_OF_SLOTS)]
    return [Slot(task=task, index=index, episode=episode) for task, index in zip(TASKS_OF_SLOTS, indices, strict=True)]


@contextmanager
def opened(
    config: EnvConfig, slots: list[Slot] | None = None, seed: int = 7, split: Split = Split.TRAIN
) -> Iterator[MultitaskVectorEnv]:
    env = make_env(config, make_spec(config), slots or slots_at(), seed, split)
    yield env
    env.close()


def actions_for(env: MultitaskVectorEnv, steps: int) -> np.ndarray:
    """Random actions that exist in every slot's task."""
    spec = env.spec_of_suite
    if spec.action_kind != "discrete":
        env.action_space.seed(0)
        return np.stack([env.action_space.sample() for _ in range(steps)])
    counts = np.array([spec.action_counts[slot.task] for slot in env.slots])
    return np.random.default_rng(0).integers(0, counts, (steps, env.num_envs))


def play(env: MultitaskVectorEnv, steps: int) -> list[dict[str, Any]]:
    """All results of a step, copied, because buffers are reused."""
    observation, info = env.reset()
    frames = [{"observation": copied(observation), "info": copied(info)}]
    for action in actions_for(env, steps):
        observation, reward, terminated, truncated, info = env.step(action)
        arrays = copied({"reward": reward, "terminated": terminated, "truncated": truncated})
        frames.append({"observation": copied(observation), "info": copied(info), **arrays})
    return frames


def copied(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value.copy() for key, value in arrays.items()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def test_shapes_types_and_spaces(config: EnvConfig) -> None:
    with opened(config) as env:
        size = len(TASKS_OF_SLOTS)
        assert env.num_envs == size
        assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
        spec = env.spec_of_suite
        if spec.action_kind == "discrete":
            assert env.single_action_space.n == spec.num_actions
        else:
            sizes, low, high = spec.action_sizes, spec.action_low, spec.action_high
            kinds = {"multi_discrete": "int32", "continuous": "float32"}
            assert env.single_action_space.dtype == kinds[spec.action_kind]
            assert env.single_action_space.shape == (len(sizes) or len(low),) == (len(sizes) or len(high),)
        for number, frame in enumerate(play(env, 60)):
            observation, info = frame["observation"], frame["info"]
            assert env.observation_space.contains(observation)
            assert observation.keys() == env.single_observation_space.keys()
            assert observation["task"].dtype == np.int32 and tuple(observation["task"]) == TASKS_OF_SLOTS
            for key, array in env.spec_of_suite.observation.items():
                assert observation[key].shape == (size, *array.shape) and observation[key].dtype == array.dtype
            dtypes = {
                "episode_return": "f4",
                "episode_length": "i4",
                "success": "f4",
                "episode": "i8",
                "resetting": "?",
                "interrupted": "?",
                "life_lost": "?",
            }
            assert {key: value.dtype for key, value in info.items()} == dtypes
            assert not info["resetting"].any()  # the patience is infinite
            assert not info["interrupted"].any()
            assert all(value.shape == (size,) for value in info.values())
            if number:
                assert frame["reward"].dtype == np.float32 and frame["reward"].shape == (size,)
                assert frame["terminated"].dtype == bool and frame["truncated"].dtype == bool
                assert not (frame["terminated"] & frame["truncated"]).any()


def test_the_step_after_an_end_is_the_reset_statistics_equal_a_naive_recount_and_nothing_is_printed(
    config: EnvConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    with opened(config) as env:
        frames = play(env, 250)
        knows_success = env.spec_of_suite.has_success
    assert capfd.readouterr().out == ""
    ended_somewhere = 0
    for slot in range(len(TASKS_OF_SLOTS)):
        total, length, episode, ended = 0.0, 0, 0, False
        for frame in frames[1:]:
            reward, info = frame["reward"][slot], {key: value[slot] for key, value in frame["info"].items()}
            if ended:
                total, length, episode, ended = 0.0, 0, episode + 1, False
                assert reward == 0 and not frame["terminated"][slot] and not frame["truncated"][slot]
            else:
                total, length = total + float(reward), length + 1
                ended = bool(frame["terminated"][slot] or frame["truncated"][slot])
            assert info["episode"] == episode
            if ended:
                ended_somewhere += 1
                assert info["episode_return"] == pytest.approx(total)
                assert info["episode_length"] == length
                won = float(frame["terminated"][slot] and reward > 0) if knows_success else np.nan
                if isinstance(config, MetaworldConfig):
                    assert info["success"] in (0, 1)
                else:
                    np.testing.assert_equal(info["success"], np.float32(won))
            else:
                assert np.isnan(info["episode_return"]) and np.isnan(info["success"]) and info["episode_length"] == 0
    assert ended_somewhere > 10


def test_write_into_receives_complete_observations(config: EnvConfig) -> None:
    """New arrays with other contents at every step, as in an actor's trajectory."""
    with opened(config) as env:
        expected = [frame["observation"] for frame in play(env, 60)]
    with opened(config) as env:
        env.reset()
        for action, wanted in zip(actions_for(env, 60), expected[1:], strict=True):
            places = {key: np.full_like(wanted[key], 7) for key in WRITTEN_IN_PLACE if key in wanted}
            env.write_into(places)
            observation = env.step(action)[0]
            assert same(copied(observation), wanted)
            assert all(observation[key] is place for key, place in places.items())


def test_the_same_seed_gives_the_same_trajectory(config: EnvConfig) -> None:
    with opened(config) as env:
        first = play(env, 80)
        again = play(env, 80)  # reset returns to the first episode
    with opened(config) as env:
        elsewhere = play(env, 80)
    assert all(map(same, first, again))
    assert all(map(same, first, elsewhere))


@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"split": Split.EVALUATION}, {"slots": slots_at(first_index=10)}, {"slots": slots_at(episode=3)}],
    ids=["seed", "split", "slot", "episode"],
)
def test_another_place_in_the_seed_tree_gives_other_episodes(config: EnvConfig, change: dict[str, Any]) -> None:
    with opened(config) as env, opened(config, **change) as other:
        assert not all(
            same(one["observation"], two["observation"]) for one, two in zip(play(env, 8), play(other, 8), strict=True)
        )


def test_reset_with_a_seed_changes_the_run_seed(config: EnvConfig) -> None:
    with opened(config, seed=1) as env, opened(config, seed=2) as other:
        env.reset(seed=2)
        assert all(map(same, play(env, 20), play(other, 20)))


def test_a_slot_plays_the_same_at_any_row(config: EnvConfig) -> None:
    slots = slots_at()
    with opened(config, slots) as env, opened(config, slots[::-1]) as mirrored:
        first, _ = env.reset()
        second, _ = mirrored.reset()
        for key in first:
            np.testing.assert_array_equal(first[key], second[key][::-1])


@pytest.mark.parametrize("case", SEEDS_EACH_EPISODE)
def test_a_run_can_be_resumed_at_any_episode(case: str) -> None:
    config = SEEDS_EACH_EPISODE[case]()
    wanted = 2
    with opened(config) as env:
        frames = play(env, 300)
    with opened(config, slots_at(episode=wanted)) as resumed:
        first, info = resumed.reset()
        assert (info["episode"] == wanted).all()
        for slot in range(len(TASKS_OF_SLOTS)):
            begins = [frame for frame in frames if frame["info"]["episode"][slot] == wanted]
            assert begins, "the trajectory is too short for this test"
            for key in first:
                np.testing.assert_array_equal(first[key][slot], begins[0]["observation"][key][slot])


def test_arguments_of_an_actor_process_can_be_pickled(config: EnvConfig) -> None:
    spec, slots = make_spec(config), slots_at()
    assert pickle.loads(pickle.dumps((config, spec, slots, 7, Split.TRAIN))) == (config, spec, slots, 7, Split.TRAIN)


def test_every_slot_can_be_rendered(config: EnvConfig) -> None:
    with opened(config) as env:
        env.reset()
        pictures = [env.render(slot) for slot in range(env.num_envs)]
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 for picture in pictures)
    assert all(picture.std() > 0 for picture in pictures)


def test_close_may_be_called_twice(config: EnvConfig) -> None:
    with opened(config) as env:
        env.reset()
        env.close()
        env.close()


def test_state_dict_continues_exactly_or_is_none(config: EnvConfig) -> None:
    with opened(config) as env, opened(config, seed=99) as other:
        env.reset()
        actions = actions_for(env, 60)
        for action in actions[:31]:
            observation, *_ = env.step(action)
        state = env.state_dict()
        if not isinstance(config, ConditionalConfig):
            assert state is None
            return
        assert state is not None
        other.reset()
        assert same(other.load_state_dict(pickle.loads(pickle.dumps(state))), copied(observation))
        for action in actions[31:]:
            for one, two in zip(env.step(action), other.step(action), strict=True):
                assert same(one, two)
