"""The learner: its loss against NumPy, what may not influence it, what it refuses, and that it can be repeated bit for bit."""

from __future__ import annotations

import io
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from torch import Tensor

from agents.fusion import identity_segments
from agents.learning.learner import Learner, NonFiniteError
from agents.learning.optimizers import OPTIMIZERS
from agents.learning.popart import CALM, PopArt, sigma
from agents.learning.rewards import transform_rewards
from agents.runtime.base import StreamPositions
from agents.setup.builder import build_learner, build_network, build_runtime
from agents.trajectory import OBSERVED, Trajectory, split_columns
from conf.loading import compose_train
from envs.suites import make_spec

ENV = fake_env()
T, B = 9, 6


def make_learner(seed: int = 0, total_frames: int = 10_000, **options: object) -> Learner:
    config = fake_config(**options)  # type: ignore[arg-type]
    config.total_frames = total_frames
    return build_learner(config, ENV, fake_network(ENV, config, seed))


def make_batch(learner: Learner, seed: int = 0) -> Trajectory:
    return fake_batch(ENV, learner.network.core_state_size, T, B, seed)


def flat(learner: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.network.parameters()])


def everything(learner: Learner) -> bytes:
    """Parameters, moments of the optimiser, PopArt and the counters of what was learned, to the last bit."""
    file = io.BytesIO()
    state = learner.state_dict()
    state["counters"] = {**state["counters"], "refused": 0}
    # Not its learning rate, which is set anew for every step.
    state["optimizer"] = state["optimizer"]["state"]
    torch.save(state, file)
    return file.getvalue()


# The loss


@torch.no_grad()
def outputs_step_by_step(learner: Learner, batch: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Logits [T+1, B, A] and normalised baselines [T+1, B], one step at a time and each sample conditioned by itself."""
    network, state = learner.network, batch["core_state"]
    encoder = network.context_encoder
    logits, baselines = [], []
    for t in range(T + 1):
        step = {key: batch[key][t : t + 1] for key in OBSERVED if key in batch}
        rows = encoder.context_rows(step["task"][0].numpy(), step["instruction"][0].numpy())
        modulations = network.condition(encoder.contexts_from_rows(rows))
        output = network.unroll(step, state, modulations, identity_segments(B))
        state = output.core_state
        logits.append(output.policy_logits[0].numpy())
        baselines.append(network.value_head(output.value_features[0], step["task"][0]).numpy())
    return np.stack(logits).astype(np.float64), np.stack(baselines).astype(np.float64)


def expected_losses(learner: Learner, batch: Trajectory, config: dict[str, float]) -> dict[str, float]:
    """Policy, baseline and entropy term summed over valid steps, from the formulas, with PopArt's moments held still."""
    logits, normalised = outputs_step_by_step(learner, batch)
    task = batch["task"].numpy()
    scale, shift = sigma(learner.popart).numpy()[task], learner.popart.mu.numpy()[task]
    values = scale * normalised + shift
    log_policy = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    data = {key: value.numpy() for key, value in batch.items()}
    totals = {"loss/policy": 0.0, "loss/baseline": 0.0, "loss/entropy": 0.0}
    for b in range(B):
        vs = values[T, b]
        for t in reversed(range(T)):
            if not data["mask"][t, b]:
                vs = values[t, b]
                continue
            p = np.exp(log_policy[t, b])
            log_prob = log_policy[t, b, data["action"][t, b]]
            rho = np.exp(log_prob - data["behaviour_log_probs"][t, b])
            reward = np.clip(data["reward"][t, b], -config["reward_clip"], config["reward_clip"])
            discount = 0.0 if data["terminated"][t, b] else config["discounting"]
            advantage = min(1, rho) * (reward + discount * vs - values[t, b])
            delta = min(1, rho) * (reward + discount * values[t + 1, b] - values[t, b])
            vs = values[t, b] + delta + discount * min(1, rho) * (vs - values[t + 1, b])
            totals["loss/policy"] -= log_prob * advantage / scale[t, b]
            totals["loss/baseline"] += 0.5 * ((vs - shift[t, b]) / scale[t, b] - normalised[t, b]) ** 2
            totals["loss/entropy"] -= (p * np.where(p > 0, log_policy[t, b], 0)).sum()
    return totals


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("fusion", ["film", "mi"])
def test_the_loss_is_the_formula(fusion: str, reduction: str) -> None:
    learner = make_learner(
        fusion=fusion,
        reduction=reduction,
        popart_step_size=0.0,
        discounting=0.9,
        reward_clip=0.7,
        entropy_cost=0.03,
        baseline_cost=0.4,
    )
    learner.popart = PopArt(torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, 5.0, 4.5]))
    batch = make_batch(learner)
    expected = expected_losses(learner, batch, {"reward_clip": 0.7, "discounting": 0.9})
    if reduction == "mean":
        expected = {key: value / float(batch["mask"].sum()) for key, value in expected.items()}
    expected["loss/total"] = expected["loss/policy"] + 0.4 * expected["loss/baseline"] - 0.03 * expected["loss/entropy"]
    metrics = learner.step(batch)
    for key, value in expected.items():
        assert float(metrics[key]) == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_moments_move_towards_the_targets_and_values_stay() -> None:
    """Learning rate 0: PopArt alone acts, and whatever it does may not change a value."""
    learner = make_learner(popart_step_size=0.3, learning_rate=0.0)
    batch = make_batch(learner)
    task = batch["task"].numpy()

    def values() -> np.ndarray:
        _, normalised = outputs_step_by_step(learner, batch)
        return sigma(learner.popart).numpy()[task] * normalised + learner.popart.mu.numpy()[task]

    before, mu = values(), learner.popart.mu
    learner.step(batch)
    present = torch.from_numpy(np.bincount(task[0], minlength=3) > 0)
    assert torch.equal(learner.popart.mu != mu, present)
    np.testing.assert_allclose(values(), before, rtol=1e-4, atol=1e-5)


