"""What was not finite, as plain data: for the one who has to find out why a run stopped."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from agents.network.agent import AgentNetwork
from agents.trajectory import Trajectory

_LARGEST = 10
"""Gradients that are listed by their norm."""


def gradients(network: AgentNetwork) -> dict[str, Any]:
    """not_finite: names of the parameters whose gradient is not; largest: norm of the largest of the other gradients, by name."""
    found = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    broken = [name for name, gradient in found.items() if not gradient.isfinite().all()]
    norms = {name: float(gradient.norm()) for name, gradient in found.items() if name not in broken}
    largest = sorted(norms, key=lambda name: -norms[name])[:_LARGEST]
    return {"not_finite": broken, "largest": {name: norms[name] for name in largest}}


def arrays(batch: Trajectory) -> dict[str, dict[str, Any]]:
    """By key of a batch: shape, dtype, how many values are not finite, and the range of the others.

    `episode_return` and `success` are NaN wherever no episode ended.
    """
    found = {}
    for key, array in batch.items():
        finite = array[array.isfinite()]
        found[key] = {
            "shape": list(array.shape),
            "dtype": str(array.dtype).removeprefix("torch."),
            "not_finite": array.numel() - finite.numel(),
            "min": finite.min().item() if finite.numel() else None,
            "max": finite.max().item() if finite.numel() else None,
        }
    return found


def steps_by_task(batch: Trajectory, num_tasks: int) -> list[int]:
    """Real transitions of each task in a batch, [K]."""
    steps: list[int] = torch.bincount(batch["task"][:-1][batch["mask"]].long(), minlength=num_tasks).tolist()
    return steps


def not_finite(named: dict[str, Tensor]) -> list[str]:
    """Names of the tensors with a value that is not finite."""
    return [name for name, tensor in named.items() if not tensor.isfinite().all()]


def for_json(data: Any) -> Any:
    """The same data with `nan`, `inf` and `-inf` as words, because JSON has no such numbers."""
    if isinstance(data, dict):
        return {str(key): for_json(value) for key, value in data.items()}
    if isinstance(data, list):
        return [for_json(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data
