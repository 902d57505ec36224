"""examples/impala_mi.py computes what the framework computes, and learns."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from agents.learning.learner import Learner
from agents.network.actions import Categorical
from agents.network.agent import AgentNetwork
from agents.runtime.base import StreamPositions
from agents.setup.builder import build_learner, build_network, build_runtime
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.suites import make_spec
from examples import impala_mi

EXAMPLE = Path(impala_mi.__file__)
UPDATES = 20
# Two unrolls are played before the updates from them, so the second update is off-policy and V-trace corrects it.
PLAYED = 2
# Adam divides each gradient by its running size. With the default epsilon of 1e-8, the rounding error of a gradient near zero becomes a
# step of 1e-5. With 1e-5 the parameters of both differ by 2e-7. The gradients are longer than 0.02, so that they are clipped.
OVERRIDES = [
    *("env=conditional", "env.tasks=[map,memory]", "env.num_tasks=4", "env.delay=1", "fusion=mi", "context=task"),
    *(
        "runtime=serial",
        "precision=fp32",
        "runtime.slots_per_actor=32",
        "learner.lambda_=1",
        "learner.pg_bootstrap=paper",
    ),
    *("learner.epsilon=1e-5", "learner.max_gradient_norm=0.02", "total_frames=10000", "seed=3"),
]
# Name in the framework -> name in the example.
NAMES = {
    "context_encoder.task_embedding.weight": "z",
    "torso.layers.0.weight": "torso.weight",
    "torso.layers.0.bias": "torso.bias",
    "fusions.core_input.W": "fusion.W",
    "fusions.core_input.U": "fusion.U",
    "fusions.core_input.V": "fusion.V",
    "fusions.core_input.b": "fusion.b",
    "core.lstm.weight_ih_l0": "lstm.weight_ih",
    "core.lstm.weight_hh_l0": "lstm.weight_hh",
    "core.lstm.bias_ih_l0": "lstm.bias_ih",
    "core.lstm.bias_hh_l0": "lstm.bias_hh",
    "policy.weight": "policy.weight",
    "policy.bias": "policy.bias",
    "value_head.weight": "value_head.weight",
    "value_head.bias": "value_head.bias",
}
CONSTANTS = (
    *("total_steps", "learning_rate", "epsilon", "max_gradient_norm", "discounting", "baseline_cost", "entropy_cost"),
    *("reward_clip", "popart_step_size"),
)
"""The settings of the learner."""


class Run(NamedTuple):
    """A run of the framework."""

    config: TrainConfig
    initial: dict[str, Tensor]  # parameters before the first update, by their names in the example
    noise: list[Tensor]  # of each unroll, [T, B, A]
    actions: list[Tensor]  # of each unroll, [T, B]
    learner: Learner  # after the last update


def settings(config: TrainConfig) -> impala_mi.Settings:
    """The example's settings of a configuration of train.py."""
    learner = config.learner
    return impala_mi.Settings(
        total_steps=config.total_frames,
        seed=config.seed,
        unroll_length=learner.unroll_length,
        batch_size=learner.batch_size or config.runtime.slots_per_actor,
        context_size=config.context.task_size,
        torso_size=config.torso.hidden[0],
        fusion_size=config.fusion.size,
        core_size=config.core.size,
        learning_rate=learner.learning_rate,
        epsilon=learner.epsilon,
        max_gradient_norm=learner.max_gradient_norm,
        discounting=learner.discounting,
        baseline_cost=learner.baseline_cost,
        entropy_cost=learner.entropy_cost,
        reward_clip=learner.reward_clip,
        popart_step_size=learner.popart_step_size,
    )


def parameters(network: AgentNetwork) -> dict[str, Tensor]:
    """Copies of the framework's parameters by their names in the example. The framework stores W [Z, Y, X] as [Z, Y X]."""
    found = {NAMES[name]: value.detach().clone() for name, value in network.state_dict().items()}
    X, Z = found["fusion.V"].shape[1], len(found["fusion.W"])
    return found | {"fusion.W": found["fusion.W"].view(Z, -1, X)}