def test_without_popart_nothing_is_normalised() -> None:
    learner = make_learner(popart=False)
    before = learner.popart
    learner.step(make_batch(learner))
    assert torch.equal(learner.popart.mu, before.mu) and torch.equal(learner.popart.nu, before.nu)
    assert learner.network.value_head.num_outputs == 1


# One large reward


def large(batch: Trajectory, column: int, size: float = 1e4) -> Trajectory:
    """A copy with one reward of that size in a column of task 1."""
    changed = {name: array.clone() for name, array in batch.items()}
    changed["task"][:, column] = 1
    changed["mask"][2, column] = True
    changed["reward"][2, column] = size
    return changed


def moments(learner: Learner) -> list[float]:
    return [*learner.popart.mu.tolist(), *learner.popart.nu.tolist()]


@pytest.mark.parametrize("step_size", [3e-4, 0.01])
def test_one_large_reward_leaves_its_tasks_moments(step_size: float) -> None:
    """However often it is learned from: in further passes, and from the replay."""
    learner = make_learner(reward_clip=0.0, popart_step_size=step_size)
    usual, other = make_batch(learner, 1), make_batch(learner, 2)
    hit = large(usual, B - 1)
    before = learner.popart
    learner.step(hit)
    for fresh in (0, 0):
        assert learner.surges[1] > 10 and learner.surges[0] == learner.surges[2] == 0
        assert learner.popart.mu[1] == before.mu[1] and learner.popart.nu[1] == before.nu[1]
        assert learner.popart.mu[0] != before.mu[0]
        learner.step(hit, fresh=fresh)
    assert learner.popart.calm[1] == 0
    # The column comes from the replay, with other fresh ones.
    learner.step(other)
    before = learner.popart
    assert before.calm[1] == 1
    learner.step(hit, fresh=B - 1)
    assert learner.surges[1] > 10 and learner.popart.nu[1] == before.nu[1] and learner.popart.calm[1] == 2
    # A second reward is another matter.
    learner.step(large(other, 0))
    assert learner.popart.calm[1] == 0 and learner.popart.nu[1] > before.nu[1]


def test_large_rewards_are_followed_from_their_second_batch_on() -> None:
    learner = make_learner(reward_clip=0.0, popart_step_size=0.01)
    deviations = []
    for seed in range(20):
        batch = make_batch(learner, seed)
        batch["reward"] *= 1e4
        learner.step(batch)
        deviations.append(sigma(learner.popart).max().item())
    assert deviations[0] == 1 and deviations[1] == pytest.approx(2**0.5, rel=0.01) and deviations[-1] > 300


def test_the_last_surge_is_saved_and_earlier_checkpoints_do_not_have_it() -> None:
    learner, other = (make_learner(reward_clip=0.0) for _ in range(2))
    learner.step(large(make_batch(learner, 1), 0))
    state = deepcopy(learner.state_dict())
    other.load_state_dict(deepcopy(state))
    for each in (learner, other):
        each.step(large(make_batch(each, 2), 0))
    assert everything(learner) == everything(other)
    # Refused.
    before = everything(learner)
    learner.step(large(make_batch(learner, 3), 0, math.inf))
    assert learner.counters.refused == 1 and everything(learner) == before
    del state["popart"]["calm"]
    other.load_state_dict(state)
    assert other.popart.calm.tolist() == [CALM] * 3


# What may not influence it


def after_one_step(batch: Trajectory) -> bytes:
    learner = make_learner(popart_step_size=0.1)
    learner.step(batch)
    return everything(learner)


def test_steps_that_are_masked_have_no_influence() -> None:
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
    """Nor has its entropy: it is neither valued, nor acted upon, nor remembered. After a truncation its value counts."""
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


# What it refuses


