"""evaluate.py: counted episodes, tasks, the result file, videos and the program."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from saved_agents import evaluated, make_checkpoint

import evaluate
from agents.evaluation import episodes, video
from agents.evaluation.episodes import SavedAgent, evaluation_spec, load_agent, quotas, seat
from agents.evaluation.intervals import interval
from agents.evaluation.report import mean, results_folder
from agents.fusion.segments import Segments
from agents.storage.checkpoint import find_checkpoint
from conf.evaluate_schema import EvaluateConfig
from envs.engines.base import Arrays, Outcome
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from envs.suites import make_env
from envs.vector import MultitaskVectorEnv

pytestmark = pytest.mark.usefixtures("tests_keep_their_threads")


# Counted episodes


def test_quotas_are_fixed_in_advance() -> None:
    assert quotas(10, 4) == [3, 3, 2, 2]
    assert quotas(3, 8) == [1, 1, 1]
    assert quotas(100, 0) == [2] * 36 + [1] * 28


class ScriptedEngine:
    """Slot s plays episodes of s + 1 steps with the return 100 * s + number of the episode, for any actions."""

    def __init__(self, env: EnvSpec, slots: Sequence[Slot]) -> None:
        self.slots = len(slots)
        self.observation: Arrays = {
            key: np.zeros((self.slots, *array.shape), array.dtype) for key, array in env.observation.items()
        }

    def start(self, seed: int) -> None:
        self.episode, self.age = np.zeros(self.slots, int), np.zeros(self.slots, int)
        self.ended = np.zeros(self.slots, bool)

    def step(self, actions: NDArray[np.int32]) -> Outcome:
        self.episode += self.ended
        self.age = (self.age + 1) * ~self.ended
        going = ~self.ended
        self.ended = going & (self.age == np.arange(self.slots) + 1)
        reward = np.where(self.ended, 100 * np.arange(self.slots) + self.episode, 0).astype(np.float32)
        return reward, self.ended.copy(), np.zeros(self.slots, np.bool_)

    def render(self, slot: int) -> NDArray[np.uint8]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def test_every_slot_plays_its_quota_and_the_short_episodes_of_fast_slots_are_not_counted(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scripted(config: Any, spec: EnvSpec, slots: Sequence[Slot], seed: int, split: Split) -> MultitaskVectorEnv:
        return MultitaskVectorEnv(ScriptedEngine(spec, slots), spec, slots, seed)

    monkeypatch.setattr(episodes, "make_env", scripted)
    task = evaluated(checkpoint, tmp_path / "out.json", "episodes=32", "slots=30", "tasks=[map-0]")["tasks"]["map-0"]
    expected = [0, 1, 100, 101, *(100 * slot for slot in range(2, 30))]
    assert task["returns"] == expected
    assert task["lengths"] == [1, 1, 2, 2, *range(3, 31)]
    assert task["episodes"] == 32
    assert task["mean"] == pytest.approx(np.mean(expected))


def naive_episode(agent: SavedAgent, task: str, slot: int, number: int) -> tuple[float, int]:
    """Return and length of one greedy episode, computed with the network alone."""
    task_id = agent.env.tasks.index(task)
    place = Slot(task=task_id, index=slot, episode=number)
    env = make_env(agent.config.env, agent.env, [place], 0, Split.EVALUATION)
    network = agent.network(agent.env).eval()
    encoder = network.context_encoder
    state = torch.zeros(1, network.core_state_size)
    observation, _ = env.reset()
    action, reward, total, length = agent.env.num_actions, 0.0, 0.0, 0
    while True:
        inputs = {key: torch.from_numpy(np.array(value))[None] for key, value in observation.items()}
        inputs |= {"reset": torch.tensor([[length == 0]]), "last_action": torch.tensor([[action]])}
        inputs["last_reward"] = torch.tensor([[reward]])
        with torch.no_grad():
            rows = encoder.context_rows(np.array([task_id], np.int32), None)
            modulations = network.condition(encoder.contexts_from_rows(rows))
            output = network.unroll(inputs, state, modulations, Segments(torch.zeros(1, dtype=torch.int64), 1))
        state, action = output.core_state, int(output.policy_logits.argmax())
        observation, rewards, terminated, truncated, _ = env.step(np.array([action]))
        reward, length = float(rewards[0]), length + 1
        total += reward
        if terminated[0] or truncated[0]:
            return total, length


@pytest.mark.parametrize("slots", [1, 3])
def test_greedy_evaluation_equals_episodes_played_one_by_one(checkpoint: Path, tmp_path: Path, slots: int) -> None:
    agent = load_agent(checkpoint)
    found = evaluated(checkpoint, tmp_path / "out.json", "episodes=24", f"slots={slots}", "greedy=true")
    for task, row in found["tasks"].items():
        played = [naive_episode(agent, task, slot, number) for slot in range(slots) for number in range(24 // slots)]
        assert list(zip(row["returns"], row["lengths"], strict=True)) == played
        assert 0 < row["mean"] < 1  # both outcomes happen, so the comparison has something to compare


def test_seeds_are_those_of_the_evaluation_half_of_the_seed_tree(checkpoint: Path, tmp_path: Path) -> None:
    row = evaluated(checkpoint, tmp_path / "out.json", "episodes=5", "slots=2", "tasks=[map-1]", "seed=3")["tasks"][
        "map-1"
    ]
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert row["seeds"] == [episode_seed(3, Split.EVALUATION, "map-1", slot, number) for slot, number in places]
    training = {episode_seed(3, Split.TRAIN, "map-1", slot, number) for slot in range(8) for number in range(200)}
    assert training.isdisjoint(row["seeds"])


def test_the_same_evaluation_gives_the_same_file_and_another_seed_does_not(checkpoint: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    returns = [row["returns"] for row in evaluated(checkpoint, first, "episodes=40")["tasks"].values()]
    evaluated(checkpoint, second, "episodes=40")
    assert first.read_bytes() == second.read_bytes()
    other = evaluated(checkpoint, second, "episodes=40", "seed=1")
    assert [row["returns"] for row in other["tasks"].values()] != returns


# Tasks


def test_a_task_is_found_by_name_in_any_order(checkpoint: Path, tmp_path: Path) -> None:
    agent = load_agent(checkpoint)
    spec = evaluation_spec(agent, ["memory-0", "map-1"], "")
    assert spec.tasks == ("memory-0", "map-1")
    assert [seat(agent, spec, task)[1] for task in spec.tasks] == [2, 1]
    everything = evaluated(checkpoint, tmp_path / "all.json", "episodes=20")["tasks"]
    some = evaluated(checkpoint, tmp_path / "some.json", "episodes=20", "tasks=[memory-0,map-1]")["tasks"]
    assert some == {task: everything[task] for task in ("memory-0", "map-1")}


def test_an_agent_that_reads_no_task_ids_plays_all_tasks_of_its_suite(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "env=conditional", "env.tasks=[map-0]", "context=none", "fusion.sites=[]")
    found = evaluated(path, tmp_path / "out.json", "episodes=2", "tasks=[memory]")
    assert list(found["tasks"]) == [f"memory-{number}" for number in range(8)]
    assert not any(row["trained"] for row in found["tasks"].values())
    assert all(row["length"] == 4 for row in found["tasks"].values())


def test_babyai_by_instruction_with_fewer_actions_and_long_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("minigrid")
    levels = ["env.tasks=[BabyAI-GoToObjS4-v0,BabyAI-GoToRedBallNoDists-v0]", "env.engine=minigrid"]
    path = make_checkpoint(tmp_path, "env=babyai", *levels, "context=instruction")
    task = "MiniGrid-Dynamic-Obstacles-5x5-v0"  # has 3 of the 7 actions, and minigrid objects to the others
    agent = load_agent(path)
    env, task_id = seat(agent, evaluation_spec(agent, [task], ""), task)
    assert (env.tasks[task_id], env.action_counts[task_id]) == (task, 3)
    evaluated(path, tmp_path / "out.json", "episodes=2", f"tasks=[{task},BabyAI-GoToObjS4-v0]")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(task) and "%" in line for line in lines)


# The result file


def test_the_result_file(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "deep" / "out.json"
    found = evaluated(checkpoint, output, "episodes=12")
    assert "NaN" not in output.read_text(encoding="utf-8")
    assert os.listdir(output.parent) == ["out.json"]
    for row in found["tasks"].values():
        assert row["episodes"] == len(row["returns"]) == len(row["seeds"]) == 12
        assert row["interval"][0] <= row["mean"] <= row["interval"][1]
        assert row["success_interval"][0] <= row["success"] <= row["success_interval"][1]
        assert row["success"] == row["mean"]
    aggregate, provenance = found["aggregate"], found["provenance"]
    assert aggregate["mean"] == pytest.approx(np.mean([row["mean"] for row in found["tasks"].values()]))
    assert aggregate["interval"][0] < aggregate["mean"] < aggregate["interval"][1]
    assert provenance["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (provenance["updates"], provenance["greedy"], provenance["seed"]) == (0, False, 0)
    printed = capsys.readouterr().out
    assert all(task in printed for task in (*found["tasks"], "mean of 3 tasks", "95% interval", str(output)))


def test_one_episode_has_no_interval(checkpoint: Path, tmp_path: Path) -> None:
    found = evaluated(checkpoint, tmp_path / "out.json", "episodes=1")
    assert found["aggregate"]["interval"] is None
    assert found["tasks"]["map-0"]["interval"] is None


def test_the_folder_of_the_result(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    files = [folder / f"checkpoint-{number:012d}.pt" for number in (9, 10)]
    for path in files:
        path.write_bytes(checkpoint.read_bytes())
    assert find_checkpoint(tmp_path / "run", print) == files[1]
    assert results_folder(tmp_path / "run", files[1]) == tmp_path / "run"
    # A checkpoint belongs to a run only if the parent of its folder is a run folder.
    assert results_folder(files[0], files[0]) == folder
    (tmp_path / "run" / "config.yaml").touch()
    assert results_folder(files[0], files[0]) == tmp_path / "run"
    assert evaluate.main([f"run={tmp_path / 'run'}", "episodes=1", "tasks=[map-0]"]) == 0
    assert (tmp_path / "run" / "evaluation.json").exists()


def test_intervals() -> None:
    rng = np.random.default_rng(1)
    sample = (rng.random(200) < 0.3).astype(float)
    low, high = interval([sample]) or (np.nan, np.nan)
    error = 1.96 * sample.std() / np.sqrt(200)  # the normal approximation is good here
    assert low == pytest.approx(sample.mean() - error, abs=0.015)
    assert high == pytest.approx(sample.mean() + error, abs=0.015)
    assert interval([sample]) == (low, high)
    # Stratified: differences between tasks are not uncertainty.
    both = interval([sample, sample + 10]) or (np.nan, np.nan)
    assert both[1] - both[0] == pytest.approx((high - low) / np.sqrt(2), rel=0.15)
    assert mean([np.zeros(2), np.ones(50)]) == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Equal episodes do not prove that further ones would be equal.
        low, high = interval([np.zeros(5), np.ones(5)], ranges=[(0, 1), (0, 1)]) or (np.nan, np.nan)
        assert low < 0.4 and high > 0.6
        assert interval([np.full(7, 0.1)]) is None


# Videos


@pytest.mark.parametrize("ffmpeg", [True, False])
def test_videos_decode(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ffmpeg: bool) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    find = video.importlib.util.find_spec
    if not ffmpeg:
        without = lambda name, *rest: None if name == "imageio_ffmpeg" else find(name, *rest)  # noqa: E731
        monkeypatch.setattr(video.importlib.util, "find_spec", without)
    alone = tmp_path / "agent.pt"
    alone.write_bytes(checkpoint.read_bytes())
    evaluated(alone, tmp_path / "out.json", "episodes=1", "tasks=[memory-0]", "video=true", "video_episodes=2")
    assert os.listdir(tmp_path / "videos") == ["memory-0.mp4" if ffmpeg else "memory-0.gif"]
    frames = list(imageio.get_reader(next((tmp_path / "videos").iterdir())).iter_data())
    assert len({frame.shape for frame in frames}) == 1
    assert min(frames[0].shape[:2]) >= 256
    if ffmpeg:  # a GIF may join equal pictures
        steps, held = 4, 6
        assert len(frames) == 2 * (steps + held)


def test_names_of_video_files_never_leave_the_folder() -> None:
    tasks = ["../../etc/passwd", "a/b", "a_b", "A:B", "", "..", "/", "x" * 500, "red ball \N{SNOWMAN}", "-v0"]
    names = video.file_names(tasks)
    assert list(names) == tasks
    assert len({name.lower() for name in names.values()}) == len(tasks)
    for name in names.values():
        assert Path(name).name == name
        assert not name.startswith(".")
        assert len(name) < 120


# The program


def test_help_and_interruption(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {field.name}=" in printed for field in dataclasses.fields(EvaluateConfig))

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "play", interrupted)
    assert evaluate.main([f"run={checkpoint}", f"output={tmp_path / 'out.json'}"]) == 130
    assert not (tmp_path / "out.json").exists()
