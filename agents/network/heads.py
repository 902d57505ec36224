"""The mask on the policy head's logits, and the value heads, with the affine layer that PopArt rescales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FIRST_LOGITS = 0.1
"""Standard deviation of the initial logits of a HistogramHead over inputs, so that the first values are close to each other."""

# Finite, so that an entropy never contains 0 * log 0.
_MASKED_LOGIT = -1e9


class ActionMask(nn.Module):
    """Masks actions that the task does not have or that are illegal at the step. logits [N, A], task [N] -> logits [N, A]."""

    allowed: Tensor

    def __init__(self, action_counts: tuple[int, ...], num_actions: int) -> None:
        super().__init__()
        allowed = torch.arange(num_actions) < torch.tensor(action_counts).unsqueeze(1)
        self.needed = min(action_counts) < num_actions
        self.register_buffer("allowed", allowed, persistent=False)

    def forward(self, logits: Tensor, task: Tensor, legal: Tensor | None = None) -> Tensor:
        """`legal`: bool [N, A], if the environment reports legal actions."""
        if self.needed:
            own = self.allowed[task.long()]
            legal = own if legal is None else own & legal
        return logits if legal is None else torch.where(legal, logits, _MASKED_LOGIT)


class ValueHead(nn.Module):
    """One affine output per task on shared features: n = w_task . f + b_task, the *normalised* baseline of PopArt.

    features [..., F], task [...] -> [...]. With `num_outputs` 1 all tasks share one output (no PopArt).
    """

    def __init__(self, features: int, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        # A fused value head returns one number, the value itself: start with the identity.
        initial = torch.ones(num_outputs, 1) if features == 1 else torch.randn(num_outputs, features) * features**-0.5
        self.weight = nn.Parameter(initial)
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    @property
    def output_layer(self) -> tuple[Tensor, Tensor]:
        """Weight [K, F] and bias [K] of the layer with the outputs n (agents.learning.popart.rescale_head)."""
        return self.weight, self.bias

    def forward(self, features: Tensor, task: Tensor) -> Tensor:
        outputs = nn.functional.linear(features, self.weight, self.bias)
        if self.num_outputs == 1:
            return outputs.squeeze(-1)
        return outputs.gather(-1, task.long().unsqueeze(-1)).squeeze(-1)


class HistogramHead(nn.Module):
    """A distribution over B bins for each task: p = softmax(W_task f + b_task), n = scale_task sum_i p_i c_i + shift_task.

    features [..., F], task [...] -> n [...], the normalised baseline of PopArt, as `ValueHead`. The centres c_i are those of B equal bins
    of [-bound, bound]. `scale` [K, 1] and `shift` [K] place them relative to PopArt's moments: agents.learning.popart moves them.

    The initial distribution is close to a normal one with mean 0, whatever the features are.

    Args:
        is_fused: Whether the features are B logits already, from a fusion. Then the weight starts as a small identity.
    """

    centres: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, features: int, num_tasks: int, *, bins: int, bound: float, is_fused: bool = False) -> None:
        super().__init__()
        self.num_outputs, self.bound = num_tasks, bound
        edges = torch.linspace(-bound, bound, bins + 1)
        self.register_buffer("centres", (edges[1:] + edges[:-1]) / 2, persistent=False)
        self.register_buffer("scale", torch.ones(num_tasks, 1))
        self.register_buffer("shift", torch.zeros(num_tasks))
        initial = torch.eye(bins).repeat(num_tasks, 1, 1) if is_fused else torch.randn(num_tasks, bins, features)
        self.weight = nn.Parameter(initial * (_FIRST_LOGITS if is_fused else _FIRST_LOGITS * features**-0.5))
        # Four standard deviations within the bound.
        self.bias = nn.Parameter((-8 * (self.centres / bound).square()).repeat(num_tasks, 1))

    @property
    def output_layer(self) -> tuple[Tensor, Tensor]:
        """`scale` and `shift`: n is affine in the mean of p, as a ValueHead's is in its features."""
        return self.scale, self.shift

    def logits(self, features: Tensor, task: Tensor) -> Tensor:
        """Of the bins of each sample's task, [..., B]."""
        outputs = nn.functional.linear(features, self.weight.flatten(0, 1), self.bias.flatten())
        outputs = outputs.view(*task.shape, *self.bias.shape)
        index = task.long()[..., None, None].expand(*task.shape, 1, outputs.shape[-1])
        return outputs.gather(-2, index).squeeze(-2)

    def decode(self, logits: Tensor, task: Tensor) -> Tensor:
        """n from the logits, [..., B] -> [...]."""
        index = task.long()
        return self.scale[index, 0] * (logits.softmax(dim=-1) @ self.centres) + self.shift[index]

    def forward(self, features: Tensor, task: Tensor) -> Tensor:
        return self.decode(self.logits(features, task), task)
