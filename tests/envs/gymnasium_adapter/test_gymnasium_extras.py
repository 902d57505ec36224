"""Parts of gymnasium environments beside numbers and pictures: masks, success, text, actions of several parts, options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gym_tasks  # noqa: F401  (registers its environments)
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium_cases import bare, config, opened

from conf.allowlist import external_names
from conf.loading import compose_train, to_dict, train_from_dict
from envs.engines.gymnasium_engine import success_of
from envs.gymnasium_adapter.actions import Actions
from envs.gymnasium_ids.suite import GymnasiumConfig
from envs.spec import ArraySpec, Slot, Split
from envs.suites import make_env, make_spec, settle
from envs.trial import try_task
from system.errors import InputError

# Masks


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("task", ["Forbidden-v0", "ForbiddenKey-v0", "ForbiddenPairs-v0"])
@pytest.mark.usefixtures("processes_are_kept")
def test_the_mask_equals_that_of_the_environment(task: str, processes: bool) -> None:
    settings = config(task, processes=processes)
    spec = make_spec(settings)
    assert spec.observation == {
        "vector": ArraySpec(shape=(3,), dtype="float32"),
        "action_mask": ArraySpec(shape=(spec.num_actions,), dtype="bool"),
    }
    env = make_env(settings, spec, [Slot(task=0, index=n) for n in range(2)], 0, Split.TRAIN)
    try:
        observation, _ = env.reset()
        firsts = np.cumsum([0, *(spec.action_sizes or (4,))[:-1]])
        earned = []
        for _ in range(16):
            assert env.observation_space.contains(observation)
            mask = observation["action_mask"]
            assert mask.dtype == np.bool_ and mask.any(axis=1).all()
            # The first legal choice of each component.
            parts = np.split(mask, firsts[1:], axis=1)
            action = np.stack([part.argmax(axis=1) for part in parts], axis=1)
            observation, reward, *_ = env.step(action if spec.action_sizes else action[:, 0])
            earned.append(reward.copy())
        assert np.array(earned)[[0, 1, 2, 3, 4, 5, 6]].min() == 1 and np.array(earned).min() == 0
    finally:
        env.close()


def test_tasks_of_different_sizes_have_one_mask() -> None:
    env = opened(config("ForbiddenFew-v0", "Forbidden-v0", "ForbiddenNothing-v0"), 3)
    observation, _ = env.reset()
    mask = observation["action_mask"]
    assert not mask[0, 3] and mask[2].all()
    np.testing.assert_array_equal(mask[0, :3], bare(env, 0).legal)
    np.testing.assert_array_equal(mask[1], bare(env, 1).legal)


@pytest.mark.parametrize("task", ["ForbiddenNothing-v0", "Match-v0"])
def test_environments_without_a_mask_have_none(task: str) -> None:
    assert set(make_spec(config(task)).observation) == {"vector"}


def test_masks_can_be_disabled_and_are_disabled_in_runs_of_earlier_versions() -> None:
    settings = config("ForbiddenKey-v0", action_mask=False)
    # The mask is then an entry of the Dict like any other.
    assert make_spec(settings).observation == {"vector": ArraySpec(shape=(7,), dtype="float32")}
    train = compose_train(["env=gymnasium", "env.tasks=[gym_tasks:Forbidden-v0]"])
    assert isinstance(train.env, GymnasiumConfig) and train.env.action_mask
    saved = to_dict(train)
    assert train_from_dict(saved, "here").env.action_mask  # type: ignore[attr-defined]
    for key in ("action_mask", "vocabulary", "instruction_length"):
        del saved["env"][key]
    earlier = train_from_dict(saved, "here").env
    assert set(make_spec(earlier).observation) == {"vector"}


def test_the_saved_configuration_holds_whether_there_was_a_mask() -> None:
    for task, shown in (("Forbidden-v0", True), ("ForbiddenNothing-v0", False)):
        settings = config(task)
        assert settle(settings, make_spec(settings)).action_mask == shown


def test_a_mask_that_forbids_everything_within_an_episode_is_an_error() -> None:
    env = opened(config("ForbiddenAll-v0"))
    env.reset()
    with pytest.raises(
        InputError, match="gym_tasks:ForbiddenAll-v0 shows an action_mask that forbids every action"
    ) as caught:
        for _ in range(4):
            env.step(np.zeros(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sizes", [(5,), (3, 3)])
def test_a_mask_of_another_length_is_refused(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    env = opened(config("Forbidden-v0" if len(sizes) == 1 else "ForbiddenPairs-v0"))
    env.reset()
    game = bare(env)
    show = game._show
    monkeypatch.setattr(game, "_show", lambda: (show()[0], {"action_mask": np.ones(sum(sizes))}))
    with pytest.raises(InputError, match=rf"an action_mask of {sum(sizes)} numbers and takes"):
        env.step(env.single_action_space.sample()[None] * 0 if len(sizes) > 1 else np.zeros(1))


def test_a_mask_may_appear_only_in_steps_and_have_the_structure_of_the_actions() -> None:
    class Late(gymnasium.Env[Any, Any]):
        observation_space = spaces.Box(-1, 1, (2,))
        action_space = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple((spaces.Discrete(3),))})

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(2, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(2, np.float32), 0.0, False, False, {"action_mask": {"a": ([0, 1, 1],), "b": [1, 0]}}

    if "LateMask-v0" not in gymnasium.registry:
        gymnasium.register("LateMask-v0", Late)
    env = opened(GymnasiumConfig(tasks=["LateMask-v0"]))
    observation, _ = env.reset()
    assert observation["action_mask"].all()
    observation, *_ = env.step(np.array([[0, 1]]))
    # In the order of the space's entries.
    in_order = [*([0, 1, 1] if next(iter(Late.action_space)) == "a" else [1, 0])]
    assert observation["action_mask"][0, : len(in_order)].tolist() == in_order and observation["action_mask"].sum() == 3


def test_continuous_actions_cannot_be_masked() -> None:
    settings = config("Point-v0")
    settings.wrappers = ["gym_tasks:Masked"]
    with pytest.raises(InputError, match="an action_mask for continuous actions"):
        make_spec(settings)
    settings.action_mask = False
    assert make_spec(settings).action_kind == "continuous"


# Success


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"key": "is_success"},
        {"key": "success"},
        {"key": "success", "truncate": True},
        {"key": "is_success", "final": True},
    ],
)
@pytest.mark.usefixtures("processes_are_kept")
def test_an_episode_is_a_success_if_its_environment_reports_it(options: dict[str, Any], processes: bool) -> None:
    env = opened(config("Told-v0", options=options, processes=processes))
    try:
        env.reset()
        reported = [float(env.step(np.zeros(1))[4]["success"][0]) for _ in range(12)]
        assert [value for value in reported if not np.isnan(value)] == [0, 1, 0]
        assert [t for t, value in enumerate(reported) if not np.isnan(value)] == [2, 6, 10]
    finally:
        env.close()


def test_success_is_unknown_if_it_is_not_reported() -> None:
    env = opened(config("Told-v0", options={"key": ""}))
    env.reset()
    assert np.isnan([env.step(np.zeros(1))[4]["success"][0] for _ in range(8)]).all()


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"is_success": True}, 1),
        ({"success": 0.0}, 0),
        ({"is_success": np.array([1.0])}, 1),
        ({"is_success": None, "success": np.bool_(False)}, 0),
        ({"is_success": True, "final_info": {"is_success": False}}, 0),
        ({"final_info": np.array([{"success": 1}], object)}, 1),
        ({"final_info": None, "success": True}, 1),
        ({"is_success": float("nan")}, None),
        ({"success": [1, 0]}, None),
        ({}, None),
    ],
)
def test_forms_of_success(info: dict[str, Any], expected: float | None) -> None:
    found = success_of(info)
    assert np.isnan(found) if expected is None else found == expected


# Actions of several parts


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("Whole-v0", (3, 4)),
        ("WholeNumber-v0", (2,)),
        ("Integers-v0", (4, 4)),
        ("Several-v0", (2, 2)),
        ("Parts-v0", None),
    ],
)
def test_actions_of_several_parts_are_choices_and_become_samples_of_their_space(
    task: str, sizes: tuple[int, ...] | None
) -> None:
    env = opened(config(task))
    spec = env.spec_of_suite
    assert spec.action_kind == "multi_discrete" and (sizes is None or spec.action_sizes == sizes)
    assert sorted(spec.action_sizes) == sorted(sizes or (2, 2, 2, 3, 3, 2))
    env.reset()
    game = bare(env)
    every = [np.arange(max(spec.action_sizes)) % size for size in spec.action_sizes]
    for action in np.stack(every, axis=1):
        env.step(action[None])
        assert game.action_space.contains(game.taken[-1])
        assert same_form(game.taken[-1], game.action_space.sample())
    # Every choice of every component occurred, and different choices are different actions.
    parts = {str(taken) for taken in game.taken}
    assert len(parts) == max(spec.action_sizes)


def same_form(one: Any, other: Any) -> bool:
    """Whether types, keys with their order, shapes and dtypes agree."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same_form(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same_form, one, other))
    return getattr(one, "dtype", None) == getattr(other, "dtype", None) and np.shape(one) == np.shape(other)


