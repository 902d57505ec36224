"""Which variants differ: every pair, tested with a correction that keeps false claims among equal variants rare.

Tamhane's T2 (1979, "A Comparison of Procedures for Multiple Comparisons of Means with Unequal Variances"): Welch's t on the runs' means
over tasks, with Sidak's correction for the number of pairs. It does not assume equal variances, and its tests and intervals agree. The
procedure of Games & Howell (1976), scipy.stats.tukey_hsd(equal_var=False), has more power, but claims a difference in 8 of 100 ablations of
12 equal variants with 5 runs each. `python -m benchmarks.coverage` has the figures. It also shows where this procedure fails: runs that
are both strongly skewed and of unequal spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy.stats import t as student  # type: ignore[import-untyped]

from ablation.analysis.intervals import ANY, CONFIDENCE, ROUNDING, Range, estimate, limits
from ablation.analysis.results import Array, Band, Comparison
from ablation.analysis.statistics import satterthwaite


def compare(means: Mapping[str, Array], within: Range = ANY) -> tuple[Comparison, ...]:
    """Comparisons of every pair of variants, in the order of `means`: by variant, one value for each run, such as its mean over tasks."""
    pairs = list(combinations(means, 2))
    if not pairs:
        return ()
    value, error, freedom = welch(
        np.array(
            [[[means[name].mean(), _variance(means[name]), means[name].size] for name in pair] for pair in pairs]
        ).T
    )
    band, p = simultaneous(value, error, freedom, within)
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


def simultaneous(value: Array, error: Array, freedom: Array, within: Range) -> tuple[Band, Array]:
    """Intervals that hold for all pairs together, and p corrected for the number of pairs.

    Args:
        value, error, freedom: [pairs, ...], differences, standard errors and degrees of freedom.

    Returns:
        The band and p [pairs, ...]. Without spread, low and high are NaN and p is 1.
    """
    pairs = len(value)
    each = -np.expm1(np.log(CONFIDENCE) / pairs)
    wide = limits(value, error, freedom, ANY, quantile=1 - each / 2)
    p = np.ones(value.shape)
    known = np.isfinite(wide.low)
    alone = 2 * student.sf(np.abs(value[known]) / error[known], freedom[known])
    p[known] = -np.expm1(pairs * np.log1p(-np.minimum(alone, 1 - 1e-16)))
    return Band(wide.value, np.clip(wide.low, *within), np.clip(wide.high, *within)), p


def _variance(values: Array) -> float:
    return float(values.var(ddof=1)) if values.size > 1 else float("nan")
