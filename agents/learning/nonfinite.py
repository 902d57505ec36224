"""Diagnosis of tensors that are not finite, as plain data (diagnosis.json in the run folder)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from agents.network.agent import AgentNetwork
from agents.trajectory import Trajectory
from system.errors import RunError

_LARGEST = 10
"""How many gradients `gradients` lists."""


class NonFiniteError(RunError):
    """Too many updates in a row were not finite, or the learner itself is not finite. Refused updates leave the learner unchanged.

    Attributes:
        diagnosis: What was not finite, as plain data.
    """

    def __init__(self, message: str, diagnosis: dict[str, Any]) -> None:
        super().__init__(message)
        self.diagnosis = diagnosis


def gradients(network: AgentNetwork) -> dict[str, Any]:
    """Gradients by the name of their parameter. `not_finite`: names; `largest`: names and norms of the largest finite ones."""
    found = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    broken = [name for name, gradient in found.items() if not gradient.isfinite().all()]
    norms = {name: float(gradient.norm()) for name, gradient in found.items() if name not in broken}
    largest = sorted(norms, key=lambda name: -norms[name])[:_LARGEST]
    return {"not_finite": broken, "largest": {name: norms[name] for name in largest}}


def arrays(batch: Trajectory) -> dict[str, dict[str, Any]]:
    """Shape, dtype, number of values that are not finite, and range of the finite ones, for each key of a batch.

    `episode_return` and `success` are NaN at steps that end no episode.
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
    """Valid steps of each task in a batch; K numbers."""
    steps: list[int] = torch.bincount(batch["task"][:-1][batch["mask"]].long(), minlength=num_tasks).tolist()
    return steps


def not_finite(named: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a value that is not finite."""
    return [name for name, tensor in named.items() if not tensor.isfinite().all()]


def for_json(data: Any) -> Any:
    """The same data with the strings `nan`, `inf` and `-inf` for these numbers, which JSON lacks."""
    if isinstance(data, dict):
        return {str(key): for_json(value) for key, value in data.items()}
    if isinstance(data, list):
        return [for_json(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data