def test_parts_keep_their_order() -> None:
    space = spaces.Tuple((spaces.Discrete(3, start=5), spaces.Dict({"x": spaces.Box(-2, 2, (2,), np.int64)})))
    actions = Actions(space)
    assert actions.space == spaces.MultiDiscrete([3, 5, 5], dtype=np.int32) and actions.sizes == (3, 5, 5)
    number, rest = actions.decode(np.array([2, 0, 4]))
    assert number == 7 and rest["x"].tolist() == [-2, 2]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("WithFloats-v0", r"actions of several parts with Box\(.*\) in 1, which is no choice"),
        ("TooWhole-v0", "one number has 1,000,001 choices and 1,024 are the most"),
        ("TooMany-v0", "1,048,576 choices in all, and 4,096 are the most"),
        ("NoParts-v0", "actions without any choice"),
    ],
)
def test_parts_without_choices_are_refused(task: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_spec(config(task))
    assert "\n" not in str(caught.value)


# Text


@pytest.mark.parametrize("alone", [False, True])
def test_text_is_an_instruction_with_the_words_of_some_episodes(alone: bool) -> None:
    settings = config("Spoken-v0", options={"alone": alone})
    spec = make_spec(settings)
    assert spec.vocabulary == ("<pad>", "<unk>", ".", "key", "left", "press", "right", "the")
    assert spec.instruction_length == 8 and spec == make_spec(settings)
    env = opened(settings, 8)
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    for slot in range(8):
        text = " ".join(spec.vocabulary[token] for token in observation["instruction"][slot] if token)
        assert text == f"press the {('left', 'right')[bare(env, slot).right]} key ."


def test_the_vocabulary_can_be_configured(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("Press left\nright\nleft", encoding="utf-8")
    for vocabulary in (["press", "left", "right"], str(tmp_path / "words.txt")):
        settings = config("Spoken-v0", vocabulary=vocabulary, instruction_length=3)
        spec = make_spec(settings)
        assert spec.vocabulary == ("<pad>", "<unk>", "press", "left", "right") and spec.instruction_length == 3
        observation, _ = opened(settings).reset()
        # Other words are token 1, and words beyond the length are dropped.
        assert observation["instruction"][0].tolist() in ([2, 1, 3], [2, 1, 4])
    assert external_names(settings) == {"gym_tasks": "env.tasks", str(tmp_path / "words.txt"): "env.vocabulary"}


def test_a_run_keeps_its_vocabulary() -> None:
    settings = config("Spoken-v0")
    spec = make_spec(settings)
    settled = settle(settings, spec)
    assert settled.vocabulary == list(spec.vocabulary[2:]) and settled.instruction_length == 8
    assert make_spec(settled) == spec
    # Also if its environments have other words now, or are others.
    other = dataclasses.replace(settled, options={"words": "press something else"})
    assert make_spec(other).vocabulary == spec.vocabulary
    observation, _ = opened(other).reset()
    assert observation["instruction"][0].tolist() == [5, 1, 1, 0, 0, 0, 0, 0]


def test_tasks_without_text_have_empty_instructions() -> None:
    env = opened(config("Spoken-v0", "Level-v0"), 2)
    observation, _ = env.reset()
    assert observation["instruction"][0].any() and not observation["instruction"][1].any()


def test_the_mission_of_minigrid_is_an_instruction() -> None:
    pytest.importorskip("minigrid")
    settings = GymnasiumConfig(
        tasks=["minigrid:MiniGrid-GoToDoor-5x5-v0"], wrappers=["minigrid.wrappers:RGBImgObsWrapper"]
    )
    spec = make_spec(settings)
    assert {"go", "to", "the", "red", "green", "blue", "purple", "yellow", "grey", "door"} < set(spec.vocabulary)
    env = opened(settings)
    observation, _ = env.reset()
    text = " ".join(spec.vocabulary[token] for token in observation["instruction"][0] if token)
    assert text == bare(env).mission


def test_inspecting_an_environment_leaves_nothing_behind(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    """It changes neither the working directory nor prints to standard output."""
    monkeypatch.chdir(tmp_path)
    settings = config("Leaves-v0")
    spec = make_spec(settings)
    assert Path.cwd() == tmp_path and capfd.readouterr().out == ""
    assert try_task(settings, spec, 0).failure == "" and Path.cwd() == tmp_path
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (["two words"], "holds 'two words', which is no single word"),
        ([True], "holds True, which is no single word"),
        (3, "env.vocabulary=3 is neither a list of words nor a file"),
        ("/no/such/file", "env.vocabulary=/no/such/file cannot be read"),
    ],
)
def test_invalid_vocabularies_are_refused(vocabulary: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_spec(config("Spoken-v0", vocabulary=vocabulary))
