"""The adapter to one level, on the fake engine."""

from __future__ import annotations

import os
from typing import Any

import deepmind_lab
import numpy as np
import pytest
from deepmind_lab import _levels
from dmlab30_cases import DESCRIBED, IMPALA, NONMATCHING, SMALL, Spy, environment, played
from gymnasium.utils.env_checker import check_env

from envs.dmlab30.actions import COMPONENTS
from envs.dmlab30.config import DMLab30Config
from envs.dmlab30.level_env import DMLabEnv
from envs.spec import Split
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("alone")
FORWARD_LEFT = 6


@pytest.mark.filterwarnings("ignore:.*(was not able to render|alternative render modes):UserWarning")
def test_the_checker_of_gymnasium_passes() -> None:
    for level in (NONMATCHING, DESCRIBED, "tests/event_test"):
        env = environment(level)
        check_env(env, skip_render_check=False)
        env.close()


def test_an_action_is_its_vector_for_action_repeat_frames_in_one_call(spies: list[Spy]) -> None:
    env = environment(action_repeat=3)
    env.reset(seed=1)
    for action in range(len(IMPALA)):
        env.step(np.int64(action))
    (spy,) = spies
    assert spy.actions == [(vector.tolist(), np.dtype(np.intc), True, 3) for vector in IMPALA]


def test_vectors_are_converted_to_the_memory_layout_of_the_engine(spies: list[Spy]) -> None:
    strided = np.zeros((9, 14), np.intc)[:, ::2]
    strided[:] = IMPALA
    env = DMLabEnv(DMLab30Config(**SMALL), strided, Split.TRAIN, NONMATCHING)
    env.reset(seed=1)
    env.step(FORWARD_LEFT)
    assert spies[0].actions == [(IMPALA[FORWARD_LEFT].tolist(), np.dtype(np.intc), True, 4)]


def test_the_reward_is_the_sum_over_the_frames() -> None:
    env, lab = environment(action_repeat=60), deepmind_lab.Lab(NONMATCHING, [], {"logLevel": "WARN"})
    env.reset(seed=5)
    lab.reset(seed=5), lab.reset(seed=5)
    rewards = [env.step(0)[1] for _ in range(12)]
    assert rewards == [sum(lab.step(IMPALA[0]) for _ in range(60)) for _ in range(12)]
    assert sum(rewards) > 5


def test_the_last_observation_is_the_one_before_the_end() -> None:
    env = environment(action_repeat=7)
    env.reset(seed=1)
    before: dict[str, Any] = {}
    for step in range(103):
        observation, _, terminated, truncated, _ = env.step(0)
        assert (terminated, truncated) == (step == 102, False)
        if terminated:
            np.testing.assert_array_equal(observation["image"], before["image"])
            assert observation["instruction"] == before["instruction"]
        before = observation
    np.testing.assert_array_equal(env.render(), before["image"])
    with pytest.raises(RuntimeError, match="wrong status"):
        env.step(0)


def test_the_instruction_is_read_at_every_step() -> None:
    env = environment(DESCRIBED)
    instructions = [env.reset(seed=3)[0]["instruction"], *(env.step(0)[0]["instruction"] for _ in range(60))]
    assert set(instructions) <= set(_levels.DESCRIBED) and len({*instructions}) > 2


def test_returned_arrays_do_not_change() -> None:
    env = environment()
    first, _ = env.reset(seed=1)
    copy = first["image"].copy()
    second = env.step(0)[0]
    np.testing.assert_array_equal(first["image"], copy)
    assert not np.array_equal(second["image"], copy)


LASERTAG = "contributed/dmlab30/lasertag_three_opponents_small"
LOCATED = "contributed/dmlab30/language_select_located_object"
KEYS = "contributed/dmlab30/rooms_keys_doors_puzzle"


