"""Probes: a trained agent acts on another context than the true one. The drop in return measures how much it uses the context.

A probe changes the context and nothing else. The environment, the action mask of the task, the observations and the random numbers of
the sampled actions are the same as in an evaluation without the probe.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.acting.policy import ContextRows, Policy
from agents.fusion.base import Tokens
from agents.setup import plugins


class Record:
    """A ContextOverride that returns the true contexts and records them, `steps` steps so far."""

    def __init__(self) -> None:
        self.steps = 0
        # Per slot: the steps at which its context changed, and the new contexts. Changes are far fewer than steps.
        self._since: list[list[int]] = []
        self._contexts: list[list[ContextRows]] = []
        self._last: ContextRows | None = None

    def __call__(self, true: ContextRows, reset: NDArray[np.bool_]) -> ContextRows:
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

    def at(self, step: int, slot: int) -> ContextRows:
        """The context of `slot` at `step`, [C]. Steps beyond the record start from its beginning again."""
        return self._contexts[slot][bisect.bisect_right(self._since[slot], step % self.steps) - 1]


class Swap:
    """A ContextOverride that draws a context of another task for each slot and episode.

    The contexts are drawn from `others` [P, C]. The columns `instruction` hold the instruction; they are empty for an agent that reads
    none. The drawn instruction differs from the true one whenever `others` has such an instruction.
    """

    def __init__(self, others: ContextRows, instruction: slice, seed: Sequence[int]) -> None:
        self._others = others
        self._instruction = instruction
        self._rng = np.random.default_rng(seed)
        self._drawn: ContextRows | None = None

    def __call__(self, true: ContextRows, reset: NDArray[np.bool_]) -> ContextRows:
        if self._drawn is None:
            self._drawn, reset = np.empty_like(true), np.ones(len(true), bool)
        drawn, words = self._drawn[:, self._instruction], true[:, self._instruction]
        # An instruction that changes inside an episode may become the drawn one.
        equal = (drawn == words).all(axis=1) if words.size else np.zeros(len(true), bool)
        for slot in np.flatnonzero(reset | equal):
            self._drawn[slot] = self._draw(true[slot])
        return self._drawn

    def _draw(self, true: ContextRows) -> ContextRows:
        different = np.flatnonzero((self._others[:, self._instruction] != true[self._instruction]).any(axis=1))
        choices = different if len(different) else np.arange(len(self._others))
        drawn: ContextRows = self._others[choices[self._rng.integers(len(choices))]]
        return drawn


class Shuffle:
    """A ContextOverride that gives each slot the context that another slot had at the same step: that of a slot in a record."""

    def __init__(self, sources: Sequence[tuple[Record, int]]) -> None:
        self._sources = sources
        self._step = 0

    def __call__(self, true: ContextRows, reset: NDArray[np.bool_]) -> ContextRows:
        contexts = np.stack([record.at(self._step, slot) for record, slot in self._sources])
        self._step += 1
        return contexts


def zero(policy: Policy) -> None:
    """Makes the context encoder of `policy` return z = 0. Works in full precision only, where the policy acts without a copy."""

    def blank(module: torch.nn.Module, contexts: object, z: Tensor | Tokens) -> Tensor | Tokens:
        return Tokens(torch.zeros_like(z.values), z.mask) if isinstance(z, Tokens) else torch.zeros_like(z)

    policy.network.context_encoder.register_forward_hook(blank)
    policy.weights_changed()


def add_noise(level: float, policy: Policy) -> None:
    """Gives the encoded contexts of `policy`, which has not acted yet, this noise (ContextEncoder.noise) in place of that of its training.

    As `zero`, in full precision only.
    """
    policy.network.context_encoder.noise = level


PROBES = {
    "swap": "each slot gets the context of a slot of another task",
    "shuffle": "each slot gets the context that another slot had at the same step",
    "zero": "the encoded context is zero",
}
"""Name in the config -> the contexts that the agent receives, in words."""

ALL = "all"
"""In the config: all probes."""


def all_probes() -> dict[str, str]:
    """PROBES and those of plugins."""
    return PROBES | {name: probe.meaning for name, probe in plugins.PROBES.items()}


def derangement(size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A permutation of `size` >= 2 without fixed points, drawn uniformly among the permutations with a single cycle."""
    order = rng.permutation(size)
    permutation = np.empty(size, np.int64)
    permutation[order] = np.roll(order, -1)
    return permutation