@pytest.fixture(scope="module")
def framework() -> Run:
    """The first updates of train.py's serial runtime."""
    config = compose_train(OVERRIDES)
    torch.manual_seed(config.seed)
    env = make_spec(config.env)
    network = build_network(config, env)
    initial, noise, actions = parameters(network), [], []
    draw = Categorical.noise

    def record(*arguments: Any) -> Tensor:
        noise.append(draw(*arguments))
        return noise[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Categorical, "noise", record)
        learner = build_learner(config, env, network)
        runtime = build_runtime(config, env, network, StreamPositions(), 0)
        for _ in range(UPDATES // PLAYED):
            # A batch is valid until the next `collect`.
            played = [
                {key: array.clone() for key, array in runtime.collect().trajectory.items()} for _ in range(PLAYED)
            ]
            for trajectory in played:
                actions.append(trajectory["action"])
                learner.step(trajectory)
            runtime.publish(learner.counters.updates)
        runtime.close()
    # A policy draws the noise of 16 steps at once and starts again with each unroll.
    assert len(noise) == UPDATES
    return Run(config, initial, [drawn[: config.learner.unroll_length] for drawn in noise], actions, learner)


def run_example(
    initial: dict[str, Tensor], noise: Sequence[Tensor], options: impala_mi.Settings
) -> tuple[impala_mi.Learner, list[Tensor]]:
    """The example from the same parameters and noise: its learner after the last update, and the actions of each unroll."""
    spec = make_spec(impala_mi.TASKS)
    agent = impala_mi.Agent(spec, options)
    agent.load_state_dict(initial)
    learner = impala_mi.Learner(agent, options)
    actor = impala_mi.Actor(impala_mi.make_environments(spec, options), agent)
    actions = []
    for first in range(0, len(noise), PLAYED):
        for trajectory in [actor.unroll(drawn) for drawn in noise[first : first + PLAYED]]:
            actions.append(trajectory.transitions.action)
            learner.step(trajectory)
    return learner, actions


def test_the_example_and_the_framework_have_the_same_parameters_after_20_updates(framework: Run) -> None:
    learner, actions = run_example(framework.initial, framework.noise, settings(framework.config))
    torch.testing.assert_close(torch.stack(actions), torch.stack(framework.actions))
    expected = parameters(framework.learner.network)
    torch.testing.assert_close(dict(learner.agent.state_dict()), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(learner.popart.mu, framework.learner.objective.popart.mu, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(learner.popart.nu, framework.learner.objective.popart.nu, atol=1e-6, rtol=1e-6)
    assert (learner.updates, learner.steps) == (UPDATES, framework.learner.counters.steps)
    assert max((expected[name] - framework.initial[name]).abs().max() for name in expected) > 0.01


def test_the_comparison_notices_a_constant_that_is_10_percent_lower(framework: Run) -> None:
    """Each of these settings changes the parameters within six updates by more than the comparison allows."""
    options, noise = settings(framework.config), framework.noise[:6]
    expected = run_example(framework.initial, noise, options)[0].agent.state_dict()
    for name in CONSTANTS:
        value = getattr(options, name)
        lower = replace(options, **{name: type(value)(0.9 * value)})
        found = run_example(framework.initial, noise, lower)[0].agent.state_dict()
        assert max(float((found[key] - expected[key]).abs().max()) for key in expected) > 5e-6, name


def test_the_defaults_are_those_of_the_framework() -> None:
    usual = compose_train(["env=conditional", "fusion=mi", "runtime=serial"])
    assert usual.learner.optimizer == "adam"
    assert usual.learner.adam_betas == [0.9, 0.999]
    assert usual.fusion.sites == ["core_input"]
    default = impala_mi.Settings()
    of_the_example = {"total_steps": default.total_steps, "updates_per_line": default.updates_per_line}
    assert asdict(default) == asdict(settings(usual)) | of_the_example


def test_the_example_imports_nothing_from_the_project_but_the_environment_and_fits_400_lines() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    modules = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    project = {module for module in modules if module and (EXAMPLE.parents[1] / module.split(".")[0]).exists()}
    assert project == {"envs.conditional.suite", "envs.spec", "envs.suites", "envs.vector"}
    assert len(text.splitlines()) <= 400


def test_the_example_prints_losses_and_the_success_of_every_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--total_steps=300", "--batch_size=16", "--updates_per_line=2"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    line = capsys.readouterr().out.splitlines()[-1]
    for word in ("policy", "baseline", "entropy", "success", *make_spec(impala_mi.TASKS).tasks):
        assert f"{word} " in line
    assert "nan" not in line
