"""Probes: a trained agent acts on another context than its own. What it loses by that says how much it uses the context.

A probe changes what the agent is told and nothing else: the environment, the action mask of its task, its observations and the random
numbers that its actions are sampled with are those of an evaluation without the probe.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.acting.actor import ActingPolicy
from agents.acting.policy import Policy, context_rows

Contexts: TypeAlias = "NDArray[np.int32]"
"""[..., C]: what slots are told, in the numbers that the agent reads (`ContextEncoder.context_rows`)."""


class Tell(Protocol):
    """Says what each slot is told."""

    def __call__(self, true: Contexts, reset: NDArray[np.bool_]) -> Contexts:
        """One step of all slots: their own contexts [B, C] and where an episode begins [B] -> what they are told [B, C]."""


class OverrideContextPolicy:
    """An ActingPolicy that acts as `policy` does when it is told what `tell` says."""

    def __init__(self, policy: Policy, tell: Tell) -> None:
        self._policy = policy
        self._tell = tell

    @property
    def core_state(self) -> Tensor:
        """[B, S], after the last step."""
        return self._policy.core_state

    def seed(self, seed: int) -> None:
        """Restarts the stream of sampled actions."""
        self._policy.seed(seed)

    def act(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As Policy.act."""
        true = context_rows(self._policy.network, inputs)
        return self._policy.act(inputs, told=self._tell(true, inputs["reset"].numpy()))

    def weights_changed(self) -> None:
        """Forgets what was derived from earlier weights."""
        self._policy.weights_changed()


class Record:
    """Tells the truth, and remembers what it told to every slot at every step.

    Attributes:
        steps: that were recorded.
    """

    def __init__(self) -> None:
        self.steps = 0
        # Of each slot: the steps at which its context changed, and the new ones. They are far fewer than steps.
        self._since: list[list[int]] = []
        self._contexts: list[list[Contexts]] = []
        self._last: Contexts | None = None

    def __call__(self, true: Contexts, reset: NDArray[np.bool_]) -> Contexts:
        """See Tell."""
        if self._last is None:
            self._since, self._contexts = [[] for _ in true], [[] for _ in true]
            changed = np.arange(len(true))
        else:
            changed = np.flatnonzero((true != self._last).any(axis=1))
        self._last = true.copy()
        for slot in changed:
            self._since[slot].append(self.steps)
            self._contexts[slot].append(self._last[slot].copy())
        self.steps += 1
        return true

    def at(self, step: int, slot: int) -> Contexts:
        """What the slot was told at that step, [C]. After the last step the record begins again."""
        return self._contexts[slot][bisect.bisect_right(self._since[slot], step % self.steps) - 1]


class Swap:
    """Tells each slot what a slot of another task would be told, drawn anew for every episode.

    An instruction that is told differs from the slot's own wherever `others` has one that does.

    Args:
        others: [P, C], contexts to draw from.
        words: the columns that hold the instruction; empty for an agent that reads none.
        seed: names the stream of draws.
    """

    def __init__(self, others: Contexts, words: slice, seed: Sequence[int]) -> None:
        self._others = others
        self._words = words
        self._rng = np.random.default_rng(seed)
        self._told: Contexts | None = None

    def __call__(self, true: Contexts, reset: NDArray[np.bool_]) -> Contexts:
        """See Tell."""
        if self._told is None:
            self._told, reset = np.empty_like(true), np.ones(len(true), bool)
        told_words, words = self._told[:, self._words], true[:, self._words]
        # An instruction that changes inside an episode may become the one that is told.
        again = (told_words == words).all(axis=1) if words.size else np.zeros(len(true), bool)
        for slot in np.flatnonzero(reset | again):
            self._told[slot] = self._draw(true[slot])
        return self._told

    def _draw(self, true: Contexts) -> Contexts:
        different = np.flatnonzero((self._others[:, self._words] != true[self._words]).any(axis=1))
        choices = different if len(different) else np.arange(len(self._others))
        drawn: Contexts = self._others[choices[self._rng.integers(len(choices))]]
        return drawn


class Shuffle:
    """Tells each slot what another slot was told at the same step.

    Args:
        sources: for each slot the record and the slot in it whose context it gets.
    """

    def __init__(self, sources: Sequence[tuple[Record, int]]) -> None:
        self._sources = sources
        self._step = 0

    def __call__(self, true: Contexts, reset: NDArray[np.bool_]) -> Contexts:
        """See Tell."""
        told = np.stack([record.at(self._step, slot) for record, slot in self._sources])
        self._step += 1
        return told


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What the probes of one task are made from.

    Attributes:
        others: [P, C], what slots of other tasks are told, or of this one where there is no other.
        sources: for each slot of this task another slot of the evaluation, as its record and its number there.
        seed: names the streams of random choices.
    """

    others: Contexts
    sources: Sequence[tuple[Record, int]]
    seed: Sequence[int]


def swap(policy: Policy, scene: Scene) -> ActingPolicy:
    """`policy` under Swap."""
    words = policy.network.context_encoder.instruction_columns
    return OverrideContextPolicy(policy, Swap(scene.others, words, scene.seed))


def shuffle(policy: Policy, scene: Scene) -> ActingPolicy:
    """`policy` under Shuffle."""
    return OverrideContextPolicy(policy, Shuffle(scene.sources))


def zero(policy: Policy, scene: Scene) -> ActingPolicy:
    """`policy` whose context encoder answers every context with z = 0. The policy is in full precision: its network is what acts."""
    policy.network.context_encoder.register_forward_hook(lambda module, contexts, z: torch.zeros_like(z))
    policy.weights_changed()
    return policy


class Probe(NamedTuple):
    """told: what the slots are told, in words. wrap: makes the acting policy of one task."""

    told: str
    wrap: Callable[[Policy, Scene], ActingPolicy]


PROBES: dict[str, Probe] = {
    "swap": Probe("each slot is told what a slot of another task would be told", swap),
    "shuffle": Probe("each slot is told what another slot was told at the same step", shuffle),
    "zero": Probe("nothing is told: the encoded context is zero", zero),
}
"""Name in the config -> probe."""

ALL = "all"
"""In the config: each of PROBES."""


def derangement(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A permutation of `size` >= 2 that leaves nothing in its place, drawn uniformly among those with a single cycle."""
    order = rng.permutation(size)
    permutation = np.empty(size, np.int64)
    permutation[order] = np.roll(order, -1)
    return permutation
