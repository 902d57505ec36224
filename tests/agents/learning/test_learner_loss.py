"""The learner's loss against NumPy, and PopArt inside an update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_learners import B, T, make_batch, make_learner

from agents.fusion.segments import identity_segments
from agents.learning.learner import Learner
from agents.learning.popart import PopArt, sigma
from agents.trajectory import OBSERVED, Trajectory


@torch.no_grad()
def outputs_step_by_step(learner: Learner, batch: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Logits [T+1, B, A] and normalised baselines [T+1, B], computed one step at a time with one modulation per sample."""
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


def expected_losses(
    learner: Learner, batch: Trajectory, config: dict[str, float], normalize: str | None = None
) -> dict[str, float]:
    """Policy, baseline and entropy term summed over valid steps, from the formulas, with constant PopArt moments.

    Args:
        normalize: None for `impala`; for `appo` the normalisation of advantages.
    """
    logits, normalised = outputs_step_by_step(learner, batch)
    task = batch["task"].numpy()
    scale, shift = sigma(learner.objective.popart).numpy()[task], learner.objective.popart.mu.numpy()[task]
    values = scale * normalised + shift
    log_policy = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    data = {key: value.numpy() for key, value in batch.items()}
    totals = {"loss/policy": 0.0, "loss/baseline": 0.0, "loss/entropy": 0.0}
    steps: list[tuple[int, float, float]] = []
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
            steps.append((task[t, b], rho, advantage / min(1, rho) / scale[t, b]))
            totals["loss/baseline"] += 0.5 * ((vs - shift[t, b]) / scale[t, b] - normalised[t, b]) ** 2
            totals["loss/entropy"] -= (p * np.where(p > 0, log_policy[t, b], 0)).sum()
    if normalize:
        tasks, ratios, advantages = map(np.array, zip(*steps, strict=True))
        groups = {"none": [], "batch": [tasks >= 0], "task": [tasks == number for number in np.unique(tasks)]}
        for group in groups[normalize]:
            own = advantages[group]
            advantages[group] = (own - own.mean()) / max(own.std(), 0.1)
        terms = np.minimum(ratios * advantages, np.clip(ratios, 0.7, 1.3) * advantages)
        totals["loss/policy"] = -terms.sum()
        totals["loss/kl"] = (ratios - 1 - np.log(ratios)).sum()
        totals["loss/clipped"] = float((np.abs(ratios - 1) > 0.3).sum())
    return totals


@pytest.mark.parametrize(
    ("fusion", "reduction", "normalize"),
    [
        ("film", "mean", None),
        ("film", "sum", None),
        ("mi", "mean", None),
        ("mi", "sum", "none"),
        ("film", "mean", "batch"),
        ("film", "mean", "task"),
    ],
)
def test_the_loss_is_the_formula(fusion: str, reduction: str, normalize: str | None) -> None:
    appo = {"loss": "appo", "clip_ratio": 0.3, "normalize_advantage": normalize} if normalize else {}
    learner = make_learner(
        fusion=fusion,
        reduction=reduction,
        **appo,
        popart_step_size=0.0,
        discounting=0.9,
        reward_clip=0.7,
        entropy_cost=0.03,
        baseline_cost=0.4,
    )
    learner.objective.popart = PopArt(torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, 5.0, 4.5]))
    batch = make_batch(learner)
    expected = expected_losses(learner, batch, {"reward_clip": 0.7, "discounting": 0.9}, normalize)
    means = set(expected) if reduction == "mean" else {"loss/kl", "loss/clipped"}
    expected = {key: value / float(batch["mask"].sum()) if key in means else value for key, value in expected.items()}
    expected["loss/total"] = expected["loss/policy"] + 0.4 * expected["loss/baseline"] - 0.03 * expected["loss/entropy"]
    metrics = learner.step(batch)
    for key, value in expected.items():
        assert float(metrics[key]) == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_popart_changes_moments_and_no_value() -> None:
    """With learning rate 0 only PopArt changes the learner."""
    learner = make_learner(popart_step_size=0.3, learning_rate=0.0)
    batch = make_batch(learner)
    task = batch["task"].numpy()

    def values() -> np.ndarray:
        _, normalised = outputs_step_by_step(learner, batch)
        return sigma(learner.objective.popart).numpy()[task] * normalised + learner.objective.popart.mu.numpy()[task]

    before, mu = values(), learner.objective.popart.mu
    learner.step(batch)
    present = torch.from_numpy(np.bincount(task[0], minlength=3) > 0)
    assert torch.equal(learner.objective.popart.mu != mu, present)
    np.testing.assert_allclose(values(), before, rtol=1e-4, atol=1e-5)


def test_without_popart_nothing_is_normalised() -> None:
    learner = make_learner(popart=False)
    before = learner.objective.popart
    learner.step(make_batch(learner))
    assert torch.equal(learner.objective.popart.mu, before.mu) and torch.equal(learner.objective.popart.nu, before.nu)
    assert learner.network.value_head.num_outputs == 1
