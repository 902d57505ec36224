"""95% intervals for the value of a statistic over all seeds, from a few runs.

**The unit is the run.** One agent plays all tasks of a run, so its scores on different tasks are dependent, and only whole runs are drawn
or left out. The stratified bootstrap of Agarwal et al. (2021, "Deep RL at the Edge of the Statistical Precipice", section 4.1) draws runs
for each task separately. Its intervals are too narrow for correlated tasks.

**Few runs.** The percentile bootstrap of n runs is too narrow by sqrt((n-1)/n), and by its normal instead of Student's quantiles
(Hesterberg 2015, "What Teachers Should Know About the Bootstrap"). For 5 runs, nominal 95% cover about 84%. So the interval here is the
statistic +/- t times its standard error, with n-1 degrees of freedom. The error is the jackknife's (Efron & Stein 1981), which is s/sqrt(n)
for a mean. A statistic with jumps takes the bootstrap's error times sqrt(n/(n-1)), because the jackknife misses the jumps.

**Bounded statistics**, such as a share, are skewed near their bounds. Their intervals are made on the logit scale, by the delta method.
They are longer towards the middle and stay in the range.

`python -m benchmarks.coverage` measures how often the intervals cover the truth.
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
"""Draws of the bootstrap, for a standard error within 2%."""
ROUNDING = 1e-12
"""A relative error below this is rounding, not spread."""

Statistic: TypeAlias = Callable[[Array], Array]
"""[..., runs, tasks] -> [...]."""
StandardError: TypeAlias = Callable[[Statistic, Array], Array]


class Range(NamedTuple):
    """Possible values."""

    low: float
    high: float


ANY = Range(-np.inf, np.inf)


def limits(value: Array, error: Array, freedom: Array | float, within: Range, quantile: float | None = None) -> Band:
    """Student's interval around values, inside their range; all arrays [...].

    The bounds low and high are NaN if the error is not finite or there is no spread. Equal runs do not show that others would be equal.

    Args:
        error: Standard errors.
        freedom: Degrees of freedom.
        within: A range with two finite ends uses the logit scale; at a single finite end the interval is cut off.
        quantile: Of Student's distribution; None: the one of a two-sided interval at CONFIDENCE.
    """
    value, error, freedom = np.broadcast_arrays(value, error, freedom)
    known = np.isfinite(error) & (error > ROUNDING * np.abs(value)) & (freedom > 0)
    reach = np.full(value.shape, np.nan)
    reach[known] = student.ppf(quantile or (1 + CONFIDENCE) / 2, freedom[known]) * error[known]
    low, high = np.array(value - reach), np.array(value + reach)
    if np.isfinite(within.high - within.low):
        # The logit of a bound is infinite. A smooth statistic is inside the bounds as long as runs differ.
        width = within.high - within.low
        share = (value - within.low) / width
        inside = known & (share > 0) & (share < 1)
        slope = reach[inside] / width / (share[inside] * (1 - share[inside]))
        low[inside] = within.low + width * expit(logit(share[inside]) - slope)
        high[inside] = within.low + width * expit(logit(share[inside]) + slope)
    return Band(np.array(value), np.clip(low, *within), np.clip(high, *within))


def jackknife(statistic: Statistic, values: Array) -> Array:
    """Standard error of a smooth statistic of runs, from leaving out one run at a time: [..., runs, tasks] -> [...].

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

    The draws depend only on the number of runs.
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
    """The estimate of a band with a single value."""
    value, low, high = (float(array) for array in band)
    return Estimate(value, None, None) if np.isnan(low) else Estimate(value, low, high)
