"""The policy that acts, in actors and in evaluation: network, recurrent state, sampling, and a cache of modulations.

A modulation depends on the weights and the context alone. So it is cached by context until the weights change, and an acting step
computes modulations only for contexts that are not in the cache. Contexts come back: most instructions of a suite occur in every unroll.
So the first step after a change of weights computes the modulations of all cached contexts, with one product for each layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.acting.cuda_graphs import ActingStep
from agents.fusion.base import Modulation
from agents.fusion.device_transfer import send
from agents.fusion.padding import bucket_size
from agents.fusion.segments import Segments
from agents.network.actions import ActionDistribution
from agents.network.agent import AgentNetwork, Modulations
from agents.network.context import CONTEXT_KEYS, Contexts

# Random numbers are drawn for this many steps at once: one call costs as much as dozens of numbers.
_NOISE_STEPS = 16
# Cached contexts per slot: the current one, and one more for contexts that come back.
_CONTEXTS_PER_SLOT = 2
# Inputs that the network sees only as modulations.
_CONTEXT_KEYS = (*CONTEXT_KEYS, "context_seed")

Slots: TypeAlias = "slice | NDArray[np.int64]"
"""Indices of slots."""
ALL_SLOTS = slice(None)
ContextRows: TypeAlias = "NDArray[np.int32]"
"""[..., C]: contexts as the numbers that the agent reads (`ContextEncoder.context_rows`), in a `ModulationCache` with their seeds."""


ContextOverride: TypeAlias = "Callable[[ContextRows, NDArray[np.bool_]], ContextRows]"
"""One step of all slots: the true contexts [B, C] and the first steps of episodes [B] -> the contexts to act on [B, C]. For the probes of
evaluate.py (agents/evaluation/probes.py)."""


class Policy:
    """A network that acts in `slots` environments at once, on the network's device.

    Args:
        network: It acts and is not trained here. Call `weights_changed` after each change of its weights.
        greedy: Take the greedy action (agents/network/actions.py) instead of a sample.
        autocast: Dtype of torso and core, or None for full precision.
        graphs: On a GPU, capture acting steps as CUDA graphs (agents/acting/cuda_graphs.py).
        remember: See `ModulationCache`.

    Attributes:
        core_state: [slots, S], after the last step, on the network's device.
        cache: Of modulations. Its memory is constant from the first step on, and with tokens from the longest instruction on.
        context_override: Replaces the contexts of all slots, and nothing else: the action mask stays that of the true task. None: the
            policy acts on the contexts of the observations.
    """

    def __init__(
        self,
        network: AgentNetwork,
        slots: int,
        *,
        greedy: bool = False,
        autocast: torch.dtype | None = None,
        graphs: bool = False,
        remember: bool = True,
    ) -> None:
        device = next(network.parameters()).device
        self.network = network.eval()
        self.core_state = torch.zeros(slots, network.core_state_size, device=device)
        self.context_override: ContextOverride | None = None
        self._sampler = Sampler(network.actions, greedy=greedy)
        self._acting = network
        if autocast is not None:
            # A copy in that precision, because autocast would cast the weights at every step. `weights_changed` updates it.
            # deepcopy scatters the recurrent weights; `to` makes them one block again, which a GPU's kernels need.
            self._acting = copy.deepcopy(network).to(device)
            self._acting.lower_precision(autocast)
        self.cache = ModulationCache(self._acting, slots, remember=remember)
        self._step = ActingStep(self._acting, graphs=graphs) if device.type != "cpu" else None

    def seed(self, seed: int) -> None:
        """Restarts the stream of sampled actions."""
        self._sampler.seed(seed)

    @torch.no_grad()
    def weights_changed(self) -> None:
        """Copies the weights of `network` and drops the cached modulations."""
        if self._acting is not self.network:
            torch._foreach_copy_(list(self._acting.parameters()), list(self.network.parameters()))
        self.cache.weights_changed()

    def act(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One step in every slot: action [B, ...], in the form of trajectories, and its log-probability [B]. Advances the core state.

        Args:
            inputs: Observed keys of agents/trajectory.py without the time axis, each [B, ...], on CPU.
        """
        return self._sampler.sample(self.distribution(inputs))

    @torch.inference_mode()
    def distribution(self, inputs: Mapping[str, Tensor], slots: Slots = ALL_SLOTS) -> Tensor:
        """`act` without the sampling: the parameters [B, P] of each slot's action distribution. Advances the core state.

        Args:
            inputs: As for `act`.
            slots: The B distinct slots that take this step.
        """
        contexts = context_rows(self.network, inputs)
        if self.context_override is not None:
            contexts = self.context_override(contexts, inputs["reset"].numpy())
        if "context_seed" in inputs:
            contexts = self.network.context_encoder.add_seeds(contexts, inputs["context_seed"].numpy())
        segments, modulations = self.cache.look_up(contexts, slots)
        if self._step is not None:
            observed = {key: value for key, value in inputs.items() if key not in _CONTEXT_KEYS}
            # The indices of the slots, which `slots` may give as a slice.
            rows = torch.from_numpy(np.arange(len(self.core_state))[slots])
            return self._step(observed, rows, self.core_state, modulations, segments)
        step = {key: value.unsqueeze(0) for key, value in inputs.items() if key not in _CONTEXT_KEYS}
        output = self._acting.unroll(step, self.core_state[slots], modulations, segments, values=False)
        self.core_state[slots] = output.core_state
        return self.network.actions.parameters(output.policy_logits[0])


