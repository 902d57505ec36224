"""95% intervals for what a statistic of a few runs would be over all seeds there are.

**The unit is the run.** One run is one agent that plays all tasks, so its scores on several tasks depend on one another, and only whole
runs are drawn or left out. The stratified bootstrap of Agarwal et al. (2021, "Deep RL at the Edge of the Statistical Precipice",
section 4.1) draws the runs of each task by themselves, as if another agent had played each: its intervals are too narrow over correlated
tasks.

**Few runs.** The percentile bootstrap of n runs is too narrow by sqrt((n-1)/n), and by normal where it should have Student's quantiles
(Hesterberg 2015, "What Teachers Should Know About the Bootstrap"): of 5 runs, 95% are about 84%. Hence here: statistic +/- t
times standard error, with n-1 degrees of freedom. The error is the jackknife's (Efron & Stein 1981), which is s/sqrt(n) for a mean;
or the bootstrap's times sqrt(n/(n-1)) for a statistic with jumps, which leaving out one run at a time does not see.

**Bounded statistics**, such as a share, are skewed near their bounds. There t counts on the logit scale, by the delta method, so an
interval is longer towards the middle and never leaves the range.

`python -m benchmarks.coverage` measures how often all this covers the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.special import expit, logit  # type: ignore[import-untyped]
from scipy.stats import t as student  # type: ignore[import-untyped]

from ablation.analysis.results import Array, Band, Estimate

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Of the bootstrap; the standard error from so many is exact to 2%."""
ROUNDING = 1e-12
"""An error below this part of the value is no spread: sums of the same numbers differ by as much."""

Statistic: TypeAlias = Callable[[Array], Array]
"""[..., runs, tasks] -> [...]."""
StandardError: TypeAlias = Callable[[Statistic, Array], Array]


class Range(NamedTuple):
    """What a value can be."""

    low: float
    high: float


ANY = Range(-np.inf, np.inf)


def limits(value: Array, error: Array, freedom: Array | float, within: Range, quantile: float | None = None) -> Band:
    """Student's interval around values, inside their range; all arrays [...].

    low and high are NaN where it cannot be made: the error is not finite, or there is no spread at all, which says that the runs were
    alike, not that others would be.

    Args:
        error: standard errors.
        freedom: degrees of freedom.
        within: on a range with two ends the interval is made on the logit scale; at a single end it is cut off.
        quantile: of Student's distribution, to have another one than CONFIDENCE asks for on both sides.
    """
    value, error, freedom = np.broadcast_arrays(value, error, freedom)
    known = np.isfinite(error) & (error > ROUNDING * np.abs(value)) & (freedom > 0)
    reach = np.full(value.shape, np.nan)
    reach[known] = student.ppf(quantile or (1 + CONFIDENCE) / 2, freedom[known]) * error[known]
    low, high = np.array(value - reach), np.array(value + reach)
    if np.isfinite(within.high - within.low):
        # The scale has no ends; a smooth statistic is never at one while runs differ.
        width = within.high - within.low
        share = (value - within.low) / width
        inside = known & (share > 0) & (share < 1)
        slope = reach[inside] / width / (share[inside] * (1 - share[inside]))
        low[inside] = within.low + width * expit(logit(share[inside]) - slope)
        high[inside] = within.low + width * expit(logit(share[inside]) + slope)
    return Band(np.array(value), np.clip(low, *within), np.clip(high, *within))


def jackknife(statistic: Statistic, values: Array) -> Array:
    """Standard error of a smooth statistic of runs, from leaving out one after the other: [..., runs, tasks] -> [...].

    NaN for a single run.
    """
    runs = values.shape[-2]
    if runs < 2:
        return np.full(values.shape[:-2], np.nan)
    others = np.array([[other for other in range(runs) if other != run] for run in range(runs)])
    left = statistic(values[..., others, :])
    return np.asarray(np.sqrt((runs - 1) * left.var(axis=-1)))


def bootstrap(statistic: Statistic, values: Array) -> Array:
    """Standard error of any statistic of runs, from RESAMPLES draws of whole runs: [..., runs, tasks] -> [...]; NaN for a single run.

    The draws are the same for equal numbers of runs, at every call.
    """
    runs = values.shape[-2]
    if runs < 2:
        return np.full(values.shape[:-2], np.nan)
    drawn = np.random.default_rng(0).integers(runs, size=(RESAMPLES, runs))
    resampled = statistic(values[..., drawn, :])
    return np.asarray(resampled.std(axis=-1) * np.sqrt(runs / (runs - 1)))


def of_statistic(statistic: Statistic, values: Array, within: Range = ANY, error: StandardError = jackknife) -> Band:
    """A statistic of values [..., runs, tasks] with its interval; arrays [...]."""
    return limits(statistic(values), error(statistic, values), values.shape[-2] - 1, within)


def of_mean(values: Array, within: Range = ANY) -> Band:
    """The mean of values [runs, ...] over runs with its interval; arrays [...]."""
    runs = len(values)
    error = values.std(axis=0, ddof=1) / np.sqrt(runs) if runs > 1 else np.full(values.shape[1:], np.nan)
    return limits(values.mean(axis=0), error, runs - 1, within)


def estimate(band: Band) -> Estimate:
    """A band of a single value."""
    value, low, high = (float(array) for array in band)
    return Estimate(value, None, None) if np.isnan(low) else Estimate(value, low, high)
