"""The mask on the policy head's logits, and the value head: the affine layer that PopArt rescales."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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

    def forward(self, features: Tensor, task: Tensor) -> Tensor:
        outputs = nn.functional.linear(features, self.weight, self.bias)
        if self.num_outputs == 1:
            return outputs.squeeze(-1)
        return outputs.gather(-1, task.long().unsqueeze(-1)).squeeze(-1)
