"""The policy in use: one object for actors and evaluation alike, so that both carry the same recurrent state.

Modulations are cached by context until the weights change: an acting step compares contexts, and conditions only on new ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.fusion import Segments
from agents.network.agent import AgentNetwork, Modulations


class Policy:
    """A network that acts in `slots` environments at once.

    Args:
        network: not trained here; whoever changes its weights calls `weights_changed`.
        slots: number of environments.
        greedy: take the most probable action instead of a sample.
        autocast: dtype of torso and core, or None for full precision.
    """

    def __init__(
        self, network: AgentNetwork, slots: int, *, greedy: bool = False, autocast: torch.dtype | None = None
    ) -> None:
        self.network = network.eval()
        self.autocast = autocast
        self.greedy = greedy
        self.core_state = torch.zeros(slots, network.core_state_size)
        self.generator = torch.Generator()
        self._rows: NDArray[np.int32] | None = None
        self._index = np.zeros(slots, np.int64)
        self._known: dict[bytes, int] = {}
        self._modulations: Modulations = {}

    def seed(self, seed: int) -> None:
        """Restarts the stream of sampled actions."""
        self.generator.manual_seed(seed)

    def weights_changed(self) -> None:
        """Forgets every cached modulation."""
        self._rows = None

    @torch.inference_mode()
    def act(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One step in every slot.

        Args:
            inputs: observed keys of agents/trajectory.py without the time axis, each [B, ...], on CPU.

        Returns:
            action int64 [B] and its log-probability [B]. The core state moves on.
        """
        with torch.autocast("cpu", self.autocast, enabled=self.autocast is not None):
            segments = self._segments(inputs)
            step = {key: value.unsqueeze(0) for key, value in inputs.items()}
            output = self.network.unroll(step, self.core_state, self._modulations, segments)
        self.core_state = output.core_state
        log_probs = torch.log_softmax(output.policy_logits[0], dim=-1)
        if self.greedy:
            action = log_probs.argmax(dim=-1)
        else:
            # argmax(log p - log E) with E ~ Exp(1) is a sample of p (the Gumbel trick), in one pass over the actions.
            noise = torch.empty_like(log_probs).exponential_(generator=self.generator)
            action = (log_probs - noise.log()).argmax(dim=-1)
        return action, log_probs.gather(1, action.unsqueeze(1)).squeeze(1)

    def _segments(self, inputs: Mapping[str, Tensor]) -> Segments:
        """The context of each slot; conditions on those not seen since the weights changed."""
        instruction = inputs["instruction"].numpy() if "instruction" in inputs else None
        rows = self.network.context_encoder.context_rows(inputs["task"].numpy(), instruction)
        if self._rows is None:
            self._known.clear()
            self._modulations = {}
            changed = np.arange(len(rows))
        else:
            changed = np.flatnonzero((rows != self._rows).any(axis=1))
        if len(changed):
            self._look_up(rows, changed)
            self._rows = rows.copy()
        return Segments(torch.from_numpy(self._index.copy()), len(self._known))

    def _look_up(self, rows: NDArray[np.int32], changed: NDArray[np.int64]) -> None:
        new = []
        for slot in changed:
            key = rows[slot].tobytes()
            row = self._known.get(key)
            if row is None:
                row = self._known[key] = len(self._known)
                new.append(slot)
            self._index[slot] = row
        if new:
            made = self.network.condition(self.network.context_encoder.contexts_from_rows(rows[new]))
            if self._modulations:
                made = {
                    site: tuple(torch.cat(pair) for pair in zip(self._modulations[site], parts, strict=True))
                    for site, parts in made.items()
                }
            self._modulations = made
