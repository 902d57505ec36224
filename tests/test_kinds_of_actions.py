"""Runs with every kind of actions, from the command line to the checkpoint, which also learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gym_tasks  # noqa: F401  (spawned actors find it on the same path)
import numpy as np
import pytest
import torch
from gym_tasks import CHOICES
from saved_agents import make_checkpoint

import evaluate
import train
from agents.evaluation.episodes import evaluation_spec, load_agent, seat
from agents.network.actions import action_distribution
from agents.runtime.base import StreamPositions
from agents.setup import builder
from benchmarks import batches
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import make_spec
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")

TASKS = {"discrete": "Match", "multi_discrete": "Pair", "continuous": "Point"}


def arguments(kind: str, *more: str) -> list[str]:
    return [
        *("env=gymnasium", f"env.tasks=[gym_tasks:{TASKS[kind]}-v0]", "torso.hidden=[32]", "fusion.size=32"),
        *("runtime=serial", "runtime.slots_per_actor=32", "learner.unroll_length=8"),
        *("precision=fp32", "display=false", *more),
    ]


def described(*given: str) -> tuple[TrainConfig, EnvSpec]:
    config = compose_train(list(given))
    return config, make_spec(config.env)


@pytest.mark.parametrize("kind", TASKS)
def test_an_actors_own_log_rhos_are_zero(kind: str) -> None:
    """Through environment, trajectory and learner, the stored action is the one that was taken."""
    config, env = described(*arguments(kind, "env.options={end: 0.3}"))
    torch.manual_seed(0)
    network = builder.build_network(config, env)
    learner = builder.build_learner(config, env, network)
    runtime = builder.build_runtime(config, env, network, StreamPositions(), 0)
    seen: list[torch.Tensor] = []
    log_prob = type(network.actions).log_prob

    class Watched(type(network.actions)):  # type: ignore[misc]
        def log_prob(self, parameters: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            found = log_prob(self, parameters, action)
            seen.append(found.detach())
            return found

    try:
        for _ in range(2):
            batch = runtime.collect().trajectory
        object.__setattr__(network.actions, "__class__", Watched)
        learner.step(batch)
    finally:
        runtime.close()
    torch.testing.assert_close(seen[0], batch["behaviour_log_probs"], atol=1e-4, rtol=0)
    # The first step of an episode has no last action; every other step has the one before.
    nothing = network.actions.no_action(1)[0]
    begins = batch["reset"][1:]
    assert begins.any() and (batch["last_action"][1:][begins] == nothing).all()
    assert torch.equal(batch["last_action"][1:][~begins], batch["action"][~begins])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "learning_rate", "untrained", "learned"),
    [("multi_discrete", 5e-3, 0.45, 0.9), ("continuous", 2e-3, 0.72, 0.85)],
)
def test_every_kind_of_actions_learns(kind: str, learning_rate: float, untrained: float, learned: float) -> None:
    """Learns to choose the shown target in 160 updates; numbers are mean rewards per step, at most 1."""
    quick = ["learner.discounting=0", "learner.anneal=false", "fusion.sites=[]", "context=none"]
    small = ["runtime.slots_per_actor=16", "learner.batch_size=16", f"learner.learning_rate={learning_rate}"]
    config, env = described(*arguments(kind, *quick, *small))
    torch.manual_seed(1)
    network = builder.build_network(config, env)
    learner = builder.build_learner(config, env, network)
    runtime = builder.build_runtime(config, env, network, StreamPositions(), 0)
    rewards = []
    try:
        for _ in range(40):
            batch = runtime.collect().trajectory
            rewards.append(float(batch["reward"][batch["mask"]].mean()))
            for _ in range(config.learner.passes):
                learner.step(batch)
            runtime.publish(learner.counters.updates)
    finally:
        runtime.close()
    assert np.mean(rewards[:3]) < untrained
    assert np.mean(rewards[-5:]) > learned


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("multi_discrete", ["learner.popart=false", "learner.optimizer=rmsprop"]),
        ("continuous", ["learner.replay_fraction=0.5", "learner.batch_size=64", "match_params=concat"]),
    ],
)
def test_a_run_from_training_to_evaluation(kind: str, more: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = arguments(kind, f"run={run}", "total_frames=600", "fusion.sites=[core_input,policy]", *more)
    assert train.main(given) == 0
    assert train.main([*given, "resume=true", "total_frames=900"]) == 0
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["finished"] and result["frames"] >= 900
    assert evaluate.main([f"run={run}", "episodes=3", "greedy=true", "probe=zero", "allow=[gym_tasks]"]) == 0
    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert all(0 < row["mean"] < 9 and row["success"] is None for row in found["tasks"].values())
    assert "zero" in found["probes"]


def test_videos_show_continuous_actions_too(tmp_path: Path) -> None:
    pytest.importorskip("imageio")
    path = make_checkpoint(tmp_path, "env=gymnasium", "env.tasks=[gym_tasks:PointShort-v0]")
    output = f"output={tmp_path / 'out.json'}"
    assert (
        evaluate.main([f"run={path}", "episodes=1", "video=true", "video_episodes=1", "allow=[gym_tasks]", output]) == 0
    )
    assert [file.stat().st_size > 500 for file in (tmp_path / "videos").iterdir()] == [True]


def test_a_small_task_is_evaluated_with_the_interface_of_all(tmp_path: Path) -> None:
    """Alone, the task has fewer actions and a shorter vector than together with the others."""
    names = [f"gym_tasks:{name}-v0" for name in ("MatchFew", "MatchShifted", "Match")]
    path = make_checkpoint(
        tmp_path, "env=gymnasium", f"env.tasks=[{','.join(names[:2])}]", "context=none", "fusion.sites=[]"
    )
    agent = load_agent(path, ["gym_tasks"])
    spec = evaluation_spec(agent, names[:1], "")
    assert (spec.tasks, spec.num_actions, spec.action_counts) == (tuple(names[:1]), 4, (2,))
    # Also a task that was not trained, if it is not larger.
    untrained = evaluation_spec(agent, names[2:], "")
    env, task_id = seat(agent, untrained, names[2])
    assert (env.tasks[task_id], env.action_counts[task_id]) == (names[2], 3)
    output = f"output={tmp_path / 'out.json'}"
    assert evaluate.main([f"run={path}", f"tasks=[{names[0]},{names[2]}]", "episodes=2", output]) == 0
    with pytest.raises(InputError, match=r"observation \w+ was \w+ \[.*\] and is .*: choose tasks that show and take"):
        evaluation_spec(agent, ["gym_tasks:Nested-v0"], "")


def test_another_action_space_is_another_agent(tmp_path: Path) -> None:
    path = make_checkpoint(
        tmp_path, "env=gymnasium", "env.tasks=[gym_tasks:Point-v0]", "context=none", "fusion.sites=[]"
    )
    with pytest.raises(InputError, match="another continuous action space"):
        evaluation_spec(load_agent(path, ["gym_tasks"]), ["gym_tasks:Fine-v0"], "")


@pytest.mark.parametrize("kind", TASKS)
def test_benchmarks_sample_actions_of_every_kind(kind: str) -> None:
    config, env = described(*arguments(kind))
    actions = action_distribution(env)
    batch = batches.synthetic(env, 20, 8, 16)
    learner = builder.build_learner(config, env, builder.build_network(config, env))
    batch["core_state"] = torch.zeros(8, learner.network.core_state_size)
    assert all(value.isfinite().all() for value in learner.step(batch).values())
    shown = batch["last_action"][1:]
    assert torch.equal(shown[~batch["reset"][1:]], batch["action"][~batch["reset"][1:]])
    uniform: dict[str, Any] = {"discrete": -np.log(3), "multi_discrete": -np.log(CHOICES).sum()}
    if kind in uniform:
        np.testing.assert_allclose(batch["behaviour_log_probs"], uniform[kind], rtol=1e-5)
    assert batch["action"].shape == (20, 8, *actions.shape)
    play = batches.RandomPlay(config, env)
    assert play.play() > 0
    play.close()
