"""The policy in use: one object for actors and evaluation alike, so that both carry the same recurrent state.

Modulations are cached by context until the weights change: an acting step compares contexts, and conditions only on new ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.acting.cuda_graphs import DeviceStep
from agents.fusion import Segments
from agents.fusion.device_transfer import send
from agents.fusion.padding import bucket_size
from agents.network.actions import ActionDistribution
from agents.network.agent import AgentNetwork, Modulations
from agents.network.context import Contexts

# Steps for which random numbers are drawn at once: one call costs as much as dozens of numbers.
_NOISE_STEPS = 16
# Cached contexts per slot. The present ones must fit; beyond them the cache serves contexts that come back.
_CONTEXTS_PER_SLOT = 2

Slots: TypeAlias = "slice | NDArray[np.int64]"
"""Numbers of slots."""


class Policy:
    """A network that acts in `slots` environments at once.

    Args:
        network: not trained here; whoever changes its weights calls `weights_changed`. The policy acts on the device where it is.
        slots: number of environments.
        greedy: take the greedy action (agents/network/actions.py) instead of a sample.
        autocast: dtype of torso and core, or None for full precision.
        graphs: on a GPU, capture its steps as CUDA graphs (agents/acting/cuda_graphs.py).

    Attributes:
        core_state: [slots, S], after the last step, on the network's device.
    """

    def __init__(
        self,
        network: AgentNetwork,
        slots: int,
        *,
        greedy: bool = False,
        autocast: torch.dtype | None = None,
        graphs: bool = False,
    ) -> None:
        device = next(network.parameters()).device
        self.network = network.eval()
        self.core_state = torch.zeros(slots, network.core_state_size, device=device)
        self._sampler = Sampler(network.actions, greedy=greedy)
        self._acting = network
        if autocast is not None:
            # A copy in that precision, made once for each version of the weights: autocast would cast them at every step.
            # `to`, because a copy's recurrent weights do not lie side by side, as a GPU's kernels want them.
            self._acting = copy.deepcopy(network).to(device)
            self._acting.lower_precision(autocast)
        self._cache = ModulationCache(self._acting, slots)
        self._step = DeviceStep(self._acting, graphs=graphs) if device.type != "cpu" else None

    def seed(self, seed: int) -> None:
        """Restarts the stream of sampled actions."""
        self._sampler.seed(seed)

    @property
    def modulation_bytes(self) -> int:
        """Memory of the cached modulations: all that they will ever take, from the first step on."""
        return self._cache.num_bytes

    @torch.no_grad()
    def weights_changed(self) -> None:
        """Takes over the weights of `network` and forgets every cached modulation."""
        if self._acting is not self.network:
            torch._foreach_copy_(list(self._acting.parameters()), list(self.network.parameters()))
        self._cache.clear()

    def act(self, inputs: Mapping[str, Tensor], told: NDArray[np.int32] | None = None) -> tuple[Tensor, Tensor]:
        """One step in every slot.

        Args:
            inputs: observed keys of agents/trajectory.py without the time axis, each [B, ...], on CPU.
            told: [B, C], another context for each slot than the one in `inputs`, as `context_rows` has it. All else, the action
                mask of the task included, stays that of `inputs`.

        Returns:
            action [B, ...], as trajectories hold it, and its log-probability [B]. The core state moves on.
        """
        return self._sampler.sample(self.distribution(inputs, told=told))

    @torch.inference_mode()
    def distribution(
        self, inputs: Mapping[str, Tensor], slots: Slots | None = None, told: NDArray[np.int32] | None = None
    ) -> Tensor:
        """The first half of `act`: the parameters [B, P] of each slot's action distribution. The core state moves on.

        Args:
            inputs, told: as for `act`.
            slots: which B of the slots take this step, all different; the others stay as they are. None: all of them.
        """
        segments, modulations = self._cache.look_up(context_rows(self.network, inputs) if told is None else told, slots)
        if self._step is not None:
            observed = {key: value for key, value in inputs.items() if key != "instruction"}
            rows = torch.from_numpy(np.arange(len(self.core_state))[slice(None) if slots is None else slots])
            return self._step(observed, rows, self.core_state, modulations, segments)
        step = {key: value.unsqueeze(0) for key, value in inputs.items() if key != "instruction"}
        state = self.core_state if slots is None else self.core_state[slots]
        output = self._acting.unroll(step, state, modulations, segments, values=False)
        if slots is None:
            self.core_state = output.core_state
        else:
            self.core_state[slots] = output.core_state
        return self.network.actions.parameters(output.policy_logits[0])


def context_rows(network: AgentNetwork, inputs: Mapping[str, Tensor]) -> NDArray[np.int32]:
    """What each slot is told, in the numbers that this agent reads: [B, C] (`ContextEncoder.context_rows`)."""
    instruction = inputs["instruction"].numpy() if "instruction" in inputs else None
    return network.context_encoder.context_rows(inputs["task"].numpy(), instruction)


class Sampler:
    """One action for each slot: a sample, from a stream that its seed alone names, or the greedy one.

    Args:
        actions: what is sampled.
        greedy: take the greedy action.
    """

    def __init__(self, actions: ActionDistribution, *, greedy: bool = False) -> None:
        self.greedy = greedy
        self._actions = actions
        self._generator = torch.Generator()
        self._noise = torch.empty(0)
        self._noise_step = 0

    def seed(self, seed: int) -> None:
        """Restarts the stream."""
        self._generator.manual_seed(seed)
        self._noise_step = len(self._noise)

    @torch.inference_mode()
    def sample(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """From the parameters of distributions [B, P] to action [B, ...] and its log-probability [B]."""
        action = self._actions.choose(parameters, None if self.greedy else self._next_noise(len(parameters)))
        return action, self._actions.log_prob(parameters, action)

    def _next_noise(self, slots: int) -> Tensor:
        if self._noise_step == len(self._noise):
            self._noise = self._actions.noise(_NOISE_STEPS, slots, self._generator)
            self._noise_step = 0
        self._noise_step += 1
        return self._noise[self._noise_step - 1]


class ModulationCache:
    """The modulations of the contexts seen since the weights changed, in memory that is bounded and allocated once.

    Args:
        network: conditions.
        slots: number of environments whose contexts are present at once.

    Attributes:
        limit: contexts it can hold. One more, and it forgets all but the present ones.
    """

    def __init__(self, network: AgentNetwork, slots: int) -> None:
        self.limit = _CONTEXTS_PER_SLOT * slots
        self._network = network
        self._rows: NDArray[np.int32] | None = None
        # The row of each slot's context among the stored; -1: not known.
        self._index = np.full(slots, -1, np.int64)
        self._known: dict[bytes, int] = {}
        self._stored: Modulations = {}
        self._found: tuple[Segments, Modulations] | None = None
        self._found_for: Slots | None = None

    @property
    def num_bytes(self) -> int:
        """Memory of what is stored, for `limit` contexts."""
        return sum(part.nbytes for parts in self._stored.values() for part in parts)

    def clear(self) -> None:
        """Forgets everything."""
        self._index.fill(-1)
        self._known.clear()

    def look_up(self, rows: NDArray[np.int32], slots: Slots | None = None) -> tuple[Segments, Modulations]:
        """The contexts of `slots` (None: all), whose `context_rows` [B, C] are given, and their modulations; conditions on new ones."""
        if self._rows is None:
            self._rows = np.zeros((len(self._index), rows.shape[1]), rows.dtype)
        present = slice(None) if slots is None else slots
        index = self._index[present]
        changed = np.flatnonzero((rows != self._rows[present]).any(axis=1) | (index < 0))
        if len(changed) or self._found is None or not _same(slots, self._found_for):
            if not self._number(rows, index, changed):
                self.clear()
                self._number(rows, index, np.arange(len(rows)))
            self._index[present], self._rows[present] = index, rows
            count = min(bucket_size(len(self._known)), self.limit)
            used = {site: tuple(part[:count] for part in parts) for site, parts in self._stored.items()}
            self._found, self._found_for = (Segments(torch.from_numpy(index.copy()), count), used), slots
        return self._found

    def _number(self, rows: NDArray[np.int32], index: NDArray[np.int64], changed: NDArray[np.int64]) -> bool:
        """Writes the stored rows of the contexts `rows[changed]` into `index`; False when the cache is too full for that."""
        new = []
        for slot in changed:
            key = rows[slot].tobytes()
            row = self._known.get(key)
            if row is None:
                if len(self._known) == self.limit:
                    return False
                row = self._known[key] = len(self._known)
                new.append(slot)
            index[slot] = row
        if new:
            contexts = self._network.context_encoder.contexts_from_rows(rows[new])
            contexts = Contexts(**send(contexts._asdict(), next(self._network.parameters()).device))
            self._store(self._network.condition(contexts), len(new))
        return True

    def _store(self, made: Modulations, count: int) -> None:
        """The newest `count` rows of the cache."""
        for site, parts in made.items():
            if site not in self._stored:
                self._stored[site] = tuple(part.new_zeros(self.limit, *part.shape[1:]) for part in parts)
            for stored, part in zip(self._stored[site], parts, strict=True):
                stored[len(self._known) - count : len(self._known)] = part[:count]


def _same(one: Slots | None, other: Slots | None) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return type(one) is type(other) and one == other
