"""The rule of population-based training, as properties."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.population.pbt import Decision, Member, draw, exploit_and_explore, random_numbers

FACTOR = 1.2
_FITNESS = st.one_of(st.none(), st.just(-math.inf), st.floats(-100, 200))
_POPULATIONS = st.lists(
    st.builds(
        Member,
        st.fixed_dictionaries({"learning_rate": st.floats(1e-6, 1e-2), "entropy_cost": st.floats(1e-6, 1e-1)}),
        _FITNESS,
    ),
    min_size=2,
    max_size=6,
)


def decide(
    index: int, population: list[Member], seed: int = 0, *, frames: int = 100, probability: float = 1 / 3
) -> Decision:
    return exploit_and_explore(
        index,
        population,
        random_numbers(seed, index),
        frames=frames,
        burn_in_frames=50,
        margin=5.0,
        factor=FACTOR,
        probability=probability,
    )


@given(_POPULATIONS, st.integers(0, 1000), st.integers(0, 200), st.floats(0, 1), st.data())
def test_a_copied_partner_is_better_by_more_than_the_margin_and_changes_by_the_factor(
    population: list[Member], seed: int, frames: int, probability: float, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(population) - 1))
    own = population[index]
    decision = decide(index, population, seed, frames=frames, probability=probability)
    assert decision == decide(index, population, seed, frames=frames, probability=probability)
    if frames < 50 or own.fitness is None:
        assert decision.compared_with is None
    else:
        assert decision.compared_with in set(range(len(population))) - {index}
    if not decision.copied:
        assert decision.hyperparameters == own.hyperparameters
        if decision.compared_with is not None:
            theirs = population[decision.compared_with].fitness
            assert theirs is None or not theirs > own.fitness + 5 or math.isclose(theirs, own.fitness + 5)
        return
    assert decision.compared_with is not None and frames >= 50
    other = population[decision.compared_with]
    assert other.fitness is not None and own.fitness is not None and other.fitness - own.fitness > 5
    for name, value in decision.hyperparameters.items():
        was = other.hyperparameters[name]
        assert value in (was, was * FACTOR, was / FACTOR)


def test_hyperparameters_change_with_the_given_probability_equally_often_up_and_down() -> None:
    population = [Member({"a": 1.0, "b": 1.0}, 0.0), Member({"a": 1.0, "b": 1.0}, 5.1)]
    found = Counter()
    for seed in range(3000):
        values = decide(0, population, seed).hyperparameters
        found[values["a"], values["b"]] += 1
    chances = {1.0: 2 / 3, FACTOR: 1 / 6, 1 / FACTOR: 1 / 6}
    for (a, b), count in found.items():
        expected = 3000 * chances[a] * chances[b]
        assert abs(count - expected) < 4.5 * math.sqrt(expected)
    assert len(found) == 9


def test_partners_are_drawn_uniformly() -> None:
    population = [Member({"a": 1.0}, 0.0)] * 5
    met = Counter(decide(2, population, seed).compared_with for seed in range(2000))
    assert set(met) == {0, 1, 3, 4}
    assert all(abs(count - 500) < 4.5 * math.sqrt(500) for count in met.values())


@pytest.mark.parametrize(("theirs", "copies"), [(10.0, False), (10.000001, True), (-math.inf, False), (None, False)])
def test_a_partner_better_by_exactly_the_margin_is_not_copied(theirs: float | None, copies: bool) -> None:
    assert decide(0, [Member({"a": 1.0}, 5.0), Member({"a": 1.0}, theirs)]).copied == copies


def test_a_failed_member_copies_one_that_did_not_fail() -> None:
    failed = Member({"a": 1.0}, -math.inf)
    assert decide(0, [failed, Member({"a": 1.0}, -1000.0)]).copied
    assert not decide(0, [failed, failed]).copied


def test_initial_values_are_log_uniform() -> None:
    drawn = np.array([draw({"a": (1e-5, 1e-1)}, random_numbers(0, 0, index))["a"] for index in range(2000)])
    assert 1e-5 <= drawn.min() < 1.02e-5 * 1.1 and 0.9e-1 < drawn.max() <= 1e-1
    counts, _ = np.histogram(np.log10(drawn), bins=4, range=(-5, -1))
    assert np.all(np.abs(counts - 500) < 4.5 * math.sqrt(500))
