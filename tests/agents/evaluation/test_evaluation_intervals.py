"""Intervals of evaluations have their nominal coverage, also near 0 and 1 and for nearly equal returns.

Coverage of shares is an exact sum over all outcomes where there are few enough; else of outcomes drawn with a fixed seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest  # type: ignore[import-untyped]

from agents.evaluation import intervals
from agents.evaluation.episodes import Episode
from agents.evaluation.intervals import EXACT, WEIGHT, interval, of_shares
from agents.evaluation.probe_report import drop
from agents.evaluation.report import return_range, summary
from agents.evaluation.tables import unknown_intervals
from envs.spec import Score

Array = NDArray[np.float64]

TRUTHS = np.array([0.5, 0.55, 0.6, 0.7, 0.75, 0.8, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999])
EPISODES = (10, 20, 30, 50, 100, 200)


def task_limits(episodes: int, weight: float) -> tuple[Array, Array]:
    """Intervals of one task, for every number of successes."""
    counts = np.arange(episodes + 1.0)[:, None]
    return of_shares(counts, np.full_like(counts, episodes), np.ones(1), weight)


def task_coverage(episodes: int, weight: float, truths: Array) -> Array:
    low, high = (limit[:, None] for limit in task_limits(episodes, weight))
    chance = binom.pmf(np.arange(episodes + 1)[:, None], episodes, truths)
    return np.asarray((chance * ((low <= truths) & (truths <= high))).sum(axis=0))


def mean_coverage(truths: Sequence[float], episodes: Sequence[int]) -> float:
    """Coverage of the mean of some tasks, over all outcomes or many draws."""
    rows = np.array(list(itertools.product(*(range(number + 1) for number in episodes))) if len(truths) < 4 else [])
    if len(rows):
        chance = np.prod(binom.pmf(rows, episodes, truths), axis=1)
        # Omitted outcomes count as not covered.
        rows, chance = rows[chance > 1e-7], chance[chance > 1e-7]
    else:
        drawn = np.sort(np.random.default_rng(0).binomial(episodes, truths, size=(4000, len(truths))), axis=1)
        rows, counts = np.unique(drawn, axis=0, return_counts=True)
        chance = counts / counts.sum()
    low, high = of_shares(rows, np.array(episodes), np.full(len(truths), 1 / len(truths)))
    return float(chance[(low <= np.mean(truths)) & (np.mean(truths) <= high)].sum())


def test_a_task_has_the_interval_of_clopper_and_pearson() -> None:
    for episodes in (2, 10, 100, 600):
        low, high = task_limits(episodes, EXACT)
        for count in {0, 1, episodes // 2, episodes - 1, episodes}:
            expected = binomtest(count, episodes).proportion_ci(0.95, "exact")
            assert (low[count], high[count]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_interval_of_a_task_covers_every_success_rate() -> None:
    truths = np.concatenate([np.linspace(0.5, 0.999, 200), TRUTHS])
    assert min(task_coverage(episodes, EXACT, truths).min() for episodes in range(10, 201, 5)) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 3, 10])
def test_the_interval_of_equal_tasks_covers_the_mean_and_is_not_far_too_wide(tasks: int) -> None:
    for episodes in EPISODES:
        if tasks == 1:
            found = task_coverage(episodes, WEIGHT, TRUTHS)
        elif tasks * episodes <= 100:
            found = np.array([mean_coverage([truth] * tasks, [episodes] * tasks) for truth in TRUTHS])
        else:
            # Nearly one task with all episodes; the test below has some cases of this size.
            found = task_coverage(tasks * episodes, WEIGHT, TRUTHS)
        often = tasks * episodes * (1 - TRUTHS) >= 5 - 1e-9
        if (tasks, episodes) == (1, 10):
            # With 10 episodes at 0.5 every interval that treats success and failure alike covers in 89.1 or 97.9%.
            often &= TRUTHS > 0.5
        assert found.min() >= 0.93, (tasks, episodes)
        assert found[often].max(initial=0) <= 0.97, (tasks, episodes)


@pytest.mark.parametrize(
    ("truths", "episodes"),
    [
        ((0.5, 0.9, 0.99), (10, 10, 10)),
        ((0.5, 0.9, 0.99), (30, 30, 30)),
        ((0.999, 0.999, 0.5), (20, 20, 20)),
        ((0.95, 0.95, 0.95), (30, 20, 5)),
        ((0.5, 0.9, 0.99), (30, 20, 5)),
        ((0.99, 0.9, 0.5), (30, 20, 5)),
        ((0.9, 0.9), (100, 3)),
        ((0.95,) * 10, (20,) * 10),
        ((0.99,) * 10, (50,) * 10),
        ((0.5, 0.9, 0.99, 0.999, 0.8, 0.7, 0.95, 0.98, 0.6, 0.999), (50,) * 10),
    ],
)
def test_the_mean_of_tasks_that_differ_is_covered(truths: Sequence[float], episodes: Sequence[int]) -> None:
    assert 0.93 <= mean_coverage(truths, episodes) <= (0.98 if len(set(episodes)) == 1 else 1)


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.99, 0.9), (0.99, 0.99), (0.98, 0.02), (1, 1), (1, 0.5)])
def test_the_difference_of_two_tasks_is_covered(rates: tuple[float, float]) -> None:
    """Also near a drop of 0, which is the mean of the successes of one and the failures of the other."""
    first, second = rates
    for episodes in (10, 50):
        assert mean_coverage([first, 1 - second], [episodes, episodes]) >= 0.93


def episodes_of(returns: Sequence[float], successes: Sequence[float] | None = None) -> list[Episode]:
    successes = successes if successes is not None else [float("nan")] * len(returns)
    return [Episode(0, float(value), 3, success) for value, success in zip(returns, successes, strict=True)]


def test_two_valued_returns_are_treated_like_success() -> None:
    successes = [1.0] * 97 + [0.0] * 3
    row = summary({"a": episodes_of([7 * success - 2 for success in successes], successes)}, {}, EXACT)
    assert row["interval"] == pytest.approx([7 * end - 2 for end in row["success_interval"]])
    # A mean over tasks with different scales: returns are not rescaled.
    low, high = interval([7 * np.array(successes), np.array(successes)]) or (np.nan, np.nan)
    assert low < 4 * 0.97 < high


def test_episodes_that_are_all_alike_are_not_certain() -> None:
    row = summary({"a": episodes_of([5] * 10)}, {}, EXACT)
    assert (row["mean"], row["interval"]) == (5, None)
    assert "All episodes of a have the same return" in unknown_intervals({"tasks": {"a": row | {"episodes": 10}}})[0]
    # Knowledge of the range is used: the success itself, another outcome, the suite's reference scores.
    all_but_none = 0.025**0.1
    for returns, successes, scores, low in (
        ([1] * 10, [1.0] * 10, {}, all_but_none),
        ([5] * 10, [1.0] * 10, {}, 5 * all_but_none),
        ([5] * 10, None, {"a": Score(random=-5, human=3)}, 10 * all_but_none - 5),
    ):
        row = summary({"a": episodes_of(returns, successes)}, scores, EXACT)
        assert row["interval"] == (pytest.approx(low), returns[0])
        assert not unknown_intervals({"tasks": {"a": row | {"episodes": 10}}})
    assert return_range(np.zeros(4), np.zeros(4)) == (0, 1)
    # A probe's drop: the other evaluation extends the known range.
    ones, others = {"a": episodes_of([5] * 50)}, {"a": episodes_of([5] * 49 + [0])}
    assert drop(ones, ones, {})["return_drop_interval"] is None
    low, high = drop(ones, others, {})["return_drop_interval"]
    assert low < 0.1 < high < 0.6


def covered(draw: object, truth: float, simulations: int = 300) -> float:
    """Share of evaluations of 100 episodes whose interval covers the truth, or that have no interval."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(simulations):
        returns, successes = draw(rng)  # type: ignore[operator]
        limits = interval([returns], ranges=[return_range(returns, successes)], weight=EXACT)
        found.append(limits is None or limits[0] <= truth <= limits[1])
    return float(np.mean(found))


@pytest.mark.parametrize("rate", [0.98, 0.99, 0.995])
def test_returns_that_hardly_differ_are_covered(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 999)

    def rare(rng: np.random.Generator) -> tuple[Array, Array]:
        """Equal except for a few other values."""
        usual = rng.random(100) < rate
        return np.where(usual, 5.0, rng.uniform(0, 4, 100)), np.full(100, np.nan)

    def fast(rng: np.random.Generator) -> tuple[Array, Array]:
        """Near 1 with success, depending on its duration, and 0 without."""
        successes = (rng.random(100) < rate).astype(float)
        return successes * rng.uniform(0.85, 0.98, 100), successes

    assert covered(rare, 5 * rate + 2 * (1 - rate)) >= 0.93
    assert covered(fast, 0.915 * rate) >= 0.93


def test_the_interval_of_varied_returns_has_the_nominal_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    assert 0.93 <= covered(lambda rng: (rng.normal(10, 3, 100), np.full(100, np.nan)), 10) <= 0.98
