"""Population-based training (Jaderberg et al., 2017) with the rule of IMPALA (Espeholt et al., 2018, appendix F), as pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, slots=True)
class Member:
    """One of a population.

    Attributes:
        hyperparameters: by name, positive.
        fitness: points; None while it is unknown, -inf where training failed.
    """

    hyperparameters: Mapping[str, float]
    fitness: float | None


class Decision(NamedTuple):
    """What becomes of a member: with whom it was compared, if with anybody, whether it takes over that one's weights, and the
    hyperparameters that it goes on with.
    """

    compared_with: int | None
    copies: bool
    hyperparameters: dict[str, float]


def random_numbers(seed: int, *place: int) -> np.random.Generator:
    """The random numbers of one place in the population, such as (generation, member): the same whenever they are asked for."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=place))


def draw(ranges: Mapping[str, tuple[float, float]], random: np.random.Generator) -> dict[str, float]:
    """First values, log-uniform between the ends of each range."""
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
    """What becomes of member `index` after so many frames.

    It is compared with another member, drawn uniformly. If that one is more than `margin` points better, its weights and hyperparameters
    are copied, and each hyperparameter is, with this probability, multiplied or divided by `factor`.
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
    """With this probability the value multiplied or divided by the factor, each in half of the cases."""
    chosen, up = random.random(2)
    if chosen >= probability:
        return value
    return value * factor if up < 0.5 else value / factor
