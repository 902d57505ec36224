"""What is said of a variant's matrix of runs x tasks: aggregates, tasks, performance profiles, improvement, probes (Agarwal et al. 2021).

Point estimates are those of the paper; intervals are those of ablation/analysis/intervals.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from ablation.analysis.intervals import (
    ANY,
    CONFIDENCE,
    Range,
    Statistic,
    bootstrap,
    estimate,
    jackknife,
    limits,
    of_mean,
    of_statistic,
)
from ablation.analysis.results import Array, Band, Estimate, Measure, Results

PROFILE_VALUES = 101


def interquartile_mean(values: Array) -> Array:
    """Mean of the middle half of all runs x tasks: [..., runs, tasks] -> [...].

    That is scipy.stats.trim_mean(values, 0.25, axis=None) of each matrix: of N values, int(N / 4) are cut off at either end.
    """
    ordered = np.sort(values.reshape(*values.shape[:-2], -1), axis=-1)
    number = ordered.shape[-1]
    cut = number // 4
    return np.asarray(ordered[..., cut : number - cut].mean(axis=-1))


def median(values: Array) -> Array:
    """Median over tasks of the mean over runs: [..., runs, tasks] -> [...]."""
    return np.asarray(np.median(values.mean(axis=-2), axis=-1))


def mean(values: Array) -> Array:
    """Mean over runs and tasks: [..., runs, tasks] -> [...]."""
    return np.asarray(values.mean(axis=(-2, -1)))


def optimality_gap(values: Array, best: float) -> Array:
    """Mean over runs and tasks of what is wanting to `best`; what is above it makes up for nothing: [..., runs, tasks] -> [...]."""
    return np.asarray(best - np.minimum(values, best).mean(axis=(-2, -1)))


AGGREGATES: dict[str, Callable[..., Array]] = {
    "iqm": interquartile_mean,
    "median": median,
    "mean": mean,
    "optimality_gap": optimality_gap,
}
"""Section 4.3 of the paper."""


def possible(measure: Measure) -> Range:
    """The values that a measure can have, as far as is known: a success is a share."""
    return Range(0.0, 1.0) if measure.name == "success" else ANY


def differences(measure: Measure) -> Range:
    """The same for what two values differ by."""
    low, high = possible(measure)
    return Range(low - high, high - low)


def aggregate(name: str, values: Array, measure: Measure) -> Band:
    """One of AGGREGATES of values [..., runs, tasks] with its interval; arrays [...].

    Raises:
        KeyError: there is no such aggregate.
        ValueError: `optimality_gap` of a measure whose best is unknown.
    """
    within = possible(measure)
    statistic: Statistic = AGGREGATES[name]
    if name == "optimality_gap":
        if measure.best is None:
            raise ValueError(f"the best {measure.name} is unknown")
        statistic = partial(optimality_gap, best=measure.best)
        return of_statistic(statistic, values, Range(max(0.0, measure.best - within.high), measure.best - within.low))
    if name == "iqm" and values.shape[-2] * values.shape[-1] >= 4:
        # Of fewer it is the mean. Its trimming has jumps that the jackknife does not see; and it cuts off the very skew that the logit
        # scale is for: near a bound its error can be large beside the distance to the bound, and an interval on the logit scale would
        # be all that is possible.
        free = of_statistic(statistic, values, ANY, bootstrap)
        return Band(free.value, np.clip(free.low, *within), np.clip(free.high, *within))
    return of_statistic(statistic, values, within, jackknife)


def aggregates(results: Results) -> dict[str, dict[str, Estimate]]:
    """By variant and name of AGGREGATES."""
    measure = results.measure
    names = [name for name in AGGREGATES if name != "optimality_gap" or measure.best is not None]
    return {
        variant: {name: estimate(aggregate(name, results.matrix(variant), measure)) for name in names}
        for variant in results.variants
    }


def tasks(results: Results) -> dict[str, dict[str, Estimate]]:
    """By variant and task, the mean over runs."""
    found = {}
    for variant in results.variants:
        bands = zip(*of_mean(results.matrix(variant), possible(results.measure)), strict=True)
        found[variant] = {task: estimate(Band(*band)) for task, band in zip(results.tasks, bands, strict=True)}
    return found


def profile_values(results: Results) -> Array:
    """PROFILE_VALUES values [N] from the lowest to the highest of all runs x tasks; for a success, from 0 to 1."""
    within = possible(results.measure)
    values = np.concatenate([results.matrix(variant).ravel() for variant in results.variants])
    low, high = within if np.isfinite(within).all() else (values.min(), values.max())
    return np.linspace(low, high if high > low else low + 1, PROFILE_VALUES)


def profile(values: Array, at: Array) -> Band:
    """Performance profile of values [runs, tasks]: the share of runs x tasks above each of `at` [N] (the paper, section 4.2)."""
    return of_mean((values[:, :, None] > at).mean(axis=1), Range(0.0, 1.0))


def improvement(values: Array, others: Array) -> Estimate:
    """The probability that a run of `values` [runs, tasks] beats one of `others` [runs, tasks] on a task drawn at random.

    The mean over tasks of Mann & Whitney's U / (runs x runs), ties counted half (the paper, section 4.3), with the variance of DeLong et
    al. (1988): that of each run's share of wins, on either side. Where every run of one variant beats every one of the other on every
    task there is no variance; but if the probability were p, that would happen to n disjoint pairs of runs with at most p^n, so p is
    at least the n-th root of 2.5%.
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
    """Degrees of freedom of a sum of variances of means, [2, ...] of so many runs each [2, ...]; NaN where both are zero (Welch 1947)."""
    weights = parts / np.where(parts.sum(axis=0) > 0, parts.sum(axis=0), np.nan)
    return np.asarray(1 / (weights**2 / (runs - 1)).sum(axis=0))


def improvements(results: Results) -> dict[str, dict[str, Estimate]]:
    """By variant and each other variant."""
    matrices = {variant: results.matrix(variant) for variant in results.variants}
    return {
        variant: {other: improvement(matrix, others) for other, others in matrices.items() if other != variant}
        for variant, matrix in matrices.items()
    }


def probes(results: Results) -> dict[str, dict[str, Estimate]]:
    """By variant and probe, what the mean over tasks loses under it, over those runs that were probed on every task."""
    names = list(dict.fromkeys(probe for run in results.runs for probe in run.probed))
    found: dict[str, dict[str, Estimate]] = {variant: {} for variant in results.variants}
    for variant in results.variants:
        for probe in names:
            losses = [
                np.mean([run.values[task] - run.probed[probe][task] for task in results.tasks])
                for run in results.of(variant)
                if probe in run.probed and _covers(run.probed[probe], results.tasks)
            ]
            if losses:
                found[variant][probe] = estimate(of_mean(np.array(losses), differences(results.measure)))
    return found


def _covers(values: Mapping[str, float], tasks: tuple[str, ...]) -> bool:
    return all(task in values for task in tasks)