@pytest.mark.parametrize("level", [NONMATCHING, KEYS])
def test_an_episode_is_a_function_of_its_seed_from_the_first_one_on(level: str) -> None:
    """On most levels; each reset here is within an episode."""
    env = environment(level)
    first, other, again = played(env, 4), played(env, 5), played(env, 4)
    assert first == again != other
    assert played(environment(level), 5) == other


@pytest.mark.parametrize("level", [DESCRIBED, LOCATED, LASERTAG, "lt_chasm", "seekavoid_arena_01"])
def test_on_some_levels_an_episode_also_depends_on_earlier_ones(level: str) -> None:
    env = environment(level)
    played(env, 4)
    assert played(env, 5, 40) != played(environment(level), 5, 40)


@pytest.mark.parametrize("level", [NONMATCHING, KEYS, DESCRIBED, LOCATED, LASERTAG, "lt_chasm", "seekavoid_arena_01"])
def test_with_fresh_engines_an_episode_is_a_function_of_its_seed_on_all_levels(level: str) -> None:
    env = environment(level, fresh_engine=True)
    first, other, again = (played(env, seed, 40) for seed in (4, 5, 4))
    assert first == again != other
    until_the_end(env)
    assert played(env, 5, 40) == other == played(environment(level, fresh_engine=True), 5, 40)


def test_each_fresh_engine_is_reset_once_and_its_predecessor_is_closed(spies: list[Spy]) -> None:
    env = environment("tests/event_test", fresh_engine=True, renderer="hardware")
    looked_for = len(spies) - 1
    for seed in (7, 8, 9):
        env.reset(seed=seed)
    engines = spies[looked_for:]
    assert [spy.resets for spy in engines] == [[(0, 7)], [(0, 8)], [(0, 9)]]
    assert len({tuple(spy.options["config"].items()) for spy in spies}) == 1
    assert [spy.close() for spy in spies] == [False] * (len(spies) - 1) + [True]


def test_a_fresh_engine_that_cannot_be_made_is_no_input_error_and_costs_one_episode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, make = environment(fresh_engine=True), deepmind_lab.Lab

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("Failed to connect RL API")

    expected = played(env, 4)
    monkeypatch.setattr(deepmind_lab, "Lab", fail)
    with pytest.raises(RuntimeError, match="Failed to connect"):
        env.reset(seed=5)
    monkeypatch.setattr(deepmind_lab, "Lab", make)
    assert played(env, 4) == expected
    env.close()


def test_a_reset_within_an_episode_shows_the_first_picture_of_the_next(spies: list[Spy]) -> None:
    env, other = environment(), environment()
    ended, _ = until_the_end(other)[0], other.reset(seed=6)
    env.reset(seed=1)
    env.step(0)
    np.testing.assert_array_equal(env.reset(seed=6)[0]["image"], other.render())
    assert ended and [action for *action, _ in spies[0].actions[1:]] == [[[0] * 7, np.dtype(np.intc), True]]
    assert spies[0].actions[-1][-1] == 1, "one frame, that nobody sees"
    assert len(spies[1].actions) == 180, "none after the end of an episode"


def test_an_unseeded_reset_never_returns_to_a_map() -> None:
    env = environment()
    first = [played(env, seed)[2] for seed in (4, None, None, None)]
    assert len(set(first)) == 4
    assert [played(env, seed)[2] for seed in (4, None, None, None)] == first, "a seeded reset begins the sequence anew"
    one, other = (played(environment(), None)[2] for _ in range(2))
    assert one != other, "two instances that were never seeded play different maps"


def test_only_the_first_reset_is_made_twice_and_the_engine_counts_no_episodes(spies: list[Spy]) -> None:
    env = environment()
    for seed in (7, 8, 9):
        env.reset(seed=seed)
    assert spies[0].resets == [(0, 7), (0, 7), (0, 8), (0, 9)]
    assert all(type(seed) is int for _, seed in spies[0].resets)


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32 + 7])
def test_seeds_that_the_engine_would_truncate_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seeds from 0 to 2147483647"):
        environment().reset(seed=seed)


