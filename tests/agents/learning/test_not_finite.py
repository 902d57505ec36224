"""Values that are not finite never enter the learner or a checkpoint, and a run that they end writes a diagnosis."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from pairwise import pairwise
from processors import needs_bf16_lstm
from saved_agents import CONDITIONAL, SMALL

import train
from agents.learning.learner import Learner
from agents.learning.nonfinite import NonFiniteError
from agents.learning.optimizers import OPTIMIZERS
from agents.learning.prefetch import Staged
from agents.setup.builder import build_learner
from agents.storage.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint
from agents.trajectory import Trajectory

ENV = fake_env()


def make_learner(**options: object) -> Learner:
    config = fake_config(**options)  # type: ignore[arg-type]
    return build_learner(config, ENV, fake_network(ENV, config, 0))


def make_batch(learner: Learner, reward: float) -> Trajectory:
    batch = fake_batch(ENV, learner.network.core_state_size, 9, 6, 0)
    return batch | {"reward": batch["reward"] * reward}


@pytest.mark.parametrize(
    ("power", "optimizer", "loss", "autocast"),
    [
        pytest.param(*row, marks=needs_bf16_lstm if row[-1] else ())
        for row in pairwise(range(2, 39, 3), OPTIMIZERS, (("impala", "none"), ("appo", "task")), (None, torch.bfloat16))
    ],
)
def test_the_learner_stays_finite_for_rewards_of_any_size(
    optimizer: str, loss: tuple[str, str], autocast: torch.dtype | None, power: int
) -> None:
    """From 1e19 on updates are refused: the squares of targets overflow before the loss does."""
    learner = make_learner(
        optimizer=optimizer, loss=loss[0], normalize_advantage=loss[1], popart_warm=True, reward_transform="none"
    )
    learner.objective.autocast = autocast
    for _ in range(2):
        learner.step(make_batch(learner, 10.0**power))
        learner.check_finite()
    assert (learner.counters.updates, learner.counters.refused) == ((2, 0) if power < 19 else (0, 2))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_smallest_epsilon_keeps_parameters_without_gradient(optimizer: str) -> None:
    """No batch has the second task, so its embedding has no gradient."""
    learner = make_learner(optimizer=optimizer, epsilon=1e-20)
    batch = make_batch(learner, 1.0)
    batch["task"].fill_(0)
    before = learner.network.context_encoder.task_embedding.weight.detach().clone()
    learner.step(batch)
    assert learner.counters.updates == 1
    learner.check_finite()
    after = learner.network.context_encoder.task_embedding.weight
    assert torch.equal(after[1], before[1]) and not torch.equal(after[0], before[0])


@pytest.mark.parametrize("where", ["weight", "moment of PopArt", "moment of the optimiser"])
def test_the_error_names_the_tensor_that_is_not_finite(where: str) -> None:
    learner = make_learner()
    learner.step(make_batch(learner, 1.0))
    learner.check_finite()
    name, weight = next(iter(learner.network.named_parameters()))
    if where == "weight":
        weight.detach().view(-1)[0] = math.nan
    elif where == "moment of PopArt":
        name = "popart.nu"
        learner.objective.popart.nu[1] = math.inf
    else:
        key, moment = next((k, v) for k, v in learner.optimizer.state[weight].items() if v.numel() > 1)
        name = f"optimizer.{key} of {name}"
        moment.view(-1)[0] = math.inf
    with pytest.raises(NonFiniteError, match="not finite") as caught:
        learner.check_finite()
    assert caught.value.diagnosis["not_finite"] == [name]


TINY = [*SMALL, *CONDITIONAL, "runtime.slots_per_actor=6", "learner.unroll_length=4", "log_seconds=0", "display=false"]


def test_a_run_that_ends_with_refused_updates_writes_a_diagnosis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Learner.update

    def spoiled(self: Learner, staged: Staged) -> object:
        if self.counters.updates == 4:
            staged.batch["reward"][0, :2] = math.nan
        return update(self, staged)

    monkeypatch.setattr(Learner, "update", spoiled)
    arguments = [*TINY, f"run={tmp_path}", "total_frames=100000", "learner.max_refused=3", "learner.reward_clip=0"]
    assert train.main(arguments) == 1
    error = capsys.readouterr().err
    assert "3 updates in a row without finite numbers" in error and str(tmp_path / "diagnosis.json") in error
    assert "The run was saved up to here" in error
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert (result["finished"], result["ended_by"], result["updates"]) == (False, "error", 4)
    assert "3 updates in a row without finite numbers" in result["error"]
    content = load_checkpoint(find_checkpoint(tmp_path, print))
    assert content["learner"]["counters"] == {
        "updates": 4,
        "refused": 3,
        "steps": content["learner"]["counters"]["steps"],
    }

    def no_constant(word: str) -> float:
        raise AssertionError(f"{word} is not JSON")

    found = json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"), parse_constant=no_constant)
    assert found["tasks"] == ["map-0", "map-1", "memory-0"] and len(found["steps_by_task"]) == 3
    assert sum(found["steps_by_task"]) > 0
    assert found["batch"]["reward"]["not_finite"] == 2 and found["batch"]["reward"]["max"] <= 1
    assert found["batch"]["mask"]["not_finite"] == 0
    assert [refused["loss/total"] for refused in found["refused"]] == ["nan"] * 3
    assert found["gradients"]["not_finite"] and found["counters"]["updates"] == 4
    assert len(found["popart"]["mu"]) == len(found["popart"]["sigma"]) == 3
    assert found["popart"]["refused_mu"] != found["popart"]["mu"]
    assert found["options"]["learner"]["max_refused"] == 3 and 0 < found["learning_rate"] <= 1


def test_parameters_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Learner.update

    def overflows(self: Learner, staged: Staged) -> object:
        metrics = update(self, staged)
        if self.counters.updates == 3:
            next(self.network.parameters()).detach().view(-1)[0] = math.inf
        return metrics

    monkeypatch.setattr(Learner, "update", overflows)
    assert train.main([*TINY, f"run={tmp_path}", "total_frames=100000", "checkpoint_seconds=0"]) == 1
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")][-1] == "checkpoint-000000000002.pt"
    error = capsys.readouterr().err
    assert "of the learner, the first one " in error
    assert "was not saved: resume=true continues from" in error and "checkpoint-000000000002.pt" in error
    assert json.loads((tmp_path / "diagnosis.json").read_text(encoding="utf-8"))["not_finite"]
