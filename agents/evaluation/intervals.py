"""95% intervals of episode results: of shares (success) and of other values (returns), also near the ends of their range.

**One share** has the interval of Clopper & Pearson (1934), which covers the true share in at least 95% of evaluations. With x successes in
n episodes the lower limit p solves P(X >= x; p) = 0.025.

**Means of shares**, and differences of two such means, are tested at each p by a binomial distribution. It has n* = p (1 - p) / variance
episodes, as in the surveys of Korn & Graubard (1998). The variance is that of the mean over tasks, at the most likely shares of the tasks
with mean p (Miettinen & Nurminen 1985). So it is never 0, and differences between tasks do not count as uncertainty. For equal tasks, n* is
the number of all episodes. The tail is WEIGHT P(X >= x) + (1 - WEIGHT) P(X > x). WEIGHT 1 is Clopper & Pearson's tail, with a coverage of
up to 99% at n (1 - p) = 5. WEIGHT 1/2 is the mid-p, with a coverage down to 91%.

**Other values** use the Bayesian bootstrap (Rubin 1981) with one additional episode: at the lowest possible value for the lower limit, at
the highest for the upper limit (Gaffke 2005). For two values this is Clopper & Pearson's interval again. With 98 equal values of 100 it
allows for rare episodes that were not played, which a percentile bootstrap does not. It needs the range of the values. If all episodes are
equal and the range is unknown, there is no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Samples: TypeAlias = Sequence[Array]
Interval: TypeAlias = tuple[float, float]

CONFIDENCE, RESAMPLES = 0.95, 9_999
EXACT, WEIGHT = 1.0, 0.6
"""Weight of the observed value in a tail. With WEIGHT, exact sums over 1, 3 and 10 tasks of 10 to 200 episodes give a coverage of at least
92.7%.
"""

METHOD = (
    f"{CONFIDENCE:.0%}: of a task's success Clopper-Pearson; of means over tasks and of differences a binomial test at the number of "
    f"episodes that has their variance; of returns with more than two values the Bayesian bootstrap with one episode more at an end of "
    f"their range, {RESAMPLES} resamples; null where all returns are the same and nothing else is known of their range"
)
_HALVINGS = 45
_BATCH_BYTES = 64 * 2**20


def interval(
    samples: Samples,
    minus: Samples = (),
    over: Callable[[Array], Any] | None = None,
    *,
    ranges: Sequence[Interval] | None = None,
    weight: float = WEIGHT,
) -> Interval | None:
    """The interval of the mean over tasks of the samples' means, or of its difference to the mean of `minus`.

    The result is deterministic. None if a task has fewer than two episodes, or if a range is a single value.

    Args:
        samples, minus: The values of each task's episodes.
        over: An aggregate of the samples' means [tasks, ...] other than the mean.
        ranges: Lowest and highest possible value of an episode, for each of `samples`, then of `minus`. Default: the observed range.
        weight: EXACT for a single task.
    """
    data = (*samples, *minus)
    ranges = ranges or [(float(sample.min()), float(sample.max())) for sample in data]
    if min(map(len, data)) < 2 or not all(low < high for low, high in ranges):
        return None
    if over is None and all(np.isin(sample, ends).all() for sample, ends in zip(data, ranges, strict=True)):
        return _of_two_values(data, len(samples), ranges, weight)
    return _of_any_values(data, len(samples), over or partial(np.mean, axis=0), ranges, weight)


def _signs(number: int, first: int) -> Array:
    """Factors of `number` samples in the mean of the first `first` minus the mean of the others."""
    return np.array([1 / first] * first + [-1 / max(1, number - first)] * (number - first))


def _of_two_values(data: Samples, first: int, ranges: Sequence[Interval], weight: float) -> Interval:
    factors = _signs(len(data), first)
    low, high = np.array(ranges).T
    scale = factors * (high - low)
    episodes = np.array([len(sample) for sample in data], np.float64)
    high_ones = np.array([np.sum(sample == end) for sample, end in zip(data, high, strict=True)], np.float64)
    # Subtracted shares count their failures: -p = (1 - p) - 1.
    counts = np.where(scale > 0, high_ones, episodes - high_ones)
    start, width = float(np.sum(factors * low) + scale[scale < 0].sum()), float(np.abs(scale).sum())
    least, most = of_shares(counts, episodes, np.abs(scale) / width, weight)
    return start + width * float(least), start + width * float(most)


def of_shares(successes: Array, episodes: Array, weights: Array, weight: float = WEIGHT) -> tuple[Array, Array]:
    """Lower and upper limits of sum(weights * shares) from counts [..., tasks]; arrays [...]. `weights` [tasks] sum to 1."""
    successes, episodes = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(episodes, np.float64))
    low = _lower_limit(successes, episodes, weights, weight)
    return low, 1 - _lower_limit(episodes - successes, episodes, weights, weight)


def _lower_limit(successes: Array, episodes: Array, weights: Array, weight: float) -> Array:
    """Bisects the multiplier that pulls the mean of the most likely shares below the observed mean."""
    found = np.sum(weights * successes / episodes, axis=-1)
    # If every episode succeeds, a smaller weight would cut off too much.
    tail_weight = np.where(found < 1, weight, EXACT)
    least, most = np.zeros(found.shape), np.ones(found.shape)
    for _ in range(_HALVINGS):
        middle = (least + most) / 2
        likely = _pulled(successes, episodes, weights, middle)
        pulled = np.sum(weights * likely, axis=-1)
        inside = _tail(found, pulled, likely, episodes, weights, tail_weight) > (1 - CONFIDENCE) / 2
        least, most = np.where(inside, middle, least), np.where(inside, most, middle)
    limit = np.sum(weights * _pulled(successes, episodes, weights, (least + most) / 2), axis=-1)
    return np.asarray(np.where(found > 0, limit, 0.0))


def _pulled(successes: Array, episodes: Array, weights: Array, middle: Array) -> Array:
    """The most likely shares [..., tasks] with a given weighted mean: the observed mean at `middle` 0, and 0 at `middle` 1.

    They solve x / p - (n - x) / (1 - p) = multiplier * weight.
    """
    multiplier = np.sum(episodes, axis=-1) * middle / np.maximum(1 - middle, 2.0**-_HALVINGS)
    pull = multiplier[..., None] * weights
    both = episodes + pull
    root = np.sqrt(np.maximum(both**2 - 4 * pull * successes, 0))
    return np.asarray(2 * successes / (both + root))


def _tail(found: Array, mean: Array, shares: Array, episodes: Array, weights: Array, tail_weight: Array) -> Array:
    """Probability of at least `found` if the true mean is `mean`."""
    # Imported here, because the import takes a second.
    from scipy.special import betainc  # type: ignore[import-untyped]

    # The mean fixes one of the shares. The others are fitted to the episodes, which makes the variance too small.
    total = episodes.sum(axis=-1)
    freed = total / (total - episodes.shape[-1] + 1)
    variance = freed * np.sum(weights**2 * shares * (1 - shares) / episodes, axis=-1)
    spread = variance > 0
    number = mean * (1 - mean) / np.where(spread, variance, 1.0)
    count = number * found
    misses = np.maximum(number - count, 0.0)
    tiny = np.finfo(np.float64).tiny
    reached = betainc(np.maximum(count, tiny), misses + 1, mean)
    passed = np.where(misses > 1e-9 * number, betainc(count + 1, np.maximum(misses, tiny), mean), 0.0)
    # Without variance the mean is certain.
    return np.asarray(np.where(spread, tail_weight * reached + (1 - tail_weight) * passed, mean >= found))


def _of_any_values(
    data: Samples, first: int, over: Callable[[Array], Any], ranges: Sequence[Interval], weight: float
) -> Interval:
    rng = np.random.default_rng(0)
    factors = _signs(len(data), first)
    means, lengths = np.array([[sample.mean(), len(sample)] for sample in data]).T
    drawn = np.array([_drawn_means(rng, sample) for sample in data])
    # Row 0: the ends that make the result low. Row 1: the ends that make it high.
    ends = np.array([bounds if factor > 0 else bounds[::-1] for bounds, factor in zip(ranges, factors, strict=True)]).T
    limits, extreme = [], []
    for end in ends:
        # The additional episode goes to the task where it changes the result most.
        more = np.where(np.eye(len(data), dtype=bool), (means + (end - means) / lengths)[:, None], means[:, None])
        task = int(np.argmax(np.abs(_value(more, first, over) - _value(means[:, None], first, over))))
        one_more = drawn.copy()
        one_more[task] += rng.beta(1, len(data[task]), RESAMPLES) * (end[task] - drawn[task])
        extreme.append(_value(one_more, first, over))
        limits.append(float(_value(end[:, None], first, over)[0]))
    share = round(weight * RESAMPLES)
    low = np.quantile(np.append(extreme[0][:share], extreme[1][share:]), (1 - CONFIDENCE) / 2)
    high = np.quantile(np.append(extreme[1][:share], extreme[0][share:]), (1 + CONFIDENCE) / 2)
    return max(float(low), limits[0]), min(float(high), limits[1])


def _value(means: Array, first: int, over: Callable[[Array], Any]) -> Array:
    value = over(means[:first])
    return np.asarray(value - over(means[first:]) if len(means) > first else value)


def _drawn_means(rng: np.random.Generator, sample: Array) -> Array:
    """RESAMPLES means of a sample under random weights, scaled to the variance of its mean."""
    number = len(sample)
    batch = max(1, _BATCH_BYTES // (8 * number))
    parts = []
    for at in range(0, RESAMPLES, batch):
        weights = rng.standard_exponential((min(batch, RESAMPLES - at), number))
        parts.append(weights @ sample / weights.sum(axis=1))
    # Random weights give the variance s^2 / (n + 1), where s^2 divides by n, not n - 1.
    mean = sample.mean()
    return np.asarray(mean + np.sqrt((number + 1) / (number - 1)) * (np.concatenate(parts) - mean))
