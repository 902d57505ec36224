"""Instructions that training leaves out: they never occur there, and every unseen episode has one."""

from __future__ import annotations

import pytest

from envs.babyai.suite import BabyAIConfig, make_spec
from envs.faults import NoContextError
from envs.spec import Slot, Split
from envs.suites import held_out, make_env
from system.errors import InputError

TASKS = ["BabyAI-GoToObjS4-v0", "MiniGrid-Fetch-5x5-N2-v0", "BabyAI-PutNextS4N1-v0"]


def missions(config: BabyAIConfig, split: Split, episodes: int, slots: int = 6) -> list[str]:
    """Instructions of the first episodes of the slots under as many run seeds as are needed, with padding between the words removed."""
    pytest.importorskip("minigrid")
    spec = make_spec(config)
    places = [Slot(task=index % len(spec.tasks), index=index) for index in range(slots)]
    env, found = make_env(config, spec, places, 0, split), []
    for seed in range(-(-episodes // slots)):
        observation, _ = env.reset(seed=seed)
        found += [" ".join(spec.vocabulary[token] for token in row if token) for row in observation["instruction"]]
    env.close()
    return found


def has_one(phrases: tuple[str, ...] | list[str], mission: str) -> bool:
    return any(f" {phrase} " in f" {mission} " for phrase in phrases)


def check_training(config: BabyAIConfig, episodes: int) -> None:
    phrases = held_out(config)
    assert phrases
    found = missions(config, Split.TRAIN, episodes)
    assert len(found) >= episodes
    assert not [mission for mission in found if has_one(phrases, mission)]


@pytest.mark.parametrize("options", [{"holdout": ["red ball", "blue key", "fetch"]}, {"holdout_fraction": 0.5}])
def test_held_out_instructions_do_not_occur_in_training(options: dict[str, object]) -> None:
    check_training(BabyAIConfig(tasks=TASKS, **options), 600)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "episodes", [pytest.param(5_000, marks=pytest.mark.slow), pytest.param(100_000, marks=pytest.mark.exhaustive)]
)
def test_held_out_instructions_do_not_occur_in_many_episodes(episodes: int) -> None:
    check_training(BabyAIConfig(tasks=["BabyAI-GoToObjS4-v0"], holdout_fraction=0.25), episodes)


def test_each_unseen_instruction_has_a_held_out_phrase_and_each_phrase_occurs() -> None:
    phrases = ["red ball", "blue key", "grey box"]
    config = BabyAIConfig(tasks=TASKS, holdout=phrases)
    found = missions(config, Split.UNSEEN, 120)
    assert all(has_one(phrases, mission) for mission in found)
    assert all(has_one([phrase], " ".join(found)) for phrase in phrases)
    assert not any(has_one(phrases, mission) for mission in missions(config, Split.EVALUATION, 120))


def test_a_phrase_is_neighbouring_words() -> None:
    """`red ball` leaves "the red key next to the blue ball" in training."""
    found = missions(BabyAIConfig(tasks=["BabyAI-PutNextS4N1-v0"], holdout=["red ball"]), Split.TRAIN, 600)
    assert any("red" in mission and "ball" in mission for mission in found)


def test_other_episodes_are_those_of_a_run_without_held_out_instructions() -> None:
    plain = missions(BabyAIConfig(tasks=TASKS, engine="minigrid"), Split.TRAIN, 120)
    without = missions(BabyAIConfig(tasks=TASKS, holdout=["red ball"]), Split.TRAIN, 120)
    pairs = list(zip(plain, without, strict=True))
    assert all(first == second for first, second in pairs if not has_one(["red ball"], first))
    assert any(first != second for first, second in pairs)


@pytest.mark.parametrize(
    ("phrases", "split", "message"),
    [
        (["red ball"], Split.TRAIN, "shows no instruction outside of env.holdout in 1,000 resets"),
        (["blue key"], Split.UNSEEN, "shows no instruction of env.holdout in 1,000 resets"),
    ],
)
def test_a_level_without_an_instruction_of_the_group_is_named(phrases: list[str], split: Split, message: str) -> None:
    with pytest.raises(NoContextError, match=rf"env\.tasks=BabyAI-GoToRedBallNoDists-v0 {message}"):
        missions(BabyAIConfig(tasks=["BabyAI-GoToRedBallNoDists-v0"], holdout=phrases), split, 1)


def test_envpool_is_refused_and_auto_is_minigrid() -> None:
    pytest.importorskip("minigrid")
    pytest.importorskip("envpool")
    with pytest.raises(
        InputError, match=r"env\.engine=envpool chooses its instructions itself .* set env\.engine=minigrid"
    ):
        make_spec(BabyAIConfig(engine="envpool", holdout_fraction=0.25))
    assert make_spec(BabyAIConfig(holdout_fraction=0.25)).engine == "minigrid"
    assert make_spec(BabyAIConfig()).engine == "envpool"
