"""Statistics of fabricated runs, against rliable, SciPy and plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import fabricated
import numpy as np
import pytest
from scipy import stats

from ablation.analysis.results import Array, Estimate, Measure, Results
from ablation.analysis.statistics import (
    aggregate,
    aggregates,
    improvement,
    improvements,
    interquartile_mean,
    median,
    optimality_gap,
    probes,
    profile,
    profile_values,
    tasks,
)

A = ((0.10, 0.55, 0.92), (0.25, 0.40, 0.97), (0.05, 0.60, 1.10), (0.30, 0.35, 0.85), (0.15, 0.50, 1.02))
B = ((0.20, 0.45, 0.80), (0.25, 0.30, 0.97), (0.00, 0.65, 0.75), (0.12, 0.35, 0.90))
SCORE = Measure(name="score", label="score", best=1.0, floor=0.0)
RETURN = Measure(name="return", label="return", best=None)

RLIABLE = {
    "a": {"iqm": 0.5244444444444444, "median": 0.48, "mean": 0.5406666666666666, "optimality_gap": 0.4673333333333334},
    "b": {
        "iqm": 0.4583333333333333,
        "median": 0.4375,
        "mean": 0.47833333333333333,
        "optimality_gap": 0.5216666666666667,
    },
}
"""Results of rliable 1.2.0 for A and B, runs x tasks. It cannot be imported with pandas 3, so the tests do not depend on it."""


def results(measure: Measure = SCORE) -> Results:
    return fabricated.results({"a": A, "b": B}, measure=measure)


def test_aggregates_equal_rliable() -> None:
    found = aggregates(results())
    assert {variant: list(each) for variant, each in found.items()} == {
        variant: list(each) for variant, each in RLIABLE.items()
    }
    for variant, name in product(RLIABLE, RLIABLE["a"]):
        assert found[variant][name].value == pytest.approx(RLIABLE[variant][name], abs=1e-9)


def test_improvement_equals_rliable() -> None:
    found = improvements(results())
    assert found.keys() == {"a", "b"} and found["a"].keys() == {"b"}
    assert found["a"]["b"].value == pytest.approx(0.6749999999999999, abs=1e-9)
    assert found["b"]["a"].value == pytest.approx(0.325, abs=1e-9)


def test_profiles_equal_rliable() -> None:
    found = profile(np.array(A), np.array([0.0, 0.25, 0.5, 0.9, 1.1]))
    assert found.value == pytest.approx(
        [1.0, 0.7333333333333333, 0.4666666666666667, 0.26666666666666666, 0.0], abs=1e-9
    )


def test_axes_of_the_matrix_are_runs_and_tasks() -> None:
    """Swapped axes would give other values."""
    right = aggregates(results())["a"]
    turned = {name: aggregate(name, np.array(A).T, SCORE) for name in right}
    assert turned["median"].value == pytest.approx(0.54)
    assert right["median"].value == pytest.approx(np.median([np.mean([run[task] for run in A]) for task in range(3)]))
    for name, band in turned.items():
        assert right[name].low is not None
        assert abs(right[name].low - band.low) > 0.1, name


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 1), (4, 3), (10, 7)])
def test_the_interquartile_mean_equals_scipy(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).standard_normal((2, *shape))
    expected = [stats.trim_mean(matrix, 0.25, axis=None) for matrix in values]
    assert interquartile_mean(values) == pytest.approx(expected)


def test_values_above_the_best_do_not_reduce_the_gap() -> None:
    assert optimality_gap(np.array([[0.5, 3.0]]), best=1.0) == 0.25
    assert optimality_gap(np.array([[2.0, 3.0]]), best=1.0) == 0


def test_no_gap_to_an_unknown_best() -> None:
    assert list(aggregates(results(RETURN))["a"]) == ["iqm", "median", "mean"]
    with pytest.raises(ValueError, match="unknown"):
        aggregate("optimality_gap", np.array(A), RETURN)


def test_tasks_by_name() -> None:
    found = tasks(fabricated.results({"a": A}, tasks=("x", "y", "z"), measure=SCORE))["a"]
    assert list(found) == ["x", "y", "z"]
    expected = stats.ttest_1samp([row[1] for row in A], 0).confidence_interval(0.95)
    assert found["y"] == pytest.approx((0.48, *expected))


def test_intervals_of_shares_stay_in_their_range() -> None:
    share = np.random.default_rng(0).beta(9, 0.5, (4, 5))
    found = fabricated.results({"a": share.tolist()})
    for each in (*aggregates(found)["a"].values(), *tasks(found)["a"].values()):
        assert each.low is not None and each.high is not None
        assert 0 <= each.low < each.value < each.high <= 1


def test_the_interquartile_mean_near_a_bound_has_a_narrow_interval() -> None:
    """On the logit scale its interval would be nearly all of 0 to 1."""
    share = np.ones((5, 8))
    share[0, :7] = 0.5
    share[1, :4] = 0.9
    found = aggregate("iqm", share, fabricated.SUCCESS)
    assert 0.99 < found.value < 1
    assert 0.7 < found.low < found.value
    assert found.high == 1


def test_profiles_count_runs_and_tasks_above() -> None:
    found, values = results(), profile_values(results())
    assert (values[0], values[-1]) == (0.0, 1.1)
    shares = profile(found.matrix("b"), values)
    for place in (0, 30, 80, 100):
        assert shares.value[place] == pytest.approx(np.mean([value > values[place] for row in B for value in row]))
    known = np.isfinite(shares.low)
    assert (shares.low[known] <= shares.value[known]).all() and (shares.value[known] <= shares.high[known]).all()
    assert shares.low[known].min() >= 0 and shares.high[known].max() <= 1
    assert np.isnan(shares.low[-1]) and shares.value[-1] == 0


def test_profiles_of_a_success_go_from_0_to_1() -> None:
    values = profile_values(fabricated.results({"a": [[0.4, 0.6]], "b": [[0.5, 0.5]]}))
    assert (values[0], values[-1], len(values)) == (0.0, 1.0, 101)


def test_profiles_of_equal_values_have_an_axis() -> None:
    assert np.ptp(profile_values(fabricated.results({"a": [[3.0, 3.0]]}, measure=RETURN))) > 0


def test_improvement_by_counting() -> None:
    ours, theirs = np.round(np.random.default_rng(0).random((2, 4, 3)), 1)
    wins = [float(x > y) + 0.5 * float(x == y) for task in range(3) for x in ours[:, task] for y in theirs[:, task]]
    assert 0.5 in wins
    found, back = improvement(ours, theirs), improvement(theirs, ours)
    assert found.value == pytest.approx(np.mean(wins))
    assert found.value + back.value == pytest.approx(1)
    assert found.low is not None and found.high is not None and back.low is not None
    assert 0 < found.low < found.value < found.high < 1
    assert found.high + back.low == pytest.approx(1)


def test_improvement_has_the_variance_of_delong() -> None:
    """The variance is a sum over runs of both sides, each with its share of wins."""
    ours, theirs = np.random.default_rng(1).random((2, 400, 1))
    theirs = 3 * theirs[:200] - 0.5
    found = improvement(ours, theirs)
    placed = [np.mean(x > theirs) for x in ours], [np.mean(ours > y) for y in theirs]
    error = np.sqrt(np.var(placed[0], ddof=1) / 400 + np.var(placed[1], ddof=1) / 200)
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.02)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1.0] * 5, [0.0] * 5, Estimate(1.0, 0.025**0.2, 1.0)),
        ([0.0] * 10, [1.0] * 5, Estimate(0.0, 0.0, 1 - 0.025**0.2)),
        ([1.0] * 5, [1.0] * 5, Estimate(0.5, None, None)),
        ([1.0], [0.0] * 5, Estimate(1.0, None, None)),
    ],
)
def test_improvement_without_spread(ours: Sequence[float], theirs: Sequence[float], expected: Estimate) -> None:
    found = improvement(np.array(ours)[:, None], np.array(theirs)[:, None])
    assert found == (
        pytest.approx(expected.value),
        *(side if side is None else pytest.approx(side) for side in expected[1:]),
    )


def probed(*losses: float | None) -> Results:
    """Runs of one variant on two tasks with these mean losses under `swap`; None: not probed."""
    runs = [
        fabricated.run(
            "a",
            seed,
            {"x": 0.9, "y": 0.7},
            probed={} if loss is None else {"swap": {"x": 0.9 - 2 * loss, "y": 0.7}},
        )
        for seed, loss in enumerate(losses)
    ]
    return Results(suite="s", measure=SCORE, tasks=("x", "y"), variants=("a",), runs=tuple(runs))


def test_probes_give_the_loss_of_the_mean_over_tasks() -> None:
    expected = stats.ttest_1samp([0.1, 0.2, 0.4], 0).confidence_interval(0.95)
    for found in (probed(0.1, 0.2, 0.4), probed(0.1, None, 0.2, 0.4)):
        assert probes(found)["a"]["swap"] == pytest.approx((0.7 / 3, *expected))


def test_no_probes() -> None:
    assert probes(probed(None, None)) == {"a": {}}


def test_median_is_over_tasks_of_the_mean_over_runs() -> None:
    values: Array = np.array([[0.0, 0.2, 1.0], [1.0, 0.4, 1.0]])
    assert median(values) == 0.5
