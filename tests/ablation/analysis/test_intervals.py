"""Intervals against SciPy's exact ones, and against the truth of simulated ablations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ablation.analysis.intervals import (
    ANY,
    Range,
    StandardError,
    bootstrap,
    estimate,
    jackknife,
    limits,
    of_mean,
    of_statistic,
)
from ablation.analysis.results import Array
from ablation.analysis.statistics import interquartile_mean, mean, median
from benchmarks.coverage import CORRELATION, improvement_row, interval_rows


def matrix(runs: int = 6, tasks: int = 4, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0.5, 0.1, (runs, tasks))


def test_the_interval_of_a_mean_equals_students() -> None:
    values = matrix()
    band = of_mean(values)
    for task, column in enumerate(values.T):
        expected = stats.ttest_1samp(column, 0).confidence_interval(0.95)
        assert (band.low[task], band.high[task]) == pytest.approx(tuple(expected))


def test_the_jackknife_of_a_mean_equals_the_formula() -> None:
    values = matrix()
    assert jackknife(mean, values) == pytest.approx(stats.sem(values.mean(axis=1)))


def test_the_jackknife_leaves_out_whole_runs() -> None:
    values = matrix()
    left = [np.median(np.delete(values, run, axis=0).mean(axis=0)) for run in range(len(values))]
    assert jackknife(median, values) == pytest.approx(np.sqrt((len(values) - 1) * np.var(left)))


@pytest.mark.parametrize("error", [jackknife, bootstrap])
def test_many_matrices_at_once(error: StandardError) -> None:
    many = np.array([matrix(seed=seed) for seed in range(3)])
    assert error(median, many) == pytest.approx(np.array([error(median, one) for one in many]))


def test_the_bootstrap_agrees_with_scipy() -> None:
    """SciPy resamples row indices here."""
    values = matrix(runs=5)

    def of_rows(rows: Array) -> float:
        return float(interquartile_mean(values[rows.astype(int)]))

    rng = np.random.default_rng(1)
    found = stats.bootstrap((np.arange(5.0),), of_rows, n_resamples=4000, vectorized=False, method="basic", rng=rng)
    assert bootstrap(interquartile_mean, values) == pytest.approx(found.standard_error * np.sqrt(5 / 4), rel=0.06)


def test_a_copied_task_does_not_narrow_the_interval() -> None:
    """Drawing runs for each task separately would narrow the interval by more than a quarter."""
    once = matrix(tasks=1)
    twice = np.repeat(once, 8, axis=1)
    for statistic in (mean, median):
        assert np.array(of_statistic(statistic, twice)) == pytest.approx(np.array(of_statistic(statistic, once)))


def test_a_share_stays_within_its_range_and_reaches_further_inwards() -> None:
    values = np.array([[0.99], [0.95], [1.0], [0.97], [0.9]])
    value, low, high = of_statistic(mean, values, Range(0.0, 1.0))
    assert 0 < low < value < high < 1
    assert value - low > high - value
    free = of_statistic(mean, values, ANY)
    assert free.high > 1
    assert free.high - free.value == pytest.approx(free.value - free.low)


def test_a_range_with_one_end_cuts_off() -> None:
    band = limits(np.array(1.0), np.array(1.0), 4, Range(0.0, np.inf))
    assert band.low == 0
    assert band.high == pytest.approx(1 + stats.t.ppf(0.975, 4))


@pytest.mark.parametrize("values", [np.array([[0.3, 0.7]]), np.full((5, 3), 0.1), np.array([[0.1, 0.2], [0.2, 0.1]])])
def test_no_interval_without_spread(values: Array) -> None:
    found = estimate(of_statistic(mean, values, Range(0.0, 1.0)))
    assert found == (pytest.approx(values.mean()), None, None)


@pytest.mark.parametrize(
    ("scores", "means", "correlation", "runs", "tasks"),
    [
        # A selection of settings; benchmarks/coverage.py has every combination.
        ("normal", "same", 0.0, 3, 10),
        ("normal", "same", CORRELATION, 5, 3),
        ("normal", "spread", 0.0, 5, 3),
        ("normal", "spread", CORRELATION, 3, 10),
        ("share", "same", 0.0, 5, 3),
        ("share", "same", CORRELATION, 3, 10),
        ("share", "spread", 0.0, 3, 10),
        ("share", "spread", CORRELATION, 5, 3),
    ],
)
def test_intervals_cover_the_truth(scores: str, means: str, correlation: float, runs: int, tasks: int) -> None:
    """Up to the error of 400 simulations. Normal quantiles, or n for n - 1, would cover it in less than 90%."""
    for row in interval_rows(scores, means, correlation, runs, tasks, simulations=400):
        assert 0.92 <= row["coverage"] <= 0.985, row


def test_intervals_of_the_probability_of_improvement_cover_the_truth() -> None:
    assert 0.92 <= improvement_row(1.0, CORRELATION, runs=10, tasks=3, simulations=400)["coverage"] <= 0.985
