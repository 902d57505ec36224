"""The suite `dmlab30`, on the fake engine."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import deepmind_lab
import numpy as np
import pytest
from deepmind_lab import _levels
from dmlab30_cases import HERE, IMPALA, Spy, environment, played
from hypothesis import given
from hypothesis import strategies as st

from envs.dmlab30 import level_env
from envs.dmlab30.actions import ACTION_SETS, COMPONENTS, action_vectors
from envs.dmlab30.config import DMLab30Config
from envs.dmlab30.level_env import DMLabEnv
from envs.dmlab30.levels import INSTRUCTION_LENGTH, LEVELS, PRESETS, VOCABULARY, level_path
from envs.dmlab30.suite import PICTURES, make_spec, resources
from envs.instructions import UNKNOWN, Tokenizer, split_words
from envs.seeding import episode_seed
from envs.spec import Slot, Split
from envs.suites import make_env
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("alone")
DATA = Path(__file__).parents[1] / "data"


def test_the_constants_equal_the_published_ones() -> None:
    facts = json.loads((DATA / "dmlab30_levels.json").read_text(encoding="utf-8"))["levels"]
    assert [fact["name"] for fact in facts] == list(LEVELS) == list(PRESETS["dmlab30"])
    for fact in facts:
        level = LEVELS[fact["name"]]
        assert (level.random, level.human) == (fact["random"], fact["human"])
        assert (level.test or fact["name"]) == fact["test_name"]
        assert level.needs_dataset == fact["needs_psychlab_dataset"]


def test_the_action_sets_equal_the_published_ones() -> None:
    facts = json.loads((DATA / "dmlab_action_sets.json").read_text(encoding="utf-8"))
    for name, key in (("impala", "impala"), ("extended", "extended"), ("extended_large", "extended")):
        large = "_large" if name.endswith("large") else ""
        vectors = action_vectors(name, ())
        assert vectors.tolist() == facts[f"{key}_action_set{large}"]
        assert (
            vectors.dtype == np.intc and vectors.flags.c_contiguous and all(row.flags.c_contiguous for row in vectors)
        )
    assert [len(rows) for rows in ACTION_SETS.values()] == [9, 15, 17]


def test_presets() -> None:
    assert all(task in LEVELS for preset in PRESETS.values() for task in preset)
    families = ("rooms", "language", "lasertag", "natlab", "skymaze", "psychlab", "explore")
    assert [len(PRESETS[family]) for family in families] == [5, 4, 4, 3, 2, 4, 8]
    assert sorted(task for family in families for task in PRESETS[family]) == sorted(LEVELS)
    assert set(PRESETS["dmlab30"]) - set(PRESETS["dmlab28"]) == {task for task in LEVELS if LEVELS[task].needs_dataset}


def test_the_description() -> None:
    config = DMLab30Config(tasks=["dmlab30", "lt_chasm"], dataset_path="dummy", action_set="extended")
    spec = make_spec(config)
    assert spec.tasks == (*LEVELS, "lt_chasm") and spec.num_actions == 15 and set(spec.action_counts) == {15}
    assert spec.observation["image"].shape == (72, 96, 3) and spec.image_kind == "pixels"
    assert spec.slow and not spec.has_success and spec.action_repeat == 4
    assert set(spec.scores) == set(LEVELS)
    score = spec.scores["rooms_exploit_deferred_effects_train"]
    assert (score.random, score.human) == (8.501, 85.65)


def test_evaluation_plays_the_test_levels_with_other_maps(spies: list[Spy]) -> None:
    config = DMLab30Config(tasks=["rooms", "lt_chasm"], **HERE)
    for split in (Split.TRAIN, Split.EVALUATION):
        for task in make_spec(config).tasks:
            DMLabEnv(config, IMPALA, split, task)
    training, evaluation = spies[:6], spies[6:]
    assert [spy.level.removeprefix("contributed/dmlab30/") for spy in training] == [*PRESETS["rooms"], "lt_chasm"]
    assert [spy.level.removeprefix("contributed/dmlab30/") for spy in evaluation[:3]] == [
        "rooms_collect_good_objects_test",
        "rooms_exploit_deferred_effects_test",
        "rooms_select_nonmatching_object",
    ]
    base = {"width": "32", "height": "24", "logLevel": "WARN"}
    assert all(spy.options["config"] == base for spy in training)
    held_out = {"allowHoldOutLevels": "true", "mixerSeed": "1611489005"}
    assert all(spy.options["config"] == base | held_out for spy in evaluation)
    assert int(held_out["mixerSeed"]) == 0x600D5EED


def test_a_level_may_be_named_by_its_full_path() -> None:
    whole = "contributed/dmlab30/rooms_collect_good_objects_train"
    assert level_path(whole, evaluation=True) == "contributed/dmlab30/rooms_collect_good_objects_test"
    assert make_spec(DMLab30Config(tasks=[whole])).scores[whole].human == 10


def test_episodes_have_the_seeds_of_the_seed_tree(spies: list[Spy]) -> None:
    config = DMLab30Config(tasks=["rooms_select_nonmatching_object"], action_repeat=360, **HERE)
    slots = [Slot(task=0, index=3, episode=2)]
    env = make_env(config, make_spec(config), slots, 11, Split.EVALUATION)
    env.reset()
    for _ in range(3):
        env.step(np.zeros(1, np.int32))
    env.close()
    expected = [episode_seed(11, Split.EVALUATION, config.tasks[0], 3, episode) for episode in (2, 2, 3)]
    assert [seed for _, seed in spies[0].resets] == expected


def test_instructions_become_tokens_that_follow_the_text() -> None:
    config = DMLab30Config(tasks=["language_execute_random_task", "rooms_watermaze"], **HERE)
    spec = make_spec(config)
    env = make_env(config, spec, [Slot(task=0, index=0), Slot(task=1, index=0)], 1, Split.TRAIN)
    observation, _ = env.reset()
    seen = []
    for _ in range(40):
        tokens = observation["instruction"]
        assert tokens.shape == (2, INSTRUCTION_LENGTH) and not tokens[1].any() and tokens[0].any()
        seen.append(tuple(tokens[0]))
        observation, *_ = env.step(np.zeros(2, np.int32))
    env.close()
    assert len(set(seen)) > 3


def test_the_vocabulary_covers_the_language_levels() -> None:
    tokenizer = Tokenizer(VOCABULARY, INSTRUCTION_LENGTH)
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    longest = 0
    for sentences in _levels.SENTENCES.values():
        for sentence in sentences:
            for place, shape in enumerate(_levels.SHAPES):
                colour, other = _levels.COLOURS[place % 6], _levels.COLOURS[place % 5]
                text = sentence.format(shape=shape, other_shape=shape, colour=colour, other_colour=other)
                assert UNKNOWN not in tokenizer.encode(text), text
                longest = max(longest, len(split_words(text)))
    assert longest == 8 <= INSTRUCTION_LENGTH


def test_further_words_are_appended() -> None:
    spec = make_spec(DMLab30Config(words=["dax", "zup"]))
    assert spec.vocabulary == (*VOCABULARY, "dax", "zup")


@given(st.lists(st.lists(st.integers(-600, 600), min_size=6, max_size=8), max_size=3))
def test_a_custom_action_set_is_used_or_refused(rows: list[list[int]]) -> None:
    bounds = list(COMPONENTS.values())
    good = bool(rows) and all(
        len(row) == 7 and all(low <= value <= high for value, (low, high) in zip(row, bounds, strict=True))
        for row in rows
    )
    if good:
        assert action_vectors("custom", rows).tolist() == rows
    else:
        with pytest.raises(InputError, match="env.action_set=custom"):
            action_vectors("custom", rows)


def test_a_set_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("[[0, 0, 0, 1, 0, 0, 0], [-512, 512, -1, -1, 1, 1, 1]]", encoding="utf-8")
    spec = make_spec(DMLab30Config(action_set=str(file)))
    assert spec.num_actions == 2
    config = DMLab30Config(action_set="custom", custom_actions=[[0, 0, 0, 1, 0, 0, 0]])
    assert make_spec(config).num_actions == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["rooms_watermase"]}, "env.tasks=rooms_watermase is no level .*did you mean rooms_watermaze"),
        ({"tasks": ["dmlab30"]}, "psychlab_arbitrary_visuomotor_mapping needs env.dataset_path.*dmlab28"),
        ({"tasks": ["psychlab"], "dataset_path": "/nowhere"}, "env.dataset_path=/nowhere holds no 0001.png"),
        ({"dataset_path": "/nowhere"}, "env.dataset_path=/nowhere holds no 0001.png"),
        ({"tasks": ["rooms_collect_good_objects_test"]}, "held out: use rooms_collect_good_objects_train"),
        ({"tasks": ["starter", "rooms"]}, "more than once"),
        ({"action_set": "human"}, "env.action_set=human is unknown: choose one of impala, extended, extended_large"),
        ({"action_set": "/nowhere.json"}, "env.action_set=/nowhere.json cannot be read"),
        ({"action_set": "custom"}, "env.action_set=custom holds no actions"),
        ({"action_set": "custom", "custom_actions": [[0, 0, 2, 0, 0, 0, 0]]}, "STRAFE_LEFT_RIGHT=2: give -1 to 1"),
        ({"action_set": "custom", "custom_actions": [[0] * 6]}, "action 0 is .*7 whole numbers"),
        ({"custom_actions": [[0] * 7]}, "env.custom_actions is not used with env.action_set=impala"),
        ({"action_repeat": 0}, "env.action_repeat=0 is too small"),
        ({"width": 94}, "env.width=94 is not possible: the engine draws multiples of 4"),
        ({"height": 0}, "env.height=0 is not possible"),
        ({"renderer": "vulkan"}, "env.renderer=vulkan is unknown: choose one of software, hardware"),
        ({"level_cache_gigabytes": 0.0}, "env.level_cache_gigabytes=0.0 is out of range"),
        ({"level_cache_gigabytes": float("nan")}, "env.level_cache_gigabytes=nan"),
        ({"words": ["red"]}, "env.words=red is no new lower-case word"),
        ({"words": ["two words"]}, "env.words=two words is no new"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make_spec(DMLab30Config(**options))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(1, PICTURES + 1):
        (folder / f"{number:04}.png").write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    return folder


def test_the_levels_that_show_the_data_set_get_its_path(pictures: Path, spies: list[Spy]) -> None:
    config = DMLab30Config(tasks=["psychlab"], dataset_path=str(pictures), **HERE)
    for task in make_spec(config).tasks:
        DMLabEnv(config, IMPALA, Split.TRAIN, task)
    paths = [spy.options["config"].get("datasetPath") for spy in spies]
    assert paths == [str(pictures), str(pictures), None, None]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "holds no {name}"),
        (lambda path: path.write_bytes(b""), "holds a {name} that is no PNG picture"),
        (lambda path: path.write_bytes(b"\xff\xd8\xff\xe0 a JPEG"), "holds a {name} that is no PNG picture"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "holds no {name}"),
        (lambda path: (path.unlink(), path.mkdir()), "holds no {name}"),
    ],
    ids=["missing", "empty", "no PNG", "a pipe", "a folder"],
)
@pytest.mark.parametrize("number", [1, 1234, 2400])
def test_each_picture_of_the_data_set_is_checked(
    pictures: Path, tmp_path: Path, number: int, spoil: Any, message: str
) -> None:
    for path in pictures.iterdir():
        os.link(path, tmp_path / path.name)
    name = f"{number:04}.png"
    (tmp_path / name).unlink()
    (tmp_path / name).touch()
    spoil(tmp_path / name)
    with pytest.raises(InputError, match=message.format(name=name)) as error:
        make_spec(DMLab30Config(tasks=["psychlab"], dataset_path=str(tmp_path)))
    assert "\n" not in str(error.value) and "give the folder of the pictures 0001.png to 2400.png" in str(error.value)


def test_a_level_may_be_a_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.lua"
    file.touch()
    config = DMLab30Config(tasks=[str(file)], **HERE)
    assert resources(config) == {str(file): "env.tasks"}
    before = deepmind_lab.runfiles_path()
    (tmp_path / "baselab" / "game_scripts" / "levels").mkdir(parents=True)
    deepmind_lab.set_runfiles_path(str(tmp_path))
    try:
        spec = make_spec(config)
    finally:
        deepmind_lab.set_runfiles_path(before)
    for split in Split:
        env = make_env(config, spec, [Slot(task=0, index=0)], 1, split)
        assert env.reset()[0]["image"].any()
        env.close()


@pytest.mark.parametrize("known", [True, False])
def test_a_path_that_the_engine_would_not_find_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Whether or not the folder of the engine's levels is readable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.lua").touch()
    (tmp_path / "folder.lua").mkdir()
    if known:
        (tmp_path / "baselab" / "game_scripts" / "levels").mkdir(parents=True)
        monkeypatch.setattr(deepmind_lab, "_runfiles", str(tmp_path))
    for task, hint in (
        (str(tmp_path / "mine"), f"is given with its ending, as {tmp_path}/mine.lua"),
        (str(tmp_path / "other.lua"), "is no file: give the absolute path of a level's script"),
        (str(tmp_path / "folder.lua"), "is no file"),
        ("mine.lua", "without .lua, or a file of your own by its absolute path"),
        ("lt_chasm.lua", "without .lua"),
        ("~/mine.lua", "by its absolute path"),
    ):
        with pytest.raises(InputError, match=f"env.tasks={task} ") as error:
            make_spec(DMLab30Config(tasks=[task]))
        assert hint in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_map_in_the_cache_costs_a_compilation_and_no_process(tmp_path: Path) -> None:
    config = DMLab30Config(
        tasks=["lasertag_one_opponent_small"], level_cache=str(tmp_path), **(HERE | {"processes": True})
    )
    spec, slots = make_spec(config), [Slot(task=0, index=0)]
    pictures = []
    for damage in (None, lambda whole: whole.replace(b"0", b"1"), lambda whole: whole[:-9], lambda whole: b""):
        for path in tmp_path.rglob("*.pk3"):
            path.write_bytes(damage(path.read_bytes()) if damage else b"")
        env = make_env(config, spec, slots, 1, Split.TRAIN)
        pictures.append(env.reset()[0]["image"].copy())
        env.close()
        assert all(zipfile.ZipFile(path).testzip() is None for path in tmp_path.rglob("*.pk3"))
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_with_fresh_engines_a_resumed_slot_plays_the_episodes_of_one_that_was_never_stopped() -> None:
    def begin(episode: int, *, fresh_engine: bool) -> list[Any]:
        """First pictures of the episodes 1 to 3; episodes before `episode` are not played."""
        config = DMLab30Config(
            tasks=["language_select_located_object"], action_repeat=1000, fresh_engine=fresh_engine, **HERE
        )
        env = make_env(config, make_spec(config), [Slot(task=0, index=0, episode=episode)], 1, Split.TRAIN)
        found, number = [(episode, env.reset()[0]["image"].tobytes())], episode
        while number < 3:
            observation, *_, info = env.step(np.zeros(1, np.int32))
            if info["episode"][0] > number:
                number = int(info["episode"][0])
                found.append((number, observation["image"].tobytes()))
        env.close()
        return [picture for number, picture in found if number >= 1]

    assert begin(0, fresh_engine=True) == begin(1, fresh_engine=True)
    assert begin(0, fresh_engine=False) != begin(1, fresh_engine=False)


def test_levels_are_searched_in_the_folder_of_the_engine(tmp_path: Path) -> None:
    folder = tmp_path / "baselab" / "game_scripts" / "levels"
    for level in (
        "lt_chasm",
        *(level_path(task, evaluation=test) for task in PRESETS["starter"] for test in (False, True)),
    ):
        (folder / level).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{level}.lua").touch()
    before = deepmind_lab.runfiles_path()
    deepmind_lab.set_runfiles_path(str(tmp_path))
    try:
        assert make_spec(DMLab30Config(tasks=["starter", "lt_chasm"])).tasks[-1] == "lt_chasm"
        with pytest.raises(InputError, match="env.tasks=lt_chasn is no level of the installed.*did you mean lt_chasm"):
            make_spec(DMLab30Config(tasks=["lt_chasn"]))
        with pytest.raises(InputError, match="rooms_watermaze is no level of the installed DeepMind Lab"):
            make_spec(DMLab30Config(tasks=["rooms_watermaze"]))
    finally:
        deepmind_lab.set_runfiles_path(before)


def test_the_cache_changes_no_episode(tmp_path: Path) -> None:
    def episodes(folder: str) -> list[Any]:
        config = DMLab30Config(level_cache=folder, **HERE)
        env = DMLabEnv(config, IMPALA, Split.TRAIN, "rooms_keys_doors_puzzle")
        return [played(env, seed) for seed in (1, None, 1)]

    without, cold, warm = episodes(""), episodes(str(tmp_path / "cache")), episodes(str(tmp_path / "cache"))
    assert without == cold == warm


def test_hits_are_counted_and_the_discarded_reset_compiles_nothing(tmp_path: Path) -> None:
    env = DMLabEnv(
        DMLab30Config(level_cache=str(tmp_path / "cache"), **HERE), IMPALA, Split.TRAIN, "rooms_keys_doors_puzzle"
    )
    counts = [env.reset(seed=seed)[1] for seed in (1, 2, 1)]
    assert [(info["level_cache_hits"], info["level_cache_misses"]) for info in counts] == [(1, 1), (1, 2), (2, 2)]
    assert len(list(tmp_path.rglob("*.pk3"))) == 2


def test_by_default_each_environment_has_its_own_process() -> None:
    """With the same episodes."""
    config = DMLab30Config(tasks=["rooms_select_nonmatching_object"], **HERE)
    spec, slots = make_spec(config), [Slot(task=0, index=0)]
    images = []
    for one in (config, replace(config, processes=DMLab30Config().processes)):
        env = make_env(one, spec, slots, 1, Split.TRAIN)
        env.reset()
        images.append(env.step(np.zeros(1, np.int32))[0]["image"].copy())
        assert bool(level_env._open) != one.processes
        env.close()
    np.testing.assert_array_equal(*images)


def test_arguments_of_a_process_can_be_pickled() -> None:
    config = DMLab30Config(level_cache="somewhere", **HERE)
    make = pickle.loads(pickle.dumps(partial(DMLabEnv, config, IMPALA, Split.TRAIN)))
    env = make("rooms_watermaze")
    assert played(env, 3) == played(environment("contributed/dmlab30/rooms_watermaze"), 3)
