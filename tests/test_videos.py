"""Videos have the frame rate of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gym_tasks
import pytest
from saved_agents import CONDITIONAL, SMALL, evaluated, make_checkpoint

from agents.acting.actor import Actor
from agents.evaluation import video
from agents.evaluation.episodes import SavedAgent, evaluation_spec, load_agent, make_actor
from agents.evaluation.video import WITHOUT_CLOCK, picture_rates, record
from conf.evaluate_schema import EvaluateConfig
from conf.loading import compose_train
from envs.suites import make_spec

pytestmark = [pytest.mark.usefixtures("tests_keep_their_threads")]


@pytest.mark.parametrize(
    ("keys", "rates", "module"),
    [
        (["env=atari", "env.tasks=[Pong]"], {"Pong": 15}, "ale_py"),
        (["env=atari", "env.tasks=[Pong]", "env.action_repeat=2"], {"Pong": 30}, "ale_py"),
        (["env=vizdoom", "env.tasks=[basic]"], {"basic": 35 / 4}, "vizdoom"),
        (["env=vizdoom", "env.tasks=[basic]", "env.action_repeat=1"], {"basic": 35}, "vizdoom"),
        (["env=dmlab30", "env.tasks=[lt_chasm]"], {"lt_chasm": 15}, "deepmind_lab"),
        (["env=dmlab30", "env.tasks=[lt_chasm]", "env.action_repeat=6"], {"lt_chasm": 10}, "deepmind_lab"),
        (["env=babyai", "env.tasks=[BabyAI-GoToObj-v0]"], {"BabyAI-GoToObj-v0": 10}, "envpool"),
        (["env=gymnasium"], {"CartPole-v1": 50, "Acrobot-v1": 15}, "gymnasium"),
        (["env=gymnasium", "env.tasks=[Match-v0]"], {"Match-v0": 4}, "gymnasium"),
        (CONDITIONAL, {}, "numpy"),
    ],
)
def test_each_suite_names_the_rate_of_its_games(keys: list[str], rates: dict[str, float], module: str) -> None:
    pytest.importorskip(module)
    assert picture_rates(make_spec(compose_train([*keys, "context=task"]).env)) == pytest.approx(rates)


@pytest.mark.parametrize("declared", [None, "fast", 0, -1, float("nan"), float("inf"), [30]])
def test_an_invalid_frame_rate_is_ignored(declared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym_tasks.Match.metadata, "render_fps", declared)
    assert not make_spec(compose_train(["env=gymnasium", "env.tasks=[Match-v0]"]).env).frame_rates


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> SavedAgent:
    return load_agent(make_checkpoint(tmp_path_factory.mktemp("agent"), *CONDITIONAL, *SMALL))


def actor(agent: SavedAgent) -> Actor:
    return make_actor(agent, evaluation_spec(agent, [], ""), "memory-0", 1, EvaluateConfig())


@pytest.mark.parametrize(
    ("rate", "shown", "count"),
    [(WITHOUT_CLOCK, 8, 4 + 6), (15, 15, 4 + 11), (35 / 4, 8.75, 4 + 7), (60, 60, 4 + 45), (120, 60, (4 + 90) / 2)],
)
def test_a_video_has_the_given_frame_rate(
    agent: SavedAgent, tmp_path: Path, rate: float, shown: float, count: int
) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    reader = imageio.get_reader(record(actor(agent), agent.env, 1, tmp_path, "film", rate))
    assert reader.get_meta_data()["fps"] == pytest.approx(shown, abs=0.01)
    assert len(list(reader.iter_data())) == count


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "milliseconds"), [(8, 125), (15, 67), (50, 20), (100, 20)])
def test_a_gif_has_the_given_frame_rate(
    agent: SavedAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, milliseconds: float
) -> None:
    imageio = pytest.importorskip("imageio.v2")
    find = video.importlib.util.find_spec
    without = lambda name, *rest: None if name == "imageio_ffmpeg" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(video.importlib.util, "find_spec", without)
    reader = imageio.get_reader(record(actor(agent), agent.env, 1, tmp_path, "film", rate))
    # GIF stores durations in hundredths of a second.
    assert reader.get_meta_data()["duration"] == pytest.approx(milliseconds, abs=10)


@pytest.mark.slow
def test_the_video_of_an_evaluation_lasts_as_long_as_the_episode(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    task = "rooms_select_nonmatching_object"
    small = ["core.size=8", "fusion.size=8", "torso.size=8", "env.width=32", "env.height=24", "env.processes=false"]
    run = make_checkpoint(tmp_path, "env=dmlab30", f"env.tasks=[{task}]", *small, "runtime=serial")
    alone = tmp_path / "agent.pt"
    alone.write_bytes(run.read_bytes())
    evaluated(alone, tmp_path / "out.json", "episodes=1", "video=true", "video_episodes=1")
    film = imageio.get_reader(tmp_path / "videos" / f"{task}.mp4").get_meta_data()
    # 720 frames at 60 per second, and the repeated last frame.
    assert film["fps"] == 15 and film["duration"] == pytest.approx(12 + 0.75, abs=0.1)
