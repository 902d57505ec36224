"""init=: known tasks keep what the other run learned, new ones start afresh, and what does not fit is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from pairwise import accepted_context, pairwise
from saved_agents import CONDITIONAL, SMALL, damaged, make_checkpoint
from torch import Tensor

import evaluate
import train
from agents.acting.policy import context_rows
from agents.fusion import FUSIONS
from agents.fusion.segments import Segments
from agents.learning.learner import Learner
from agents.learning.popart import SURGE_MEMORY, PopArt, sigma
from agents.network.context import distinct_contexts
from agents.setup.builder import build_learner, build_network
from agents.setup.transfer import copy_agent, start_from
from agents.storage.checkpoint import list_checkpoints, load_checkpoint
from conf.loading import compose_train, load_train
from conf.names import CONTEXTS, TASK_ENCODINGS, VALUE_LOSSES
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suites import make_spec
from system.errors import InputError

T, B = 4, 6
KEPT = {0: 2, 2: 1}
"""Task here -> task there."""
OLD = fake_env()
NEW = dataclasses.replace(fake_env(num_tasks=4), tasks=("task-2", "new", "task-1", "newer"), action_counts=(4, 2, 3, 4))
TINY = [
    *(*SMALL, *CONDITIONAL, "runtime.slots_per_actor=4", "learner.unroll_length=5", "display=false"),
    *("log_seconds=0", "checkpoint_seconds=1000"),
]
OTHER_TASKS = "env.tasks=[memory-0,map-5,map-0]"


def trained(config: TrainConfig, env: EnvSpec, seed: int = 0) -> Learner:
    """With random weights and moments."""
    learner = build_learner(config, env, fake_network(env, config, seed))
    torch.manual_seed(seed)
    mu = torch.randn(len(env.tasks))
    learner.objective.popart = PopArt(mu, mu**2 + torch.rand_like(mu), torch.rand_like(mu), torch.rand_like(mu) + 3)
    return learner


@torch.no_grad()
def outputs(learner: Learner, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits and unnormalised values."""
    network, popart = learner.network, learner.objective.popart
    distinct, index = distinct_contexts(context_rows(network, batch))
    contexts = network.context_encoder.contexts_from_rows(distinct)
    segments = Segments(torch.from_numpy(index), len(contexts.task))
    output = network.unroll(batch, batch["core_state"], network.condition(contexts), segments)
    task = batch["task"].long()
    n = network.value_head(output.value_features, task)
    return output.policy_logits, sigma(popart)[task] * n + popart.mu[task]


CASES = pairwise(sorted(FUSIONS), CONTEXTS, TASK_ENCODINGS, VALUE_LOSSES, (0.0, 1.5), (False, True))


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_known_tasks_keep_their_policy_and_values(fusion: str) -> None:
    """Every pair of fusion, context, encoding of the task, loss and width of the critic, and normalisation occurs."""
    for name, context, encoding, value_loss, critic_width, normalizes in CASES:
        if name != fusion:
            continue
        config = fake_config(
            fusion=fusion,
            context=accepted_context(FUSIONS[fusion], context),
            task_encoding=encoding,
            critic_width=critic_width,
            # A fusion at the site `policy` is the hidden layer, so both kinds of heads occur.
            actor_width=critic_width,
            value_loss=value_loss,
        )
        config.env.normalize_observation = normalizes
        source, learner = trained(config, OLD), build_learner(config, NEW, fake_network(NEW, config, 1))
        if normalizes:
            with torch.no_grad():
                for parameter in source.network.normalizer.parameters():  # type: ignore[union-attr]
                    parameter.copy_(torch.rand_like(parameter) + 0.5)
        fresh = copy.deepcopy(learner.network.state_dict())
        copy_agent(source.state_dict(), OLD.tasks, config, NEW, learner)
        batch = fake_batch(NEW, learner.network.core_state_size, T, B)
        batch["action"] %= 3
        batch["last_action"] %= 3
        batch["task"][:] = torch.tensor([0, 2, 0, 2, 2, 0])
        there = batch | {"task": torch.tensor([KEPT[int(task)] for task in batch["task"][0]]).int().expand(T + 1, B)}
        torch.testing.assert_close(outputs(learner, batch), outputs(source, there))
        popart = learner.objective.popart
        assert popart.mu[[0, 2]].tolist() == source.objective.popart.mu[[2, 1]].tolist()
        for new in (1, 3):
            assert [float(part[new]) for part in popart] == [0, 1, SURGE_MEMORY, 0]
            head, before = learner.network.value_head.state_dict(), fresh
            assert all(torch.equal(head[key][new], before[f"value_head.{key}"][new]) for key in head)
            key = "context_encoder.task_embedding.weight"
            if key in fresh:
                assert torch.equal(learner.network.state_dict()[key][new], fresh[key][new])


def learner_of(overrides: list[str], seed: int = 1) -> tuple[TrainConfig, EnvSpec, Learner]:
    config = compose_train(overrides)
    env = make_spec(config.env)
    torch.manual_seed(seed)
    return config, env, build_learner(config, env, build_network(config, env))


