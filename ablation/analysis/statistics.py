"""Statistics of the matrices of runs x tasks: aggregates, tasks, performance profiles, improvement, probes (Agarwal et al. 2021), and
comparisons of every pair of variants.

Point estimates follow the paper; intervals come from ablation/analysis/intervals.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
from scipy.stats import t as student  # type: ignore[import-untyped]

from ablation.analysis.intervals import (
    ANY,
    CONFIDENCE,
    ROUNDING,
    Range,
    Statistic,
    bootstrap,
    estimate,
    jackknife,
    limits,
    of_mean,
    of_statistic,
)
from ablation.analysis.results import Array, Band, Comparison, Estimate, Measure, Results

PROFILE_POINTS = 101


def interquartile_mean(values: Array) -> Array:
    """Mean of the middle half of all runs x tasks, as scipy.stats.trim_mean(values, 0.25): [..., runs, tasks] -> [...].

    Sorted values are summed, so that the order of runs does not change the last bit, as it would with SciPy's partition.
    """
    ordered = np.sort(values.reshape(*values.shape[:-2], -1), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def median(values: Array) -> Array:
    """Median over tasks of the mean over runs: [..., runs, tasks] -> [...]."""
    return np.asarray(np.median(values.mean(axis=-2), axis=-1))


def mean(values: Array) -> Array:
    """Mean over runs and tasks: [..., runs, tasks] -> [...]."""
    return np.asarray(values.mean(axis=(-2, -1)))


def optimality_gap(values: Array, best: float) -> Array:
    """Mean over runs and tasks of the distance to `best`, 0 for values above it: [..., runs, tasks] -> [...]."""
    return np.asarray(best - np.minimum(values, best).mean(axis=(-2, -1)))


AGGREGATES: dict[str, Callable[..., Array]] = {
    "iqm": interquartile_mean,
    "median": median,
    "mean": mean,
    "optimality_gap": optimality_gap,
}
"""Section 4.3 of the paper."""


def value_range(measure: Measure) -> Range:
    """Possible values of a measure: 0 to 1 for a success, else unbounded."""
    return Range(0.0, 1.0) if measure.name == "success" else ANY


def difference_range(measure: Measure) -> Range:
    """Possible differences of two values."""
    low, high = value_range(measure)
    return Range(low - high, high - low)


def aggregate(name: str, values: Array, measure: Measure) -> Band:
    """One of AGGREGATES of values [..., runs, tasks] with its interval; arrays [...]."""
    within = value_range(measure)
    statistic: Statistic = AGGREGATES[name]
    if name == "optimality_gap":
        if measure.best is None:
            raise ValueError(f"the best {measure.name} is unknown")
        statistic = partial(optimality_gap, best=measure.best)
        return of_statistic(statistic, values, Range(max(0.0, measure.best - within.high), measure.best - within.low))
    if name == "iqm" and values.shape[-2] * values.shape[-1] >= 4:
        # Of fewer values it is the mean. The jackknife misses the jumps of its trimming. The logit scale does not fit either: trimming
        # removes the skew, and near a bound the error can be large relative to the distance, which would give the whole range.
        free = of_statistic(statistic, values, ANY, bootstrap)
        return Band(free.value, np.clip(free.low, *within), np.clip(free.high, *within))
    return of_statistic(statistic, values, within, jackknife)


def aggregates(results: Results) -> dict[str, dict[str, Estimate]]:
    """Estimates by variant and name of AGGREGATES."""
    measure = results.measure
    names = [name for name in AGGREGATES if name != "optimality_gap" or measure.best is not None]
    return {
        variant: {name: estimate(aggregate(name, results.matrix(variant), measure)) for name in names}
        for variant in results.variants
    }


def tasks(results: Results) -> dict[str, dict[str, Estimate]]:
    """Mean over runs, by variant and task."""
    found = {}
    for variant in results.variants:
        bands = zip(*of_mean(results.matrix(variant), value_range(results.measure)), strict=True)
        found[variant] = {task: estimate(Band(*band)) for task, band in zip(results.tasks, bands, strict=True)}
    return found


def profile_values(results: Results) -> Array:
    """PROFILE_POINTS values [N] from the lowest to the highest of all runs x tasks; for a success, from 0 to 1."""
    within = value_range(results.measure)
    values = np.concatenate([results.matrix(variant).ravel() for variant in results.variants])
    low, high = within if np.isfinite(within).all() else (values.min(), values.max())
    return np.linspace(low, high if high > low else low + 1, PROFILE_POINTS)


def profile(values: Array, at: Array) -> Band:
    """Performance profile of values [runs, tasks]: the share of runs x tasks above each of `at` [N] (the paper, section 4.2)."""
    return of_mean((values[:, :, None] > at).mean(axis=1), Range(0.0, 1.0))


def improvement(values: Array, others: Array) -> Estimate:
    """The probability that a run of `values` [runs, tasks] beats one of `others` [runs, tasks] on a task drawn at random.

    The mean over tasks of Mann & Whitney's U / (runs x runs), ties counted half (the paper, section 4.3), with the variance of DeLong et
    al. (1988): that of each run's share of wins, on both sides. If every run of one variant beats every run of the other on every task,
    there is no variance. With probability p, n disjoint pairs of runs show that with probability at most p^n, so p is at least the n-th
    root of 2.5%.
    """
    wins = (values[:, None] > others).astype(np.float64) + 0.5 * (values[:, None] == others)
    shares = wins.mean(axis=-1)
    value, runs = float(shares.mean()), shares.shape
    if min(runs) < 2:
        return Estimate(value, None, None)
    if value in (0.0, 1.0):
        edge = ((1 - CONFIDENCE) / 2) ** (1 / min(runs))
        return Estimate(value, edge, 1.0) if value else Estimate(value, 0.0, 1 - edge)
    parts = np.array([shares.mean(axis=1 - side).var(ddof=1) / runs[side] for side in (0, 1)])
    return estimate(
        limits(np.array(value), np.sqrt(parts.sum()), satterthwaite(parts, np.array(runs)), Range(0.0, 1.0))
    )


def satterthwaite(parts: Array, runs: Array) -> Array:
    """Degrees of freedom of a sum of two variances of means [2, ...] of `runs` [2, ...]; NaN if both are zero (Welch 1947)."""
    weights = parts / np.where(parts.sum(axis=0) > 0, parts.sum(axis=0), np.nan)
    return np.asarray(1 / (weights**2 / (runs - 1)).sum(axis=0))


def improvements(results: Results) -> dict[str, dict[str, Estimate]]:
    """Estimates by variant and each other variant."""
    matrices = {variant: results.matrix(variant) for variant in results.variants}
    return {
        variant: {other: improvement(matrix, others) for other, others in matrices.items() if other != variant}
        for variant, matrix in matrices.items()
    }


def probes(results: Results) -> dict[str, dict[str, Estimate]]:
    """Loss of the mean over tasks by variant and probe, over the runs that were probed on every task."""
    names = list(dict.fromkeys(probe for run in results.runs for probe in run.probed))
    found: dict[str, dict[str, Estimate]] = {variant: {} for variant in results.variants}
    for variant in results.variants:
        for probe in names:
            losses = [
                np.mean([run.values[task] - run.probed[probe][task] for task in results.tasks])
                for run in results.of(variant)
                if run.probed.get(probe, {}).keys() >= set(results.tasks)
            ]
            if losses:
                found[variant][probe] = estimate(of_mean(np.array(losses), difference_range(results.measure)))
    return found


def unseen(results: Results) -> dict[str, dict[str, Estimate]]:
    """By variant the mean over the tasks with unseen contexts on `seen` and on `unseen` ones, and the `drop`; empty without such tasks."""
    columns = [results.tasks.index(task) for task in results.unseen_tasks]
    within, found = value_range(results.measure), {}
    for variant in results.variants if columns else ():
        means = [
            values.mean(axis=1) for values in (results.matrix(variant)[:, columns], results.unseen_matrix(variant))
        ]
        seen, other = (estimate(of_mean(mean, within)) for mean in means)
        drop = estimate(of_mean(means[0] - means[1], difference_range(results.measure)))
        found[variant] = {"seen": seen, "unseen": other, "drop": drop}
    return found


def compare(
    means: Mapping[str, Array], within: Range = ANY, groups: Sequence[Sequence[str]] = (), families: int = 1
) -> tuple[Comparison, ...]:
    """Comparisons of every pair of variants, in the order of `means`: by variant, one value for each run, such as its mean over tasks.

    With `groups` of variants, only the pairs within a group are compared. The correction covers those of all groups together, and of all
    `families` of such comparisons, as those on seen and on unseen contexts, of which this is one.

    Tamhane's T2 (1979, "A Comparison of Procedures for Multiple Comparisons of Means with Unequal Variances"): Welch's t on the runs' means
    over tasks, with Sidak's correction for the number of pairs. It does not assume equal variances, and its tests and intervals agree. The
    procedure of Games & Howell (1976), scipy.stats.tukey_hsd(equal_var=False), has more power, but claims a difference in 8 of 100
    ablations of 12 equal variants with 5 runs each. `python -m benchmarks.coverage` has the figures. It also shows where this procedure
    fails: runs that are both strongly skewed and of unequal spread.
    """
    pairs = [pair for group in groups or [tuple(means)] for pair in combinations(group, 2)]
    if not pairs:
        return ()
    value, error, freedom = welch(
        np.array(
            [[[means[name].mean(), _variance(means[name]), means[name].size] for name in pair] for pair in pairs]
        ).T
    )
    band, p = simultaneous(value, error, freedom, within, families)
    return tuple(
        Comparison(
            first=first,
            second=second,
            difference=estimate(Band(*(array[number] for array in band))),
            p=float(p[number]),
            claimed=bool(p[number] < 1 - CONFIDENCE),
        )
        for number, (first, second) in enumerate(pairs)
    )


def welch(samples: Array) -> tuple[Array, Array, Array]:
    """Differences of means, their standard errors and degrees of freedom (Welch 1947), each [...].

    Args:
        samples: [3, 2, ...]: mean, variance and number of runs of both sides. The variance of a single run is NaN.
    """
    mean, variance, runs = samples
    # Relative to the means: their difference may be a rounding error itself.
    parts = np.where(np.sqrt(variance) <= ROUNDING * np.abs(mean), 0.0, variance) / runs
    return mean[0] - mean[1], np.sqrt(parts.sum(axis=0)), satterthwaite(parts, runs)


def simultaneous(value: Array, error: Array, freedom: Array, within: Range, families: int = 1) -> tuple[Band, Array]:
    """Intervals that hold for all pairs together, and p corrected for the number of pairs, both of all `families` of as many pairs.

    Args:
        value, error, freedom: [pairs, ...], differences, standard errors and degrees of freedom.

    Returns:
        The band and p [pairs, ...]. Without spread, low and high are NaN and p is 1.
    """
    pairs = families * len(value)
    each = -np.expm1(np.log(CONFIDENCE) / pairs)
    wide = limits(value, error, freedom, ANY, quantile=1 - each / 2)
    p = np.ones(value.shape)
    known = np.isfinite(wide.low)
    alone = 2 * student.sf(np.abs(value[known]) / error[known], freedom[known])
    p[known] = -np.expm1(pairs * np.log1p(-np.minimum(alone, 1 - 1e-16)))
    return Band(wide.value, np.clip(wide.low, *within), np.clip(wide.high, *within)), p


def _variance(values: Array) -> float:
    return float(values.var(ddof=1)) if values.size > 1 else float("nan")
