"""Figures of an update for the log, compared with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network

from agents.learning.learner import Learner
from agents.learning.objective import LastUpdate
from agents.run.diagnostics import describe, describe_update, to_host
from agents.setup.builder import build_learner
from agents.trajectory import Trajectory

ENV = fake_env()


def make_learner(**options: object) -> Learner:
    config = fake_config(**options)  # type: ignore[arg-type]
    return build_learner(config, ENV, fake_network(ENV, config))


def make_batch(learner: Learner) -> Trajectory:
    return fake_batch(ENV, learner.network.core_state_size, 9, 6, 0)


def test_figures_of_the_valid_steps() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((5, 4)) < 0.7
    log_rhos, values, baseline, targets = rng.normal(0, 0.5, (4, 5, 4)).astype(np.float32)
    arrays = [np.where(mask, array, np.nan) for array in (log_rhos, values, baseline, targets)]
    last = LastUpdate(*map(torch.from_numpy, arrays), torch.from_numpy(mask))
    found = to_host(describe_update(last, 1.2))
    rhos = np.exp(log_rhos[mask])
    assert found == pytest.approx(
        {
            "value/explained_variance": 1 - np.var((targets - baseline)[mask]) / np.var(targets[mask]),
            "value/mean": values[mask].mean(),
            "policy/rho_mean": rhos.mean(),
            "policy/rho_clipped": (rhos > 1.2).mean(),
            "policy/kl": (rhos - 1 - log_rhos[mask]).mean(),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("bound", [1e9, 1e-3])
@pytest.mark.parametrize("sites", [["core_input"], ["policy", "value"]])
def test_gradient_norms_of_the_parts_are_those_before_the_clipping(bound: float, sites: list[str]) -> None:
    learner = make_learner(max_gradient_norm=bound, sites=sites)
    metrics = learner.step(make_batch(learner))
    found = describe(learner, metrics, ENV.tasks)
    norms = {key: value for key, value in found.items() if key.startswith("gradient_norm/")}
    assert set(norms) == {f"gradient_norm/{part}" for part in ("torso", "context", "fusion", "core", "heads")}
    assert np.linalg.norm([*norms.values()]) == pytest.approx(found["loss/gradient_norm"], rel=1e-5)
    core = torch.cat(
        [parameter.grad.flatten() for parameter in learner.network.core.parameters() if parameter.grad is not None]
    )
    clip = min(1.0, bound / found["loss/gradient_norm"])
    assert norms["gradient_norm/core"] * clip == pytest.approx(float(core.norm()), rel=1e-4)


def test_moments_of_each_task_and_all_metrics_are_numbers() -> None:
    learner = make_learner()
    assert set(describe(learner, {}, ENV.tasks)) == {
        f"tasks/{task}/popart_{name}" for task in ENV.tasks for name in ("mu", "sigma")
    }
    metrics = learner.step(make_batch(learner))
    found = describe(learner, metrics, ENV.tasks)
    assert {key: found[key] for key in metrics} == {key: float(value) for key, value in metrics.items()}
    assert [found[f"tasks/{task}/popart_mu"] for task in ENV.tasks] == learner.objective.popart.mu.tolist()


def test_the_figures_do_not_depend_on_the_batch_after_the_update() -> None:
    """The batch's memory belongs to the actors again, as soon as the next one is collected."""
    learner = make_learner()
    batch = make_batch(learner)
    metrics = learner.step(batch)
    before = describe(learner, metrics, ENV.tasks)
    for values in batch.values():
        values.zero_()
    assert describe(learner, metrics, ENV.tasks) == before
