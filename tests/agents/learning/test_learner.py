"""Updates of the learner: data without influence, counted steps, schedules, and reproducibility bit for bit."""

from __future__ import annotations

import io
import math

import pytest
import torch
from small_learners import ENV, B, T, everything, flat, make_batch, make_learner
from torch import Tensor

from agents.learning.inner_loop import learn
from agents.learning.learner import Counters
from agents.learning.minibatches import split_columns
from agents.learning.optimizers import OPTIMIZERS
from agents.learning.replay import Replay
from agents.runtime.base import StreamPositions
from agents.setup.builder import build_learner, build_network, build_runtime
from agents.trajectory import Trajectory, trajectory_spec
from conf.loading import compose_train
from conf.names import REDUCTIONS
from envs.suites import make_spec

# Data without influence


def after_one_step(batch: Trajectory) -> bytes:
    learner = make_learner(popart_step_size=0.1)
    learner.step(batch)
    return everything(learner)


def test_masked_steps_have_no_influence() -> None:
    batch = make_batch(make_learner())
    expected = after_one_step(batch)
    masked = ~batch["mask"]
    assert masked.any()
    for key, value in (("reward", 3.0), ("action", 0), ("behaviour_log_probs", -0.5), ("terminated", True)):
        changed = {name: array.clone() for name, array in batch.items()}
        changed[key][masked] = value
        assert not torch.equal(changed[key], batch[key]), key
        assert after_one_step(changed) == expected, key
        other = {name: array.clone() for name, array in batch.items()}
        other[key][~masked] = value
        assert after_one_step(other) != expected, f"{key} has no influence anywhere"


def test_the_observation_after_a_termination_has_no_influence() -> None:
    """No loss term uses it, and the reset clears it from the core state. After a truncation its value is the bootstrap."""
    batch = make_batch(make_learner())
    batch["mask"][0] = True
    batch["mask"][1:-1, 0] = True
    batch["terminated"][:, 0] = False
    batch["reset"][1:, 0] = False
    batch["mask"][4, 0], batch["reset"][5, 0] = False, True
    for terminated in (True, False):
        batch["terminated"][3, 0] = terminated
        expected = after_one_step(batch)
        changed = {name: array.clone() for name, array in batch.items()}
        changed["vector"][4, 0] += 1
        changed["last_action"][4, 0] = (changed["last_action"][4, 0] + 1) % 3
        changed["last_reward"][4, 0] += 0.5
        assert (after_one_step(changed) == expected) == terminated


def test_statistics_of_episodes_have_no_influence() -> None:
    batch = make_batch(make_learner())
    expected = after_one_step(batch)
    for key in ("episode_return", "episode_length", "success", "episode"):
        batch[key].fill_(7)
    assert after_one_step(batch) == expected


# Steps and schedules


def test_the_learning_rate_falls_to_zero_with_the_steps() -> None:
    learner = make_learner(total_frames=100, learning_rate=0.2, popart=False)
    steps = 0
    for seed in range(4):
        batch = make_batch(learner, seed)
        expected = 0.2 * max(0.0, 1 - steps / 100)
        before = flat(learner)
        learner.step(batch)
        assert learner.optimizer.learning_rate == pytest.approx(expected)
        assert torch.equal(before, flat(learner)) == (expected == 0)
        steps += int(batch["mask"].sum())
        assert learner.counters.steps == steps
        assert learner.current_learning_rate == pytest.approx(0.2 * max(0.0, 1 - steps / 100))
    assert steps > 100


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 0.1, 0.2, 0.15, 0.1, 0, 0]),
        ("constant", [0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2]),
        ("cosine", [0, 0.1, 0.2, 0.1 * (1 + math.cos(math.pi / 4)), 0.1, 0, 0]),
    ],
)
def test_schedules_after_a_warm_up(schedule: str, expected: list[float]) -> None:
    learner = make_learner(total_frames=100, learning_rate=0.2, schedule=schedule, warmup_frames=20, anneal=False)
    for steps, rate in zip((0, 10, 20, 40, 60, 100, 120), expected, strict=True):
        learner.counters = Counters(steps=steps)
        assert learner.current_learning_rate == pytest.approx(rate)
    learner.counters = Counters(steps=10)
    learner.step(make_batch(learner))
    assert learner.optimizer.learning_rate == pytest.approx(0.1)


def test_a_second_pass_over_a_batch_changes_parameters_and_counts_no_steps() -> None:
    learner = make_learner()
    batch = make_batch(learner)
    learner.step(batch)
    before, state = flat(learner), learner.counters
    learner.step(batch, num_new=0)
    assert not torch.equal(flat(learner), before)
    assert learner.counters == state._replace(updates=2)


