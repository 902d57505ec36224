"""Action masks of environments, from the environment through the policy and the trajectory to the learner."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gym_tasks  # noqa: F401  (spawned actors find it on the same path)
import numpy as np
import pytest
import torch
from saved_agents import evaluated, make_checkpoint

import train
from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.evaluation.episodes import evaluation_spec, load_agent, make_task_env
from agents.fusion.segments import Segments
from agents.network.actions import _gumbel, action_distribution
from agents.network.heads import ActionMask
from agents.runtime.base import StreamPositions
from agents.setup import builder
from agents.storage.checkpoint import load_checkpoint, save_checkpoint
from agents.trajectory import OBSERVED, Trajectory, allocate, trajectory_spec
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.spec import EnvSpec, Slot, Split
from envs.suites import make_env, make_spec

pytestmark = pytest.mark.usefixtures("process_settings")

KINDS = {"discrete": ["Forbidden", "ForbiddenFew"], "key": ["ForbiddenKey"], "multi_discrete": ["ForbiddenPairs"]}


def arguments(kind: str, *more: str) -> list[str]:
    tasks = ",".join(f"gym_tasks:{name}-v0" for name in KINDS[kind])
    return [
        *("env=gymnasium", f"env.tasks=[{tasks}]", "torso.hidden=[16]", "fusion.size=16", "core=lstm", "core.size=16"),
        *("runtime=serial", "runtime.slots_per_actor=8", "learner.unroll_length=6", "learner.batch_size=8"),
        *("precision=fp32", "display=false", *more),
    ]


def described(*given: str) -> tuple[TrainConfig, EnvSpec]:
    config = compose_train(list(given))
    return config, make_spec(config.env)


def widened(network: Any) -> None:
    """Large random logits, so that an unmasked greedy action would often be illegal."""
    with torch.no_grad():
        network.policy.weight.mul_(20)
        network.policy.bias.normal_(0, 3)


def components(env: EnvSpec) -> list[slice]:
    ends = np.cumsum([0, *(env.action_sizes or (env.num_actions,))])
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def softmax(logits: Any, legal: Any) -> Any:
    """Over the legal actions."""
    weights = np.where(legal, np.exp(logits - logits[legal].max()), 0)
    return weights / weights.sum()


def collected(kind: str, *more: str) -> tuple[EnvSpec, Any, list[Trajectory]]:
    config, env = described(*arguments(kind, "fusion.sites=[]", "context=none", *more))
    torch.manual_seed(0)
    network = builder.build_network(config, env)
    widened(network)
    runtime = builder.build_runtime(config, env, network, StreamPositions(), 0)
    try:
        return env, network, [{k: v.clone() for k, v in runtime.collect().trajectory.items()} for _ in range(3)]
    finally:
        runtime.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.usefixtures("processes_are_kept")
def test_the_trajectory_holds_the_mask_and_no_illegal_action(kind: str, processes: bool) -> None:
    env, _, batches = collected(kind, f"env.processes={processes}")
    for batch, following in itertools.pairwise(batches):
        mask, action, valid = batch["action_mask"], batch["action"], batch["mask"]
        assert mask.shape == (7, 8, env.num_actions) and mask.dtype == torch.bool
        assert torch.equal(mask[-1], following["action_mask"][0])
        assert not mask.all() and len(mask.flatten(0, 1).unique(dim=0)) > 3
        for number, part in enumerate(components(env)):
            chosen = action[..., number : number + 1] if env.action_sizes else action.unsqueeze(-1)
            assert mask[:-1, ..., part].gather(-1, chosen)[valid].all()
        # The reward of a legal action is 1.
        assert (batch["reward"][valid] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_and_entropy_are_those_of_a_softmax_over_what_is_legal(kind: str) -> None:
    env, network, (batch, *_) = collected(kind)
    network.action_mask.forward, apply = (lambda logits, task, legal=None: logits), network.action_mask.forward
    modulations = network.condition(_no_contexts(network, batch))
    inputs = {key: batch[key] for key in OBSERVED if key in batch}
    segments = _one(7 * 8)
    with torch.no_grad():
        raw = network.unroll(inputs, batch["core_state"], modulations, segments).policy_logits.double().numpy()
        network.action_mask.forward = apply
        masked = network.unroll(inputs, batch["core_state"], modulations, segments).policy_logits
    parameters = network.actions.parameters(masked)
    log_probs = network.actions.log_prob(parameters[:-1], batch["action"])
    entropy = network.actions.entropy(parameters)
    torch.testing.assert_close(log_probs, batch["behaviour_log_probs"], atol=1e-4, rtol=0)
    legal, greedy = batch["action_mask"].numpy(), network.actions.choose(parameters, None).numpy()
    for t, slot in np.ndindex(7, 8):
        expected_log_prob, expected_entropy = 0.0, 0.0
        for number, part in enumerate(components(env)):
            p = softmax(raw[t, slot, part], legal[t, slot, part])
            expected_entropy -= (p[p > 0] * np.log(p[p > 0])).sum()
            assert (greedy[t, slot, number] if env.action_sizes else greedy[t, slot]) == p.argmax()
            if t < 6 and batch["mask"][t, slot]:
                chosen = int(batch["action"][t, slot, number] if env.action_sizes else batch["action"][t, slot])
                expected_log_prob += np.log(p[chosen])
        assert float(entropy[t, slot]) == pytest.approx(expected_entropy, abs=1e-4)
        if t < 6 and batch["mask"][t, slot]:
            assert float(log_probs[t, slot]) == pytest.approx(expected_log_prob, abs=1e-4)


def _one(samples: int) -> Any:
    return Segments(torch.zeros(samples, dtype=torch.int64), 1)


def _no_contexts(network: Any, batch: Trajectory) -> Any:
    rows = network.context_encoder.context_rows(batch["task"].numpy(), None)
    return network.context_encoder.contexts_from_rows(rows[0, :1])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_one_by_one_are_the_unroll(kind: str) -> None:
    """T calls of length 1 equal one call of length T. The learner's ratios are 1 if actor and learner have equal weights."""
    _, network, (batch, *_) = collected(kind)
    inputs = {key: batch[key] for key in OBSERVED if key in batch}
    modulations, state, steps = network.condition(_no_contexts(network, batch)), batch["core_state"], []
    with torch.no_grad():
        whole = network.unroll(inputs, state, modulations, _one(7 * 8)).policy_logits
        for t in range(7):
            step = {key: value[t : t + 1] for key, value in inputs.items()}
            output = network.unroll(step, state, modulations, _one(8))
            state = output.core_state
            steps.append(output.policy_logits)
    torch.testing.assert_close(torch.cat(steps), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("greedy", [False, True])
def test_no_masked_action_is_ever_taken(greedy: bool) -> None:
    config, env = described(*arguments("discrete"))
    torch.manual_seed(1)
    network = builder.build_network(config, env)
    policy = Policy(network, 8, greedy=greedy, autocast=torch.bfloat16)
    slots = [Slot(task=n % 2, index=n) for n in range(8)]
    actor = Actor(make_env(config.env, env, slots, 0, Split.EVALUATION), policy, action_distribution(env), seed=(0, 1))
    trajectory = allocate(trajectory_spec(env, 64, 8, network.core_state_size))
    for _ in range(4):
        actor.unroll(trajectory)
        assert (trajectory["reward"][trajectory["mask"]] == 1).all()
    games = [game.unwrapped for game in actor.env._engine._envs]  # type: ignore[attr-defined]
    assert sum(game.taken for game in games) > 1000 and not any(game.illegal for game in games)


@pytest.mark.slow
@pytest.mark.parametrize(
    "runtime", [["runtime=serial"], ["runtime=local"], ["runtime=local", "runtime.inference=server"]]
)
def test_runtimes(runtime: list[str], tmp_path: Path) -> None:
    """A short run and its evaluation: every reward is that of a legal action."""
    run = tmp_path / "run"
    given = arguments("discrete", *runtime, "total_frames=2000", f"run={run}")
    if runtime != ["runtime=serial"]:
        given += ["runtime.num_actors=1"]
    assert train.main(given) == 0
    (checkpoint,) = sorted((run / "checkpoints").glob("checkpoint-*.pt"))[-1:]
    content = evaluated(checkpoint, tmp_path / "evaluation.json", "episodes=8", "allow=[gym_tasks]", "greedy=true")
    assert all(row["mean"] == 7 and row["length"] == 7 for row in content["tasks"].values())
    # The whole command again: what the run has found out about its environments is no other experiment.
    assert train.main([*given, "resume=true", "total_frames=2500"]) == 0


def test_a_checkpoint_from_before_masks_is_played_without_them(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, *arguments("discrete", "env.action_mask=false"))
    content = load_checkpoint(path)
    for key in ("action_mask", "vocabulary", "instruction_length"):
        del content["config"]["env"][key]
    save_checkpoint(tmp_path, 0, content)
    agent = load_agent(path, ["gym_tasks"])
    spec = evaluation_spec(agent, [], "")
    assert set(spec.observation) == {"vector"}
    env = make_task_env(agent, spec, spec.tasks[0], 2, 0)
    assert "action_mask" not in env.reset()[0]


def test_a_masked_agent_plays_some_of_its_tasks(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, *arguments("discrete"))
    content = evaluated(
        path, tmp_path / "out.json", "tasks=[gym_tasks:ForbiddenFew-v0]", "episodes=4", "slots=2", "probe=swap"
    )
    assert content["tasks"]["gym_tasks:ForbiddenFew-v0"]["mean"] == 7


def test_a_mask_without_legal_actions_ends_the_run_with_an_input_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments("discrete"), "env.tasks=[gym_tasks:ForbiddenAll-v0]", f"run={tmp_path / 'run'}", "context=none"]
    assert train.main(given) == 2
    error = capsys.readouterr().err
    assert "gym_tasks:ForbiddenAll-v0 shows an action_mask that forbids every action" in error
    assert "Traceback" not in error


def test_masks_of_the_task_and_of_the_step_are_both_applied() -> None:
    mask = ActionMask((2, 3), 3)
    logits, task = torch.zeros(3, 3), torch.tensor([0, 1, 0])
    legal = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 1, 1]], dtype=torch.bool)
    assert (mask(logits, task, legal) == 0).tolist() == [[True, True, False], [False, True, True], [False, True, False]]
    # Without an illegal action, nothing is computed.
    assert ActionMask((3, 3), 3)(logits, task) is logits


def test_noise_never_makes_an_illegal_action_the_best() -> None:
    noise = _gumbel((1 << 20,), torch.Generator().manual_seed(3))
    plain = torch.empty(1 << 20).uniform_(generator=torch.Generator().manual_seed(3)).log().neg().log().neg()
    assert torch.equal(noise, plain)
    assert torch.tensor([torch.finfo(torch.float32).tiny]).log().neg().log().neg() > -10