def context_rows(network: AgentNetwork, inputs: Mapping[str, Tensor]) -> ContextRows:
    """The context of each slot, [B, C]."""
    parts = (inputs[key].numpy() if key in inputs else None for key in CONTEXT_KEYS)
    return network.context_encoder.context_rows(inputs["task"].numpy(), *parts)


class Sampler:
    """Draws one action per slot, from a random stream that depends on the seed alone, or takes the greedy action."""

    def __init__(self, actions: ActionDistribution, *, greedy: bool = False) -> None:
        self.greedy = greedy
        self._actions = actions
        self._generator = torch.Generator()
        self._noise = torch.empty(0)
        self._noise_step = 0

    def seed(self, seed: int) -> None:
        """Restarts the stream."""
        self._generator.manual_seed(seed)
        # Drops the numbers that are left, which are of the earlier stream.
        self._noise_step = len(self._noise)

    @torch.inference_mode()
    def sample(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of distributions [B, P] -> action [B, ...] and its log-probability [B]."""
        action = self._actions.choose(parameters, None if self.greedy else self._next_noise(len(parameters)))
        return action, self._actions.log_prob(parameters, action)

    def _next_noise(self, slots: int) -> Tensor:
        """The random numbers of one step of `slots` slots."""
        if self._noise_step == len(self._noise):
            self._noise = self._actions.noise(_NOISE_STEPS, slots, self._generator)
            self._noise_step = 0
        self._noise_step += 1
        return self._noise[self._noise_step - 1]


class ModulationCache:
    """The modulations of the contexts seen so far, in bounded memory.

    Args:
        network: Computes them.
        slots: Number of slots.
        remember: Keep the contexts when the weights change, and compute their modulations together. Without it the cache is empty then,
            so that the sizes of these computations, and with them rounding errors, do not depend on earlier unrolls.

    Attributes:
        limit: Number of contexts it can hold. When a further one arrives, all are dropped except the contexts of the current call.
        stored: By site, [limit, ...]. Only the first rows are valid, one for each context that is held. Modulations of tokens are padded
            to the longest context so far.
    """

    def __init__(self, network: AgentNetwork, slots: int, *, remember: bool) -> None:
        self.limit = _CONTEXTS_PER_SLOT * slots
        self._network = network
        self._remember = remember
        # The context of each slot at its last look-up.
        self._rows: ContextRows | None = None
        # The row of that context in `stored`. -1: none.
        self._index = np.full(slots, -1, np.int64)
        # The row in `stored` of each cached context, by the bytes of the context.
        self._known: dict[bytes, int] = {}
        self.stored: Modulations = {}
        # How many rows of `stored` are of the present weights.
        self._computed = 0
        # The result of the last look-up and its slots, for the usual step in which no context changes.
        self._found: tuple[Segments, Modulations] | None = None
        self._found_for: NDArray[np.int64] = np.empty(0, np.int64)

    def weights_changed(self) -> None:
        """Drops all modulations."""
        self._computed = 0
        if not self._remember:
            self._forget()

    def _forget(self) -> None:
        """Drops all contexts."""
        self._computed = 0
        self._index.fill(-1)
        self._known.clear()

    def look_up(self, rows: ContextRows, slots: Slots = ALL_SLOTS) -> tuple[Segments, Modulations]:
        """The segments and modulations of the contexts `rows` [B, C] of `slots`. Computes modulations that are not stored."""
        if self._rows is None:
            self._rows = np.zeros((len(self._index), rows.shape[1]), rows.dtype)
        index, present = self._index[slots], np.arange(len(self._index))[slots]
        changed = np.flatnonzero((rows != self._rows[slots]).any(axis=1) | (index < 0))
        if len(changed) or not np.array_equal(present, self._found_for):
            self._found = None
            if not self._number(rows, index, changed):
                # Full: keep the contexts of this call alone.
                self._forget()
                self._number(rows, index, np.arange(len(rows)))
            self._index[slots], self._rows[slots] = index, rows
        self._compute()
        if self._found is None:
            count = min(bucket_size(len(self._known)), self.limit)
            used = {site: tuple(part[:count] for part in parts) for site, parts in self.stored.items()}
            self._found, self._found_for = (Segments(torch.from_numpy(index.copy()), count), used), present
        return self._found

    def _number(self, rows: ContextRows, index: NDArray[np.int64], changed: NDArray[np.int64]) -> bool:
        """Sets `index[changed]` to the rows in `stored` of the contexts `rows[changed]`. New contexts get the next rows.

        Returns False if the cache is full. Then the caller must `_forget`.
        """
        for slot in changed:
            row = self._known.setdefault(rows[slot].tobytes(), len(self._known))
            if row == self.limit:
                return False
            index[slot] = row
        return True

    def _compute(self) -> None:
        """Computes the rows of `stored` that are not of the present weights."""
        first, end = self._computed, len(self._known)
        if first == end:
            return
        assert self._rows is not None
        rows = np.frombuffer(b"".join([*self._known][first:]), self._rows.dtype).reshape(end - first, -1)
        contexts = self._network.context_encoder.contexts_from_rows(rows)
        contexts = Contexts(**send(contexts.tensors(), next(self._network.parameters()).device))
        self._network.context_encoder.refuse_unseen(contexts)
        for site, parts in self._network.condition(contexts).items():
            if site not in self.stored:
                self.stored[site] = tuple(part.new_zeros(self.limit, *part.shape[1:]) for part in parts)
            elif any(a.shape[1:] != b.shape[1:] for a, b in zip(self.stored[site], parts, strict=True)):
                self._fit(site, parts, slice(first, end))
            # `contexts_from_rows` has padded the contexts to a bucket size.
            for stored, part in zip(self.stored[site], parts, strict=True):
                stored[(slice(first, end), *map(slice, part.shape[1:]))] = part[: end - first]
        self._computed = end

    def _fit(self, site: str, parts: Modulation, rows: slice) -> None:
        """Makes room for modulations of another number of tokens, and fills `rows` with zeros, because not all of each row is written."""
        grown = []
        for stored, part in zip(self.stored[site], parts, strict=True):
            kept, shape = stored, tuple(map(max, stored.shape[1:], part.shape[1:]))
            if shape != stored.shape[1:]:
                kept, self._found = stored.new_zeros(self.limit, *shape), None
                kept[tuple(map(slice, stored.shape))] = stored
            kept[rows] = 0
            grown.append(kept)
        self.stored[site] = tuple(grown)
