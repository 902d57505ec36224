"""Observations and rewards that are not finite break off their episode and change nothing else, on both engines."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from saved_agents import CONDITIONAL, damaged, evaluated
from saved_agents import SMALL as TINY
from spoiled import LENGTH, SPOILED, MakeSpoiled, Spoils

import evaluate
import train
from ablation.run_files import read_evaluation
from agents.evaluation.report import write_report
from agents.run.metrics import MetricsLog, Statistics
from agents.run.trackers.tracker import TrackedRun, Trackers
from agents.storage.checkpoint import find_checkpoint
from envs.engines.base import Arrays, Outcome
from envs.engines.gymnasium_engine import FIRST_EPISODES, GymnasiumEngine
from envs.engines.process_engine import ProcessEngine
from envs.seeding import episode_seed
from envs.spec import Slot, Split
from envs.vector import MultitaskVectorEnv
from system.errors import InputError
from system.files import write_json

SEED = 3
SLOTS = [Slot(task=0, index=0), Slot(task=1, index=0), Slot(task=0, index=1)]
ENGINES: list[Any] = [GymnasiumEngine, ProcessEngine]

# Slot, episode, and the part that is not finite.
Spoilt = Sequence[tuple[int, int, tuple[int, str, float]]]
SPOILT: Spoilt = [
    (0, 0, (2, "vector", math.nan)),
    (0, 2, (LENGTH, "reward", math.inf)),
    (1, 0, (0, "vector", math.inf)),
    (1, 1, (0, "vector", math.nan)),
    (1, 3, (1, "reward", math.nan)),
    (1, 4, (0, "vector", -math.inf)),
    (1, 5, (1, "vector", math.nan)),
    (2, 1, (3, "reward", 1e39)),
    (2, 2, (2, "picture", math.nan)),
    (2, 4, (0, "picture", math.nan)),
]


def seed_of(slot: int, episode: int) -> int:
    return episode_seed(SEED, Split.TRAIN, SPOILED.tasks[SLOTS[slot].task], SLOTS[slot].index, episode)


def plan_of(spoilt: Spoilt) -> Spoils:
    return {seed_of(slot, episode): what for slot, episode, what in spoilt}


def life(slot: int, spoilt: Spoilt, steps: int) -> list[dict[str, Any]]:
    """The expected frames of a slot, from its first observation on."""
    plan = {episode: what for number, episode, what in spoilt if number == slot}
    episode = next(episode for episode in range(99) if plan.get(episode, (-1,))[0] != 0)
    # The age of the last valid observation determines the vector and the picture.
    shown = seed_of(slot, episode) % 1000, 0
    frames: list[dict[str, Any]] = []
    age, over = 0, False

    def add(**what: Any) -> None:
        defaults = {"reward": 0.0, "terminated": False, "interrupted": False, "episode_return": math.nan}
        frames.append({**defaults, "vector": list(shown), "image": 10 * shown[1], "episode": episode, **what})

    add()
    while len(frames) < steps:
        if over:
            episode, age, over = episode + 1, -1, False
        age += 1
        if plan.get(episode, (-1,))[0] == age:
            over = True
            add(interrupted=True)
            continue
        shown, over = (seed_of(slot, episode) % 1000, age), age == LENGTH
        add(reward=float(age), terminated=over, episode_return=float(sum(range(LENGTH + 1))) if over else math.nan)
    return frames


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_that_are_not_finite_break_off_only_their_episode(engine: Any) -> None:
    env = MultitaskVectorEnv(engine(MakeSpoiled(plan_of(SPOILT)), SPOILED, SLOTS, Split.TRAIN), SPOILED, SLOTS, SEED)
    observation, info = env.reset()
    zero = {"reward": np.zeros(3), "terminated": np.zeros(3, bool)}
    frames = [{key: value.copy() for key, value in {**observation, **info, **zero}.items()}]
    for _ in range(39):
        # New arrays at every step, as from an actor.
        env.write_into({key: np.full_like(observation[key], 77) for key in ("image", "vector")})
        observation, reward, terminated, truncated, info = env.step(np.zeros(3, np.int32))
        assert not truncated.any()
        frame = {**observation, **info, "reward": reward, "terminated": terminated}
        frames.append({key: value.copy() for key, value in frame.items()})
    for slot in range(3):
        for number, wanted in enumerate(life(slot, SPOILT, len(frames))):
            found = {key: frames[number][key][slot] for key in wanted}
            assert (found.pop("image") == wanted.pop("image")).all()
            np.testing.assert_equal({key: np.array(value).tolist() for key, value in found.items()}, wanted)
    faults = env.take_faults()
    assert [fault.cause for fault in faults] == ["nonfinite"] * len(SPOILT)
    assert not env.take_faults()
    said = {(fault.task, fault.detail) for fault in faults}
    vector = "1 of the 2 numbers of the observation's vector are not finite"
    assert ("one", f"{vector}, in episode 0 of slot 0") in said
    assert ("one", "the reward is inf, in episode 2 of slot 0") in said
    assert ("other", f"{vector}, in episode 0 of slot 0") in said
    assert ("one", "the reward is inf, in episode 1 of slot 1") in said
    assert ("one", "the picture holds a NaN, in episode 4 of slot 1") in said
    env.close()


@pytest.mark.parametrize("what", ["vector", "picture"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_slot_that_never_starts_an_episode_is_an_input_error(engine: Any, what: str) -> None:
    spoilt = [(1, episode, (0, what, math.nan)) for episode in range(FIRST_EPISODES)]
    env = MultitaskVectorEnv(engine(MakeSpoiled(plan_of(spoilt)), SPOILED, SLOTS, Split.TRAIN), SPOILED, SLOTS, SEED)
    with pytest.raises(InputError, match=r"env.tasks=other gives numbers that are not finite: .* 3 last episodes"):
        env.reset()
    env.close()


@pytest.mark.parametrize("age", [0, 1])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_slot_without_valid_steps_is_an_input_error(engine: Any, age: int) -> None:
    spoilt = [(1, episode, (age, "vector", math.nan)) for episode in range(1, 101)]
    env = MultitaskVectorEnv(engine(MakeSpoiled(plan_of(spoilt)), SPOILED, SLOTS, Split.TRAIN), SPOILED, SLOTS, SEED)
    env.reset()
    with pytest.raises(InputError, match="in all of its 100 last episodes"):
        for _ in range(220):
            env.step(np.zeros(3, np.int32))
    env.close()


# Returns


class Steady:
    """One slot with one episode of `length` steps, each with reward 0.1."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.observation: Arrays = {"vector": np.zeros((1, 2), np.float32), "image": np.zeros((1, 2, 2, 1), np.uint8)}

    def start(self, seed: int) -> None:
        self.age = 0

    def step(self, actions: NDArray[Any]) -> Outcome:
        self.age += 1
        return np.full(1, 0.1, np.float32), np.array([self.age == self.length]), np.zeros(1, np.bool_)

    def render(self, slot: int) -> NDArray[np.uint8]:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"age": self.age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.age = state["age"]

    def close(self) -> None:
        pass