def test_views_of_columns_give_the_same_updates_as_copies() -> None:
    results = []
    for copy in (False, True):
        learner = make_learner()
        for part in split_columns(make_batch(learner), B // 2):
            learner.step({key: value.clone() for key, value in part.items()} if copy else part)
        results.append(everything(learner))
    assert learner.counters.updates == 2
    assert results[0] == results[1]


def test_the_entropy_cost_changes_linearly_to_its_final_value() -> None:
    learner = make_learner(total_frames=1000, entropy_cost=0.02, entropy_final=0.005)
    assert learner.current_entropy_cost == 0.02
    learner.counters = learner.counters._replace(steps=learner.total_steps // 2)
    assert learner.current_entropy_cost == pytest.approx(0.0125)
    learner.counters = learner.counters._replace(steps=2 * learner.total_steps)
    assert learner.current_entropy_cost == pytest.approx(0.005)
    constant = make_learner(entropy_cost=0.02)
    constant.counters = constant.counters._replace(steps=constant.total_steps)
    assert constant.current_entropy_cost == 0.02


@pytest.mark.parametrize(("kl_bound", "passes"), [(0.0, 3), (1e-9, 1), (1e9, 3)])
def test_later_passes_end_when_the_policy_has_moved_too_far(kl_bound: float, passes: int) -> None:
    """The first pass is complete, so that every column counts. The behaviour policy of the batch is not the learner's."""
    learner = make_learner(loss="appo", kl_bound=kl_bound)
    batch = make_batch(learner)
    options = {"num_fresh": B // 3, "num_replayed": 0, "passes": 3}
    replay = Replay(trajectory_spec(ENV, T, 0, learner.network.core_state_size), seed=(0,))
    updates = list(learn(learner, replay, batch, [0], **options))
    assert len(updates) == 3 * passes
    assert learner.counters.steps == int(batch["mask"].sum())


def test_the_bound_on_the_kl_divergence_is_one_of_a_step() -> None:
    """A divergence summed over steps would depend on the size of the batch."""
    learners = [make_learner(loss="appo", learning_rate=0.0, reduction=reduction) for reduction in REDUCTIONS]
    batch = make_batch(learners[0])
    measured = [float(learner.step(batch)["loss/kl"]) for learner in learners]
    assert measured[0] == pytest.approx(measured[1]) and measured[0] > 0
    for learner in learners:
        learner.kl_bound = 2 * measured[0]
        learner.step(batch)
        assert not learner.moved_too_far


def test_without_annealing_the_learning_rate_is_constant() -> None:
    learner = make_learner(total_frames=10, learning_rate=0.2, anneal=False)
    for seed in range(3):
        learner.step(make_batch(learner, seed))
    assert learner.optimizer.learning_rate == 0.2


def test_gradients_are_clipped_to_their_global_norm() -> None:
    learner = make_learner(max_gradient_norm=1e-3, reduction="sum")
    metrics = learner.step(make_batch(learner))
    norms = [parameter.grad.norm() for parameter in learner.network.parameters() if parameter.grad is not None]
    assert float(metrics["loss/gradient_norm"]) > 1
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("optimizer", "value_loss"), [*((name, "mse") for name in OPTIMIZERS), ("adam", "hl_gauss")])
def test_a_restored_learner_makes_the_same_updates_bit_for_bit(optimizer: str, value_loss: str) -> None:
    learner = make_learner(optimizer=optimizer, value_loss=value_loss, popart_step_size=0.1)
    for seed in range(3):
        learner.step(make_batch(learner, seed))
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other = make_learner(seed=1, optimizer=optimizer, value_loss=value_loss, popart_step_size=0.1)
    assert not torch.equal(flat(other), flat(learner))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.counters == learner.counters
    for seed in range(3, 6):
        for each in (learner, other):
            each.step(make_batch(each, seed))
    assert everything(learner) == everything(other)


# Reproducibility


def train(seed: int, updates: int) -> Tensor:
    """A short serial run on tasks with and without memory."""
    config = compose_train(
        [
            *("env=conditional", "env.tasks=[map-0,map-1,memory-0,memory-1]", "context=task", "fusion=mi", "core=lstm"),
            *("fusion.sites=[core_input,policy,value]", "fusion.size=8", "core.size=8", "torso.hidden=[8]"),
            *("runtime=serial", "precision=fp32", "runtime.slots_per_actor=8", "runtime.num_actors=2"),
            *("learner.batch_size=16", "learner.unroll_length=6", f"seed={seed}"),
        ]
    )
    torch.manual_seed(config.seed)
    env = make_spec(config.env)
    network = build_network(config, env)
    learner = build_learner(config, env, network)
    runtime = build_runtime(config, env, network, StreamPositions(), 0)
    for _ in range(updates):
        learner.step(runtime.collect().trajectory)
        runtime.publish(learner.counters.updates)
    runtime.close()
    assert learner.counters.updates == updates
    return flat(learner)


def test_the_same_seed_gives_the_same_parameters_bit_for_bit() -> None:
    first = train(3, 10)
    assert torch.equal(first, train(3, 10))
    assert not torch.equal(first, train(4, 10))
