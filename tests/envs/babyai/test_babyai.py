from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from envs.babyai import levels
from envs.babyai.suite import ENGINES, BabyAIConfig, engine_differences, make_spec, warnings
from envs.instructions import UNKNOWN, split_words
from envs.spec import Slot, Split
from envs.suites import make_env
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

# One level of every kind of sentence and of every kind of end.
SAMPLE = (
    "BabyAI-BossLevel-v0",
    "BabyAI-ActionObjDoor-v0",
    "BabyAI-OpenDoorsOrderN4-v0",
    "BabyAI-PutNextLocal-v0",
    "BabyAI-KeyInBox-v0",
    "BabyAI-SynthSeq-v0",
    "MiniGrid-BlockedUnlockPickup-v0",
    "MiniGrid-LavaCrossingS9N1-v0",
    "MiniGrid-SimpleCrossingS9N1-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-Dynamic-Obstacles-5x5-v0",
    "MiniGrid-Empty-5x5-v0",
    "MiniGrid-Fetch-5x5-N2-v0",
    "MiniGrid-FourRooms-v0",
    "MiniGrid-GoToDoor-5x5-v0",
    "MiniGrid-LockedRoom-v0",
    "MiniGrid-MemoryS7-v0",
    "MiniGrid-MultiRoom-N2-S4-v0",
    "MiniGrid-ObstructedMaze-1Dl-v0",
    "MiniGrid-Playground-v0",
    "MiniGrid-PutNear-6x6-N2-v0",
    "MiniGrid-RedBlueDoors-6x6-v0",
    "MiniGrid-Unlock-v0",
)


def environment(engine: str, tasks: tuple[str, ...], per_task: int = 1) -> MultitaskVectorEnv:
    pytest.importorskip(engine)
    config = BabyAIConfig(tasks=list(tasks), engine=engine)
    spec = make_spec(config)
    slots = [Slot(task=task, index=index) for index in range(per_task) for task in range(len(tasks))]
    return make_env(config, spec, slots, seed=0, split=Split.TRAIN)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_table_of_levels_agrees_with_the_engines(engine: str) -> None:
    pytest.importorskip(engine)
    from envs.babyai.suite import _registered_levels

    known = set(levels.LEVELS) | (set(levels.MINIGRID_ONLY) if engine == "minigrid" else set())
    # envpool 1.2.7, which Python 3.11 does not get, has one level more. Levels outside of the table can be played, too.
    newer = {"MiniGrid-MultiRoom-N4-S5-v1"} if engine == "envpool" else set()
    assert known == _registered_levels(engine) - newer


@pytest.mark.parametrize("engine", ENGINES)
def test_images_and_instructions_are_in_the_range_of_their_codes(engine: str) -> None:
    env = environment(engine, SAMPLE, per_task=2)
    rng = np.random.default_rng(0)
    counts = np.array(env.spec_of_suite.action_counts)[[slot.task for slot in env.slots]]
    observation, _ = env.reset()
    for _ in range(60):
        assert (observation["image"].reshape(-1, 3).max(axis=0) < levels.SYMBOL_COUNTS).all()
        assert (observation["instruction"] != UNKNOWN).all()
        observation, *_ = env.step(rng.integers(0, counts))
    env.close()


def test_both_engines_use_the_same_words() -> None:
    """The words of each level agree on both engines, up to chance, and are in the vocabulary."""
    tasks = ("BabyAI-GoToLocalS8N7-v0", "BabyAI-PutNextLocal-v0", "BabyAI-OpenDoorsOrderN4-v0")
    heard = {}
    for engine in ENGINES:
        env = environment(engine, tasks, per_task=40)
        observation, _ = env.reset()
        heard[engine] = [set(observation["instruction"][task :: len(tasks)].ravel().tolist()) for task in range(3)]
        assert env.spec_of_suite.vocabulary == levels.VOCABULARY
        env.close()
    assert heard["envpool"] == heard["minigrid"]
    assert all(UNKNOWN not in task for task in heard["envpool"])


def test_the_longest_sentence_of_the_grammar_fits() -> None:
    one = "put a red ball in front of you next to a red ball in front of you"
    assert len(split_words(f"{one} and {one} after you {one} and {one}")) == levels.INSTRUCTION_LENGTH
    assert len(split_words(f"{one} and {one}, then {one} and {one}")) == levels.INSTRUCTION_LENGTH
    assert len(set(levels.VOCABULARY)) == len(levels.VOCABULARY)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("task", "max_steps"), [("MiniGrid-Empty-5x5-v0", 100), ("BabyAI-GoToObjS4-v0", 16)])
def test_reward_success_and_time_limit(engine: str, task: str, max_steps: int) -> None:
    env = environment(engine, (task,), per_task=16)
    env.reset()
    rng = np.random.default_rng(0)
    successes = limits = 0
    for _ in range(3 * max_steps):
        # The last slots only turn, so that they reach the limit.
        action = np.where(np.arange(16) < 12, rng.integers(0, 3, 16), 0)
        _, reward, terminated, truncated, info = env.step(action)
        won = terminated & (reward > 0)
        np.testing.assert_allclose(
            reward[won], 1 - 0.9 * info["episode_length"][won].astype(np.float32) / max_steps, rtol=1e-5
        )
        np.testing.assert_array_equal(info["success"][terminated | truncated], won[terminated | truncated])
        assert (info["episode_length"][truncated] == max_steps).all() and not reward[truncated].any()
        successes += int(won.sum())
        limits += int(truncated.sum())
    env.close()
    assert successes > 5 and limits > 5


