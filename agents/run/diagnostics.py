"""Figures about the last update that only the log needs. They are computed at a log step, from tensors that the update made anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from agents.learning.learner import Learner
from agents.learning.objective import LastUpdate
from agents.learning.optimizers import total_norm
from agents.learning.popart import PopArt, sigma
from agents.network.agent import AgentNetwork

_ROUNDING = 1e-5
"""Relative error of rho in single precision, for log-probabilities of up to a hundred."""


def describe(learner: Learner, metrics: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, float]:
    """`metrics` of the learner's last update as numbers, and the figures of this module, with the keys of metrics.jsonl.

    A refused update has no figures but PopArt's.
    """
    found, objective = dict(metrics), learner.objective
    if objective.use_popart:
        found |= popart_figures(objective.popart, tasks)
    if objective.last is not None and "loss/gradient_norm" in metrics:
        found |= describe_update(objective.last, objective.clip_rho)
        found |= gradient_norms(learner.network, metrics["loss/gradient_norm"])
    return to_host(found)


@torch.no_grad()
def describe_update(last: LastUpdate, clip_rho: float) -> dict[str, Tensor]:
    """Means over the valid steps of this learner's columns:

    - value/explained_variance: 1 - Var(G - n) / Var(G), with target G and output n of the value head, so that every task counts alike.
    - value/mean: The mean of V.
    - policy/rho_mean, policy/rho_clipped: The mean of pi/mu, and the share of steps at which it exceeds `clip_rho`.
    - policy/kl: The estimate mean(rho - 1 - log rho) of KL(mu, pi), from the behaviour policy mu.
    """
    mask = last.mask
    steps = mask.sum().clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return values.masked_fill(~mask, 0.0).sum() / steps

    def variance(values: Tensor) -> Tensor:
        return mean((values - mean(values)).square())

    return {
        "value/explained_variance": 1 - variance(last.targets - last.baseline) / variance(last.targets),
        "value/mean": mean(last.values),
        "policy/rho_mean": mean(last.log_rhos.exp()),
        # On policy rho is 1 but for rounding, and so is the usual clip.
        "policy/rho_clipped": mean((last.log_rhos.exp() > clip_rho * (1 + _ROUNDING)).float()),
        "policy/kl": mean(last.log_rhos.expm1() - last.log_rhos),
    }


@torch.no_grad()
def gradient_norms(network: AgentNetwork, total: Tensor) -> dict[str, Tensor]:
    """`gradient_norm/<part>` of each part with gradients, as before the clipping. `total` is the norm of all gradients before it."""
    norms = {}
    for name, modules in network.parts.items():
        gradients = [parameter.grad for module in modules for parameter in module.parameters()]
        if found := [gradient for gradient in gradients if gradient is not None]:
            norms[f"gradient_norm/{name}"] = total_norm(found)
    if not norms:
        return {}
    # The clipping has scaled all gradients by one factor.
    factor = total / torch.stack([*norms.values()]).norm()
    return {key: norm * factor for key, norm in norms.items()}


def popart_figures(popart: PopArt, tasks: Sequence[str]) -> dict[str, Tensor]:
    """`tasks/<task>/popart_mu` and `tasks/<task>/popart_sigma`: mean and standard deviation of the value targets of each task."""
    moments = {"mu": popart.mu, "sigma": sigma(popart)}
    return {
        f"tasks/{task}/popart_{name}": moment
        for name, of_tasks in moments.items()
        for task, moment in zip(tasks, of_tasks, strict=True)
    }


def to_host(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers, with one copy from their device."""
    if not figures:
        return {}
    device = next(iter(figures.values())).device
    packed = torch.stack([figure.detach().to(device, torch.float64) for figure in figures.values()])
    return dict(zip(figures, packed.tolist(), strict=True))