def spoiled(batch: Trajectory, key: str, value: float) -> Trajectory:
    changed = {name: array.clone() for name, array in batch.items()}
    t, b = (int(index) for index in batch["mask"].nonzero()[3])
    changed[key][t, b] = value
    return changed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("key", "value"),
    [("reward", math.inf), ("reward", math.nan), ("behaviour_log_probs", math.nan), ("vector", math.inf)],
)
def test_a_batch_that_is_not_finite_changes_nothing(optimizer: str, key: str, value: float) -> None:
    learner, other = (make_learner(optimizer=optimizer, reward_clip=0.0, popart_step_size=0.1) for _ in range(2))
    for each in (learner, other):
        each.step(make_batch(each, 1))
    before = everything(learner)
    learner.step(spoiled(make_batch(learner, 2), key, value))
    assert everything(learner) == before
    assert (learner.counters.refused, learner.counters.updates) == (1, 1)
    for each in (learner, other):
        each.step(make_batch(each, 3))
    assert everything(learner) == everything(other)
    assert flat(learner).isfinite().all()


def test_too_many_refusals_in_a_row_are_an_error() -> None:
    learner = make_learner(max_refused=3, reward_clip=0.0)
    good = make_batch(learner)
    bad = spoiled(good, "reward", math.inf)
    for batch in (bad, bad, good, bad, bad):
        learner.step(batch)
    assert learner.counters.refused == 4
    before = flat(learner)
    with pytest.raises(NonFiniteError, match=r"3 updates in a row.*learner\.learning_rate"):
        learner.step(bad)
    assert torch.equal(flat(learner), before)


def test_a_clipped_reward_may_be_infinite() -> None:
    learner = make_learner(reward_clip=1.0)
    learner.step(spoiled(make_batch(learner), "reward", math.inf))
    assert learner.counters.refused == 0 and flat(learner).isfinite().all()


@pytest.mark.parametrize("kind", ["soft_asymmetric", "soft_asymmetric_paper", "none"])
def test_what_is_learned_from_is_the_transformed_reward_and_the_trajectory_keeps_the_raw_one(kind: str) -> None:
    learner, plain = make_learner(reward_transform=kind), make_learner(reward_transform="none")
    raw = make_batch(learner)
    raw["reward"] = raw["reward"] * 20
    kept = raw["reward"].clone()
    learner.step(raw)
    torch.testing.assert_close(raw["reward"], kept, rtol=0, atol=0)
    plain.step({**raw, "reward": transform_rewards(kept, kind, 1.0)})
    torch.testing.assert_close(flat(learner), flat(plain), rtol=0, atol=0)


# Steps and schedules


def test_the_learning_rate_falls_to_zero_with_the_steps() -> None:
    learner = make_learner(total_frames=100, learning_rate=0.2, popart=False)
    steps = 0
    for seed in range(4):
        batch = make_batch(learner, seed)
        expected = 0.2 * max(0.0, 1 - steps / 100)
        before = flat(learner)
        learner.step(batch)
        assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        assert torch.equal(before, flat(learner)) == (expected == 0)
        steps += int(batch["mask"].sum())
        assert learner.counters.steps == steps
        assert learner.current_learning_rate == pytest.approx(0.2 * max(0.0, 1 - steps / 100))
    assert steps > 100


def test_another_pass_over_a_batch_learns_and_counts_no_steps() -> None:
    learner = make_learner()
    batch = make_batch(learner)
    learner.step(batch)
    before, state = flat(learner), learner.counters
    learner.step(batch, fresh=0)
    assert not torch.equal(flat(learner), before)
    assert learner.counters == state._replace(updates=2)


def test_learns_from_part_of_a_batch() -> None:
    """Views of columns, as minibatches makes them, are as good as arrays of their own."""
    results = []
    for copy in (False, True):
        learner = make_learner()
        for part in split_columns(make_batch(learner), B // 2):
            learner.step({key: value.clone() for key, value in part.items()} if copy else part)
        results.append(everything(learner))
    assert learner.counters.updates == 2
    assert results[0] == results[1]


def test_without_annealing_the_rate_stays() -> None:
    learner = make_learner(total_frames=10, learning_rate=0.2, anneal=False)
    for seed in range(3):
        learner.step(make_batch(learner, seed))
    assert learner.optimizer.param_groups[0]["lr"] == 0.2


def test_gradients_are_clipped_to_their_global_norm() -> None:
    learner = make_learner(max_gradient_norm=1e-3, reduction="sum")
    metrics = learner.step(make_batch(learner))
    norms = [parameter.grad.norm() for parameter in learner.network.parameters() if parameter.grad is not None]
    assert float(metrics["loss/gradient_norm"]) > 1
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_saved_learner_goes_on_exactly(optimizer: str) -> None:
    learner = make_learner(optimizer=optimizer, popart_step_size=0.1)
    for seed in range(3):
        learner.step(make_batch(learner, seed))
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other = make_learner(seed=1, optimizer=optimizer, popart_step_size=0.1)
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


def test_the_same_seed_gives_the_same_parameters_to_the_last_bit() -> None:
    first = train(3, 20)
    assert torch.equal(first, train(3, 20))
    assert not torch.equal(first, train(4, 20))