@pytest.mark.parametrize("engine", ENGINES)
def test_success_in_the_last_step_is_a_success_on_both_engines(engine: str) -> None:
    """MiniGrid-Empty-5x5: turn until two steps before the limit of 100, then be next to the goal and enter it."""
    env = environment(engine, ("MiniGrid-Empty-5x5-v0",))
    env.reset()
    left, right, forward = 0, 1, 2
    way = [forward, forward, right, forward]  # is above the goal, facing it
    for action in way + [left, right] * ((99 - len(way)) // 2) + [6] * ((99 - len(way)) % 2):
        _, _, terminated, truncated, _ = env.step(np.array([action]))
        assert not terminated[0] and not truncated[0]
    _, reward, terminated, truncated, info = env.step(np.array([forward]))
    env.close()
    assert reward[0] == pytest.approx(0.1) and terminated[0] and not truncated[0] and info["success"][0] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_levels_with_fewer_actions_declare_them(engine: str) -> None:
    env = environment(engine, ("MiniGrid-Dynamic-Obstacles-5x5-v0", "MiniGrid-Empty-5x5-v0"), per_task=3)
    assert env.spec_of_suite.action_counts == (3, 7) and env.spec_of_suite.num_actions == 7
    env.close()


def test_presets() -> None:
    pytest.importorskip("minigrid")
    assert len(levels.PRESETS["paper"]) == 19
    spec = make_spec(BabyAIConfig(tasks=["paper", "MiniGrid-Empty-5x5-v0"], engine="minigrid"))
    assert spec.tasks == (*levels.PRESETS["paper"], "MiniGrid-Empty-5x5-v0")
    assert make_spec(BabyAIConfig(engine="minigrid")).tasks == levels.PRESETS["starter"]


def installed(monkeypatch: pytest.MonkeyPatch, *engines: str) -> None:
    """Makes exactly these engines look installed."""
    real = importlib.util.find_spec
    absent = set(ENGINES) - set(engines)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else real(name))


def test_auto_chooses_an_installed_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("minigrid")
    installed(monkeypatch, "minigrid")
    assert make_spec(BabyAIConfig()).engine == "minigrid"
    with pytest.raises(InputError, match=r'env\.engine=envpool is not installed: pip install "mimpala\[envpool\]"'):
        make_spec(BabyAIConfig(engine="envpool"))
    installed(monkeypatch)
    with pytest.raises(InputError, match=r"env\.engine=auto.*pip install"):
        make_spec(BabyAIConfig())


def test_envpool_is_preferred() -> None:
    pytest.importorskip("envpool")
    assert make_spec(BabyAIConfig()).engine == "envpool"


@pytest.mark.parametrize(
    ("options", "words_in_message"),
    [
        ({"engine": "minigrd"}, "env.engine=minigrd"),
        ({"engine": "minigrid", "tasks": ["BabyAI-GoToLocl-v0"]}, "did you mean .*BabyAI-GoToLocal-v0"),
        ({"engine": "minigrid", "tasks": ["CartPole-v1"]}, "env.tasks=CartPole-v1"),
        ({"engine": "minigrid", "tasks": ["startr"]}, "did you mean .*starter"),
        ({"engine": "minigrid", "tasks": ["BabyAI-GoTo-v0", "BabyAI-GoTo-v0"]}, "more than once"),
        ({"engine": "minigrid", "threads": 0}, "env.threads=0"),
        ({"engine": "envpool", "tasks": ["BabyAI-SynthS5R2-v0"]}, "never returns from some resets: leave it out"),
        ({"engine": "minigrid", "tasks": ["BabyAI-SynthS5R2-v0"]}, "never returns from some resets: leave it out"),
        ({"engine": "minigrid", "tasks": ["MiniGrid-WFC-MazeSimple-v0"]}, "set env.engine=envpool"),
        ({"engine": "envpool", "tasks": ["MiniGrid-MultiRoom-N4-S5-v1"]}, "set env.engine=minigrid"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], words_in_message: str) -> None:
    for engine in ENGINES:
        if options["engine"] == engine:
            pytest.importorskip(engine)
    with pytest.raises(InputError, match=words_in_message) as error:
        make_spec(BabyAIConfig(**options))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_checking_a_config_imports_no_engine() -> None:
    """Start-up time: envpool alone takes two seconds to import."""
    pytest.importorskip("minigrid")
    program = (
        "import sys; from envs.suites import make_spec; from envs.babyai.suite import BabyAIConfig;"
        "make_spec(BabyAIConfig(tasks=['paper'])); assert not {'envpool', 'minigrid', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_levels_that_cannot_always_be_solved_are_named_with_a_fix() -> None:
    tasks = ["BabyAI-ActionObjDoor-v0", "BabyAI-GoToLocal-v0", "BabyAI-Unlock-v0", "MiniGrid-ObstructedMaze-1Q-v0"]
    named = {}
    for engine in ENGINES:
        pytest.importorskip(engine)
        named[engine] = [
            sentence.split()[0] for sentence in warnings(make_spec(BabyAIConfig(tasks=tasks, engine=engine)))
        ]
    assert named == {"envpool": [tasks[0], tasks[3]], "minigrid": [tasks[2], tasks[3]]}
    sentences = warnings(make_spec(BabyAIConfig(tasks=tasks, engine="envpool")))
    assert sentences[0].endswith("set env.engine=minigrid.") and sentences[1].endswith("leave it out.")
    assert engine_differences(make_spec(BabyAIConfig(tasks=tasks[:2], engine="envpool"))) == [
        f"{tasks[0]} is not the same on both engines: {levels.DIFFERENT[tasks[0]]}."
    ]
