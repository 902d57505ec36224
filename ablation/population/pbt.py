"""Population-based training (Jaderberg et al., 2017) with the rule of IMPALA (Espeholt et al., 2018, appendix F), as pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Member(NamedTuple):
    """A member of a population.

    Attributes:
        hyperparameters: By name, positive.
        fitness: Points; None if unknown, -inf if training failed.
    """

    hyperparameters: Mapping[str, float]
    fitness: float | None


class Decision(NamedTuple):
    """Result of a comparison for a member: its partner, whether it copied the partner's weights, and its new hyperparameters."""

    compared_with: int | None
    copied: bool
    hyperparameters: dict[str, float]


def random_numbers(seed: int, *key: int) -> np.random.Generator:
    """A generator for `key`, such as (generation, member); the same at every call."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw(ranges: Mapping[str, tuple[float, float]], random: np.random.Generator) -> dict[str, float]:
    """Initial values, log-uniform in each range."""
    return {name: float(np.exp(random.uniform(np.log(low), np.log(high)))) for name, (low, high) in ranges.items()}


def exploit_and_explore(
    index: int,
    population: Sequence[Member],
    random: np.random.Generator,
    *,
    frames: int,
    burn_in_frames: int,
    margin: float,
    factor: float,
    probability: float,
) -> Decision:
    """The decision for member `index` at `frames`.

    Its partner is drawn uniformly. If the partner is more than `margin` points better, the member copies its weights and hyperparameters,
    and multiplies or divides each hyperparameter by `factor` with probability `probability`.
    """
    own = population[index]
    if frames < burn_in_frames or own.fitness is None:
        return Decision(None, False, dict(own.hyperparameters))
    partner = int(random.integers(len(population) - 1))
    partner += partner >= index
    other = population[partner]
    if other.fitness is None or not other.fitness - own.fitness > margin:
        return Decision(partner, False, dict(own.hyperparameters))
    explored = {
        name: perturbed(value, random, factor=factor, probability=probability)
        for name, value in other.hyperparameters.items()
    }
    return Decision(partner, True, explored)


def perturbed(value: float, random: np.random.Generator, *, factor: float, probability: float) -> float:
    """The value; with probability `probability` multiplied or divided by `factor`, each equally likely."""
    chosen, up = random.random(2)
    if chosen >= probability:
        return value
    return value * factor if up < 0.5 else value / factor