def test_returns_are_summed_in_double_precision() -> None:
    """In single precision 10^5 rewards of 0.1 are 9,998.56."""
    length, action = 100_000, np.zeros(1, np.int32)
    env = MultitaskVectorEnv(Steady(length), SPOILED, SLOTS[:1], SEED)
    env.reset()
    for _ in range(length // 2):
        env.step(action)
    state = env.state_dict()
    assert state is not None
    env.load_state_dict(state)
    for _ in range(length // 2 - 1):
        env.step(action)
    info = env.step(action)[4]
    assert info["episode_return"][0] == pytest.approx(length / 10, rel=1e-6)
    assert info["episode_return"].dtype == np.float32


def test_a_saved_state_with_returns_in_single_precision_resumes(tmp_path: Path) -> None:
    """As in checkpoints of earlier versions."""
    run = tmp_path / "run"
    options = [*CONDITIONAL, *TINY, f"run={run}", "display=false", "runtime.slots_per_actor=4", "learner.batch_size=4"]
    assert train.main([*options, "total_frames=200"]) == 0

    def age(content: dict[str, Any]) -> None:
        env = content["runtime"]["actors"][0]["env"]
        assert env["return"].dtype == torch.float64
        env["return"] = env["return"].float()

    checkpoint = find_checkpoint(run, print)
    damaged(checkpoint, checkpoint, age)
    assert train.main([f"run={run}", "resume=true", "total_frames=400", "display=false"]) == 0
    result = json.loads((run / "result.json").read_text())
    # The actors continued exactly.
    assert result["frames"] >= 400 and result["episodes_dropped"] == 0


# Whole programs

SMALL = [
    *("env=gymnasium", "context=none", "core=lstm", "core.size=8", "torso.hidden=[8]", "precision=fp32"),
    *("runtime.num_actors=1", "runtime.slots_per_actor=4", "learner.batch_size=4", "learner.unroll_length=10"),
    *("display=false", "log_seconds=0", "runtime.max_restarts=0"),
]


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.slow
@pytest.mark.usefixtures("process_settings", "nothing_is_left_behind")
@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("Seldom", ["runtime=serial"]),
        ("Infinite", ["runtime=serial", "env.processes=true"]),
        ("First", ["runtime=local"]),
        ("Dm", ["runtime=serial"]),
        ("Seldom", ["runtime=local", "env.processes=true"]),
    ],
)
def test_training_counts_interrupted_episodes_and_evaluation_replaces_them(
    task: str, more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = [f"env.tasks=[spoiled:{task}-v0]", f"run={run}", "total_frames=800", *more]
    assert train.main([*SMALL, *options]) == 0
    said = capsys.readouterr().out
    assert f"an environment of actor 0 (task spoiled:{task}-v0) broke: " in said
    assert "(10 such episodes of this task so far)" in said
    rows = [strict(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records = [strict(line) for line in (run / "faults.jsonl").read_text().splitlines()]
    result = strict((run / "result.json").read_text())
    figures = result["tasks"][f"spoiled:{task}-v0"]
    assert result["updates_refused"] == 0 and result["restarts"] == 0
    assert all(record["cause"] == "nonfinite" for record in records)
    assert len(records) == rows[-1]["nonfinite"] == result["nonfinite"] == result["episodes_dropped"] > 10
    # Skipped at the start, or part of an unroll after the end.
    assert 0 < figures["interrupted"] <= len(records) <= figures["interrupted"] + 8
    # One episode in eight.
    assert 0.05 < figures["interrupted"] / (figures["interrupted"] + figures["episodes"]) < 0.25
    assert figures["return"] == sum(range(LENGTH + 1)) and figures["length"] == LENGTH
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))

    content = evaluated(find_checkpoint(run, print), tmp_path / "out.json", "episodes=40", "slots=4", "allow=[spoiled]")
    row = content["tasks"][f"spoiled:{task}-v0"]
    assert row["episodes"] == 40 and row["returns"] == [sum(range(LENGTH + 1))] * 40
    assert row["lengths"] == [LENGTH] * 40
    assert 0 < row["interrupted"] < 40
    # The report holds the seeds of complete episodes only.
    assert not any(seed // 2 % 8 == 0 for seed in row["seeds"]) and len(set(row["seeds"])) == 40


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["true", "false"])
def test_environments_without_finite_numbers_end_the_training_with_an_input_error(
    processes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task, episodes in (("Never", 3), ("Always", 100)):
        more = [f"env.tasks=[spoiled:{task}-v0]", f"run={tmp_path / task}", f"env.processes={processes}"]
        assert train.main([*SMALL, *more, "runtime=serial", "total_frames=1000"]) == 2
        said = capsys.readouterr().err
        assert f"error: env.tasks=spoiled:{task}-v0 gives numbers that are not finite: 1 of the 2 numbers" in said
        assert f"in all of its {episodes} last episodes" in said and "Traceback" not in said


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one valid task and on others that it was not trained on."""
    run = tmp_path_factory.mktemp("agent") / "run"
    assert train.main([*SMALL, "env.tasks=[spoiled:Good-v0]", f"run={run}", "runtime=serial", "total_frames=80"]) == 0
    return run


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("Always", "gives numbers that are not finite in 3 episodes of a slot running"),
        ("Endless", "has an episode that has not ended after max_steps=40: give a larger max_steps="),
    ],
)
def test_an_evaluation_that_cannot_continue_stops_with_an_input_error_and_keeps_its_episodes(
    agent: Path, task: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    options = [f"run={agent}", f"output={output}", "episodes=6", "slots=2", "max_steps=40"]
    assert evaluate.main([*options, f"tasks=[spoiled:Good-v0,spoiled:{task}-v0]"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: tasks=spoiled:{task}-v0 {reason}") and said.count("\n") == 1
    content = strict(output.read_text())
    assert content["tasks"].keys() == {"spoiled:Good-v0"}
    assert content["tasks"]["spoiled:Good-v0"]["returns"] == [sum(range(LENGTH + 1))] * 6
    assert f"error: {content['stopped']}" == said.strip()
    # Without episodes no file is written.
    output.unlink()
    assert evaluate.main([*options, f"tasks=[spoiled:{task}-v0]"]) == 2
    assert not output.exists()


def test_a_task_without_finite_numbers_is_refused_before_any_episode(
    agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    options = [f"run={agent}", f"output={output}", "episodes=6", "slots=2", "tasks=[spoiled:Good-v0,spoiled:Never-v0]"]
    assert evaluate.main(options) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: tasks=spoiled:Never-v0 gives numbers that are not finite: 1 of the 2 numbers")
    assert said.count("\n") == 1 and not output.exists()


def test_an_episode_as_long_as_the_limit_counts(agent: Path, tmp_path: Path) -> None:
    options = ["episodes=9", "slots=2", "allow=[spoiled]"]
    content = evaluated(find_checkpoint(agent, print), tmp_path / "out.json", *options, f"max_steps={LENGTH}")
    assert content["tasks"]["spoiled:Good-v0"]["lengths"] == [LENGTH] * 9
    output = tmp_path / "short.json"
    more = [f"run={agent}", f"output={output}", *options, f"max_steps={LENGTH - 1}"]
    assert evaluate.main(more) == 2
    assert not output.exists()


def test_every_file_is_strict_json_for_any_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"a": [math.inf, 1.0], "b": {"c": math.nan}, "d": (-math.inf, 2)})
    assert strict((tmp_path / "result.json").read_text()) == {"a": [None, 1.0], "b": {"c": None}, "d": [None, 2]}
    statistics = Statistics(("one",))
    statistics.tasks["one"].recent.append((math.inf, math.nan, 3))
    tasks = statistics.summary(1)
    log = MetricsLog(tmp_path, 0, Trackers((), TrackedRun(tmp_path, {}, 0), print))
    log.write(
        {"updates": 1.0, "frames": 4.0, "loss/total": math.inf, "x": math.nan, "y": -math.inf, "z": 2.0},
        tasks,
        "nothing",
    )
    log.close()
    row = strict((tmp_path / "metrics.jsonl").read_text())
    assert "tasks/one/return" not in row and row["tasks/one/length"] == 3
    assert {key for key in row if "/" not in key} == {"updates", "frames", "z", "limited_by"}
    content = {"tasks": {"one": {"mean": math.inf, "interval": (math.nan, math.inf)}}}
    write_report(tmp_path / "evaluation.json", content)
    assert strict((tmp_path / "evaluation.json").read_text()) == {
        "tasks": {"one": {"mean": None, "interval": [None] * 2}}
    }


def test_grids_and_reports_ignore_a_stopped_evaluation(tmp_path: Path) -> None:
    content = {
        "tasks": {"one": {"episodes": 1, "mean": 0.0, "success": None}},
        "provenance": {"updates": 1, "seed": 0, "greedy": False},
    }
    write_report(tmp_path / "evaluation.json", content)
    assert read_evaluation(tmp_path)
    write_report(tmp_path / "evaluation.json", content | {"stopped": "tasks=one ..."})
    assert not read_evaluation(tmp_path)