def test_a_checkpoint_is_read_and_recorded(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoints", *TINY)
    config, env, learner = learner_of(
        [*TINY, OTHER_TASKS, f"init={tmp_path}", "context.noise=1", "context.dropout=0.1"]
    )
    assert start_from(config, env, learner) == {
        "init": str(tmp_path),
        "checkpoint": str(checkpoint),
        "updates": 0,
        "frames": 0,
        "kept": ["memory-0", "map-0"],
        "fresh": ["map-5"],
    }


def test_a_run_starts_from_another_and_resumes_without_it(tmp_path: Path) -> None:
    """Frames, statistics and optimiser start afresh. Two runs that start from it are the same run."""
    source, run, twin = tmp_path / "source=1", tmp_path / "run", tmp_path / "twin"
    assert train.main([*TINY, f"run={source}", "total_frames=200"]) == 0
    command = [*TINY, OTHER_TASKS, f"init={source}", "learner.learning_rate=1e-4"]
    for folder in (run, twin):
        assert train.main([*command, f"run={folder}", "total_frames=100"]) == 0
    record = json.loads((run / "init.json").read_text())
    assert record["checkpoint"] == str(list_checkpoints(source / "checkpoints")[-1]) and record["frames"] >= 200
    first, last = (load_checkpoint(path)["learner"] for path in list_checkpoints(run / "checkpoints"))
    there = load_checkpoint(list_checkpoints(source / "checkpoints")[-1])["learner"]
    assert first["counters"]["steps"] == 0 and not first["optimizer"]["state"]
    assert 100 <= last["counters"]["steps"] < 200
    assert all(torch.equal(first["network"][key], there["network"][key]) for key in first["network"] if "core." in key)
    assert load_train(run / "config.yaml").init == str(source)
    newest = [load_checkpoint(list_checkpoints(one / "checkpoints")[-1]) for one in (run, twin)]
    for key, weight in newest[0]["learner"]["network"].items():
        assert torch.equal(weight, newest[1]["learner"]["network"][key]), key

    shutil.rmtree(source)
    for folder, again in ((run, []), (twin, command)):
        assert train.main([*again, f"run={folder}", "resume=true", "total_frames=160"]) == 0
        assert json.loads((folder / "init.json").read_text()) == record
        assert json.loads((folder / "result.json").read_text())["frames"] >= 160
    assert evaluate.main([f"run={run}", "episodes=1", "threads=1"]) == 0


def test_a_run_that_ends_before_its_first_update_resumes_without_its_origin(tmp_path: Path) -> None:
    """As after a kill: there is a checkpoint from the start."""
    make_checkpoint(tmp_path / "source" / "checkpoints", *TINY)
    run = tmp_path / "run"
    command = [*TINY, f"init={tmp_path / 'source'}", f"run={run}", "total_frames=50"]
    assert train.main(command) == 0
    first = list_checkpoints(run / "checkpoints")[0]
    assert first.name == "checkpoint-000000000000.pt"
    for path in list_checkpoints(run / "checkpoints")[1:]:
        path.unlink()
    shutil.rmtree(tmp_path / "source")
    assert train.main([*command, "resume=true"]) == 0


REFUSED: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "size": (["core.size=20"], ("core.size was 16 and is 20",)),
    "form": (["fusion=film"], ("fusion.name was gated and is film",)),
    "critic": (["critic_width=1"], ("critic_width was 0.0 and is 1.0",)),
    "actor": (["actor_width=2"], ("actor_width was 0.0 and is 2.0",)),
    "values": (["learner.value_loss=hl_gauss"], ("learner.value_loss was mse and is hl_gauss",)),
    "observation": (["env.observation=image", "torso=auto"], ("observation image was not there",)),
    "actions": (["env.dimension=5"], ("observation vector was", "actions were 4 discrete ones and are 5")),
    "suite": (["env=gymnasium", "env.tasks=[CartPole-v1]"], ("observation vector was", "actions were")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_network_or_other_spaces_are_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_checkpoint(tmp_path / "source", *TINY)
    changes, told = REFUSED[case]
    assert train.main([*TINY, *changes, f"init={tmp_path / 'source'}", f"run={tmp_path / 'run'}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"init={tmp_path / 'source'}" in message
    assert all(fragment in message for fragment in told), message
    assert not (tmp_path / "run" / "config.yaml").exists()


def rename_word(content: dict[str, Any]) -> None:
    content["env"]["vocabulary"] = ["", "?", "another"]
    content["env"]["instruction_length"] = 5


DAMAGES: dict[str, tuple[Any, str]] = {
    "vocabulary": (rename_word, "instruction_length was 5 and is"),
    "rows": (lambda content: content["learner"]["popart"].update(mu=torch.zeros(2)), "mu is [2] and would be [3]"),
    "weights": (
        lambda content: content["learner"]["network"].update({"value_head.bias": torch.zeros(4)}),
        "value_head.bias is [4] and would be [3]",
    ),
    "missing": (lambda content: content["learner"]["network"].pop("value_head.bias"), "value_head.bias"),
    "counters": (lambda content: content["learner"].pop("counters"), "counters"),
    "not finite": (lambda content: content["learner"]["popart"]["nu"].fill_(float("inf")), "learner popart nu"),
    "plugins": (lambda content: content["config"].update(plugins=["os.path"]), "plugins names os.path"),
    "config": (lambda content: content["config"]["core"].update(name="no"), "core"),
    "tasks": (lambda content: content["env"].update(tasks=["map-0", "map-0", "map-1"]), "its tasks"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_crafted_checkpoint_is_refused(case: str, tmp_path: Path) -> None:
    damage, told = DAMAGES[case]
    path = damaged(make_checkpoint(tmp_path / "good", *TINY), tmp_path / "crafted.pt", damage)
    config, env, learner = learner_of([*TINY, OTHER_TASKS, f"init={path}"])
    before = copy.deepcopy(learner.state_dict()["network"])
    with pytest.raises(InputError) as caught:
        start_from(config, env, learner)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(before[key], weight) for key, weight in learner.network.state_dict().items())


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_missing_origin_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert train.main([*TINY, f"init={tmp_path / name}", f"run={tmp_path / 'run'}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: init={tmp_path / name} ") and message.count("\n") == 1