def until_the_end(env: DMLabEnv, action: int = 0) -> tuple[bool, bool, int]:
    env.reset(seed=2)
    for steps in range(1, 10_000):
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return terminated, truncated, steps
    raise AssertionError("no end")


@pytest.mark.parametrize("action_repeat", [4, 7, 50])
def test_the_time_limit_truncates_if_configured(action_repeat: int) -> None:
    steps = -(-720 // action_repeat)
    assert until_the_end(environment(action_repeat=action_repeat)) == (True, False, steps)
    assert until_the_end(environment(action_repeat=action_repeat, truncate_at_time_limit=True)) == (False, True, steps)


def test_an_early_end_and_one_without_a_time_limit_are_terminations() -> None:
    early = environment("contributed/dmlab30/psychlab_visual_search", truncate_at_time_limit=True)
    fire = next(row for row, vector in enumerate(IMPALA) if vector[4])
    assert until_the_end(early, fire) == (True, False, 13)
    assert until_the_end(environment("tests/event_test", truncate_at_time_limit=True)) == (True, False, 15)


def test_the_hardware_renderer_has_one_instance_in_a_process() -> None:
    first, second = environment(), environment()
    with pytest.raises(InputError, match="env.renderer=hardware allows one DeepMind Lab in a process"):
        environment(renderer="hardware")
    first.close(), second.close()
    alone = environment(renderer="hardware")
    with pytest.raises(InputError, match="env.renderer=hardware allows one"):
        environment()
    alone.close(), alone.close()
    environment().close()


def test_an_instance_that_could_not_be_made_does_not_count() -> None:
    with pytest.raises(InputError, match=r"env.tasks=no/level cannot be played.*Script not found"):
        environment("no/level", renderer="hardware")
    environment(renderer="hardware").close()


def test_a_forked_process_raises_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    environment().close()
    monkeypatch.setattr(os, "getpid", lambda: -5)
    with pytest.raises(RuntimeError, match="forked .* start processes with spawn"):
        environment()


def test_a_level_with_actions_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    more = [{"name": name, "min": low, "max": high} for name, (low, high) in COMPONENTS.items()]
    more.append({"name": "SELECT_GADGET", "min": 0, "max": 9})
    monkeypatch.setattr(deepmind_lab.Lab, "action_spec", lambda self: more)
    with pytest.raises(InputError, match="has the actions .*SELECT_GADGET"):
        environment()
    with pytest.raises(InputError, match="has the actions .*SELECT_GADGET"):
        environment(renderer="hardware")


@pytest.mark.parametrize("renderer", ["software", "hardware"])
def test_a_library_that_does_not_load_is_explained(monkeypatch: pytest.MonkeyPatch, renderer: str) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("Failed to connect RL API")

    monkeypatch.setattr(deepmind_lab, "Lab", fail)
    needed = {"software": "OSMesa", "hardware": "graphics driver"}[renderer]
    with pytest.raises(InputError, match=f"env.renderer={renderer}: .*Failed to connect.*{needed}"):
        environment(renderer=renderer)


def test_a_level_that_cannot_start_is_an_input_error_and_a_later_failure_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataless = environment("contributed/dmlab30/psychlab_continuous_recognition")
    with pytest.raises(InputError, match=r"needs the pictures of Brady, .* env.dataset_path \(Failed to start"):
        dataless.reset(seed=1)
    env = environment()
    env.reset(seed=1)

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("Failed to start environment")

    monkeypatch.setattr(deepmind_lab.Lab, "reset", fail)
    with pytest.raises(RuntimeError, match="Failed to start environment"):
        env.reset(seed=2)


def test_instances_that_only_list_observations_are_closed(spies: list[Spy], monkeypatch: pytest.MonkeyPatch) -> None:
    everything = _levels.observation_spec
    monkeypatch.setattr(
        _levels, "observation_spec", lambda *level: [spec for spec in everything(*level) if spec["name"] != "INSTR"]
    )
    environment("lt_chasm", renderer="hardware")
    asked, played_on = spies
    assert not asked.close() and played_on.close()
