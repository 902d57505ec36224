"""Diagnostics: how far the tasks' gradients agree, how much of the network's capacity is in use, and how much a fusion multiplies.

A measurement takes the batch of an update, after its gradient and before the parameters move. It runs the network once more, and the
backward pass once for each task. It draws no random numbers and changes neither parameters nor gradients, so training is the same
without it, bit for bit. With several learners it measures the columns of the one that calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agents.fusion.base import Fusion
from agents.fusion.segments import Segments
from agents.learning.diagnostics.recording import record
from agents.learning.objective import Objective, Targets
from agents.learning.prefetch import Staged
from agents.network.agent import AgentNetwork

MOST_TASKS = 16
"""Tasks whose gradients are compared: those with the most valid steps in the batch. It bounds time and memory."""

_COMPARED = ("torso", "fusion", "core", "heads")
"""Parts whose gradients are compared. The context encoder is left out: embeddings of different tasks share no parameter."""


class Diagnostics:
    """Measures a network every few updates.

    Args:
        objective: Of the learner.
        every: Updates between two measurements; the first one is at update 0.
    """

    def __init__(self, objective: Objective, *, every: int) -> None:
        self._objective, self._every = objective, every
        self._figures: dict[str, Tensor] = {}

    def is_due(self, updates: int) -> bool:
        """Whether the update after `updates` others is measured."""
        return updates % self._every == 0

    def take(self) -> dict[str, Tensor]:
        """The figures of the last measurement, scalars with the keys of metrics.jsonl; empty if they were taken before."""
        figures, self._figures = self._figures, {}
        return figures

    def measure(self, staged: Staged, targets: Targets, entropy_cost: float) -> None:
        """Measures the network on the batch of an update, of which `targets` and `entropy_cost` are."""
        network, batch = self._objective.network, staged.batch
        with record(network) as recorded:
            loss = self._objective.loss_of_steps(staged, targets, entropy_cost)
        figures = {
            **task_cosines(loss, batch["task"][:-1], batch["mask"], compared_parameters(network)),
            **recorded.dead_units(),
            "effective_rank/core_input": effective_rank(recorded.inputs["core_input"]),
            "effective_rank/core": effective_rank(recorded.core),
        }
        for site, fusion in cast(Mapping[str, Fusion], dict(network.fusions.items())).items():
            if fusion.affine_in_z:
                multiplicative, additive = term_sizes(fusion, recorded.inputs[site], recorded.z, staged.segments)
                figures |= {f"multiplicative/{site}": multiplicative, f"additive/{site}": additive}
        self._figures = {f"diagnostics/{key}": figure for key, figure in figures.items()}


def compared_parameters(network: AgentNetwork) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of each part that tasks share. The value head is left out if every task has its own output."""
    own = set() if network.value_head.num_outputs == 1 else set(network.value_head.parameters())
    found = {
        part: [
            parameter
            for module in network.parts[part]
            for parameter in module.parameters()
            if parameter.requires_grad and parameter not in own
        ]
        for part in _COMPARED
    }
    return {part: parameters for part, parameters in found.items() if parameters}


def task_cosines(
    loss: Callable[[Tensor], Tensor], task: Tensor, mask: Tensor, parts: Mapping[str, Sequence[Tensor]]
) -> dict[str, Tensor]:
    """Cosines between the gradients of the loss of each task, over all pairs of at most MOST_TASKS tasks, for each part:

    - cosine_mean, cosine_min: The mean and the least cosine. The cosine with a gradient of zeros is 0.
    - conflicts: Share of pairs with a negative cosine: conflicting gradients in Yu et al. (2020), PCGrad.

    Empty if the batch has valid steps of fewer than two tasks.

    Args:
        loss: Of the steps that count, bool [T, B].
        task, mask: Task and validity of each step, [T, B].
        parts: Tensors by the name of the part.
    """
    steps = torch.bincount(task[mask].long())
    chosen = steps.argsort(descending=True, stable=True)[: int((steps > 0).sum().clamp(max=MOST_TASKS))].tolist()
    if len(chosen) < 2:
        return {}
    tensors = [tensor for part in parts.values() for tensor in part]
    rows: dict[str, list[Tensor]] = {part: [] for part in parts}
    for number in chosen:
        found = torch.autograd.grad(
            loss(mask & (task == number)), tensors, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        gradients = iter(found)
        for part, members in parts.items():
            own = islice(gradients, len(members))
            rows[part].append(torch.cat([gradient.flatten().float() for gradient in own]))
    above = torch.triu_indices(len(chosen), len(chosen), offset=1).unbind()
    figures: dict[str, Tensor] = {}
    for part, of_tasks in rows.items():
        unit = F.normalize(torch.stack(of_tasks), dim=1)
        cosines = (unit @ unit.t())[above]
        figures |= {
            f"cosine_mean/{part}": cosines.mean(),
            f"cosine_min/{part}": cosines.min(),
            f"conflicts/{part}": (cosines < 0).float().mean(),
        }
    return figures


def effective_rank(features: Tensor) -> Tensor:
    """exp(H(p)), H the entropy of the singular values' shares p_i = s_i / sum s (Roy and Vetterli 2007). [..., F] -> a scalar in [1, F].

    F equally large singular values give F, a single one gives 1.
    """
    x = features.detach().flatten(0, -2).double().nan_to_num(0.0, 0.0, 0.0)
    # The eigenvalues of the Gram matrix are the squares, at a fraction of the cost.
    values = torch.linalg.eigvalsh(x.t() @ x).clamp(min=0).sqrt()
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()


@torch.no_grad()
def term_sizes(fusion: Fusion, x: Tensor, z: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """Root mean squares of z^T W x and of z^T U + V x + b, over samples and outputs, of a form that is affine in z.

    They are read off at x = 0 and z = 0, so that W is never built: y(x, z) - y(x, 0) - y(0, z) + y(0, 0) = z^T W x.
    """
    x, z = x.float(), z.float()

    def y(x: Tensor, z: Tensor) -> Tensor:
        return fusion.modulate(x, fusion.condition(z, len(x)), segments).float()

    no_x, no_z = torch.zeros_like(x), torch.zeros_like(z)
    additive = y(x, no_z) + y(no_x, z) - y(no_x, no_z)
    return (y(x, z) - additive).square().mean().sqrt(), additive.square().mean().sqrt()
