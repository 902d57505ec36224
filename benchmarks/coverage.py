"""Accuracy of the statistics of an ablation.

Usage:  python -m benchmarks.coverage [simulations=1000]
[cases=intervals,improvement,verdict,tuning] [runs=3,5,10] [tasks=1,3,10] [variants=2,5,12] [widths=1,4]

Simulates ablations with known truth and applies the statistics of ablate.py.

    - intervals    `coverage` is the share of 95% intervals of each aggregate that contain the truth, `width` their median width.
                   Scores are `normal` (deviation 0.1) or a `share` (beta distribution, 10 pseudo-counts: skewed).
                   Tasks have the `same` mean (0.8 of normal scores, 0.9 of shares) or `spread` means (0.2 to 0.8, 0.4 to 0.9).
                   `correlation` is between the scores of one run on two tasks.
                   The best value, for the optimality gap, is 0.9 for normal scores and 1 for shares.
    - improvement  The same for the probability of improvement, with normal scores that are `shift` deviations higher.
    - verdict      `false_claims` is the share of ablations that claim a difference between equal variants.
                   With one variant three deviations below the others, `power` is the share of its differences that are claimed,
                   and `found` the share of ablations that claim at least one of them.
                   `unequal`: the deviations of variants are from 1 to 4. `unequal_share`: shares whose pseudo-counts are from 20 to 2.5.
                   Their skew and unequal spread together violate the assumptions of the procedure.
                   With several `widths` each variant occurs at every width, and those of the same width are compared. A false claim is
                   one at any width. The variant below the others is so at every width, and `held` is the share of its differences that
                   are claimed at every width.
    - tuning       `false_claims` as above, with normal scores, for equal variants that are tuned before (ablate.py, tune=): each choice
                   takes the best of three values by tuning runs of their own, either one choice for each run by one tuning run of each
                   value (`per` seed), or one for all runs of a variant by two (`per` variant).
                   A value is `gap` deviations better than the next. 0: the values do not matter.
                   `bias` is the mean of a test run minus the true mean of its chosen value, in deviations.
                   `reused_bias` is the same for the tuning runs that were chosen by: the error if they were reported as test runs.

A missing interval does not contain the truth, and has no width.

Prints one line of JSON each. The same command prints the same lines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri  # type: ignore[import-untyped]

from ablation.analysis.intervals import ANY
from ablation.analysis.results import Array, Measure
from ablation.analysis.statistics import AGGREGATES, aggregate, improvement, simultaneous, welch
from benchmarks.options import Row, parse, report
from system.errors import InputError, unknown_name

CASES = ("intervals", "improvement", "verdict", "tuning")
MEASURES = {
    "normal": Measure(name="score", label="score", best=0.9),
    "share": Measure(name="success", label="success", best=1.0, floor=0.0),
}
MEANS = {"normal": (0.2, 0.8), "share": (0.4, 0.9)}
DEVIATION, COUNTS = 0.1, 10.0
CORRELATION = 0.7
VARIANTS = ("normal", "unequal", "exponential", "share", "unequal_share")
SHIFT = 3.0
VALUES, GAPS = 3, (0.0, 1.0)
TUNING_RUNS = {"seed": 1, "variant": 2}
_CHUNK = 20
"""Simulations at a time, to bound memory: each is resampled thousands of times."""


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case."""
    options = parse(
        arguments, rounds=1, seconds=1.0, own=("simulations", "cases", "runs", "tasks", "variants", "widths")
    )
    if options.overrides:
        raise InputError(f"{options.overrides[0]} is no option of this benchmark, which trains nothing: leave it out.")
    simulations = options.numbers("simulations", (1000,))[-1]
    runs, tasks = options.numbers("runs", (3, 5, 10)), options.numbers("tasks", (1, 3, 10))
    variants = options.numbers("variants", (2, 5, 12))
    for case in options.words("cases", CASES):
        if case == "intervals":
            for scores, count, number in product(MEASURES, runs, tasks):
                for means, correlation in settings(number):
                    yield from interval_rows(scores, means, correlation, count, number, simulations)
        elif case == "improvement":
            for count, number, shift in product(runs, tasks, (0.0, 1.0)):
                for correlation in dict.fromkeys(correlation for _, correlation in settings(number)):
                    yield improvement_row(shift, correlation, count, number, simulations)
        elif case == "verdict":
            widths = options.numbers("widths", (1, 4))
            for of_each, scores, number, count in product(widths, VARIANTS, variants, runs):
                yield verdict_row(scores, number, count, simulations, widths=of_each)
        elif case == "tuning":
            for per, gap, number, count in product(TUNING_RUNS, GAPS, variants, runs):
                yield tuning_row(per, gap, number, count, simulations)
        else:
            raise unknown_name("cases", case, CASES)


def settings(tasks: int) -> list[tuple[str, float]]:
    """The pairs of means and correlations that differ for this number of tasks."""
    return [("same", 0.0)] if tasks == 1 else list(product(("same", "spread"), (0.0, CORRELATION)))


def quantiles(scores: str, means: str, tasks: int, uniform: Array) -> Array:
    """The scores at these quantiles, [..., tasks] -> [..., tasks]."""
    low, high = MEANS[scores]
    mean = np.linspace(low if means == "spread" else high, high, tasks)
    if scores == "normal":
        return np.asarray(mean + DEVIATION * ndtri(uniform))
    return np.asarray(betaincinv(COUNTS * mean, COUNTS * (1 - mean), uniform))


def correlated(rng: np.random.Generator, shape: tuple[int, ...], correlation: float) -> Array:
    """Standard normal numbers [..., tasks], correlated along the last axis."""
    shared = rng.standard_normal((*shape[:-1], 1))
    return np.asarray(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * rng.standard_normal(shape))


def interval_rows(
    scores: str,
    means: str,
    correlation: float,
    runs: int,
    tasks: int,
    simulations: int,
    names: Sequence[str] = tuple(AGGREGATES),
) -> Iterator[Row]:
    """A row for each aggregate."""
    rng = np.random.default_rng([runs, tasks, round(10 * correlation)])
    values = quantiles(scores, means, tasks, ndtr(correlated(rng, (simulations, runs, tasks), correlation)))
    # Aggregates depend only on the distribution of each task, so evenly spaced quantiles give the truth.
    even = (np.arange(10_000) + 0.5) / 10_000
    everything = quantiles(scores, means, tasks, np.repeat(even[:, None], tasks, axis=1))
    for name in names:
        truth = _truth(name, everything, scores)
        parts = [aggregate(name, values[at : at + _CHUNK], MEASURES[scores]) for at in range(0, simulations, _CHUNK)]
        low, high = (np.concatenate([getattr(part, side) for part in parts]) for side in ("low", "high"))
        yield {
            "case": "intervals",
            "aggregate": name,
            "scores": scores,
            "means": means,
            "correlation": correlation,
            "runs": runs,
            "tasks": tasks,
            "coverage": float(np.mean((low <= truth) & (truth <= high))),
            "width": float(np.nanmedian(high - low)),
            "simulations": simulations,
        }


def improvement_row(shift: float, correlation: float, runs: int, tasks: int, simulations: int) -> Row:
    """The row for normal scores that differ by `shift` deviations."""
    rng = np.random.default_rng([runs, tasks, round(10 * correlation), round(10 * shift)])
    values, others = correlated(rng, (2, simulations, runs, tasks), correlation)
    truth = float(ndtr(shift / np.sqrt(2)))
    found = [improvement(value + shift, other) for value, other in zip(values, others, strict=True)]
    low, high = (
        np.array([estimate.low for estimate in found], float),
        np.array([estimate.high for estimate in found], float),
    )
    return {
        "case": "improvement",
        "shift": shift,
        "correlation": correlation,
        "runs": runs,
        "tasks": tasks,
        "coverage": float(np.mean((low <= truth) & (truth <= high))),
        "width": float(np.nanmedian(high - low)),
        "simulations": simulations,
    }


def verdict_row(scores: str, variants: int, runs: int, simulations: int, *, widths: int = 1) -> Row:
    """The row for means of runs with the distribution `scores`."""
    # One width has the random numbers that it had before there were several.
    rng = np.random.default_rng([variants, runs, *([widths] if widths > 1 else [])])
    shape = (variants, runs, simulations)
    alike = claims(np.array([variant_means(scores, rng, shape) for _ in range(widths)]))
    values = np.array([variant_means(scores, rng, shape) for _ in range(widths)])
    # Lower by SHIFT of its deviations.
    values[:, 0] -= SHIFT * values[:, 0].std()
    lower = claims(values).reshape(widths, -1, simulations)[:, : variants - 1]
    return {
        "case": "verdict",
        "scores": scores,
        "widths": widths,
        "variants": variants,
        "runs": runs,
        "false_claims": float(alike.any(axis=0).mean()),
        "power": float(lower.mean()),
        "found": float(lower.any(axis=(0, 1)).mean()),
        "held": float(lower.all(axis=0).mean()),
        "simulations": simulations,
    }


def tuning_row(per: str, gap: float, variants: int, runs: int, simulations: int) -> Row:
    """The row for equal variants, each tuned over VALUES values whose true means are `gap` apart."""
    rng = np.random.default_rng([variants, runs, round(10 * gap)])
    truth = -gap * np.arange(VALUES)
    choices = runs if per == "seed" else 1
    tuning = truth[:, None] + rng.standard_normal((variants, choices, simulations, VALUES, TUNING_RUNS[per]))
    means = tuning.mean(axis=-1)
    chosen = truth[means.argmax(axis=-1)]
    tests = chosen + rng.standard_normal((variants, runs, simulations))
    return {
        "case": "tuning",
        "per": per,
        "gap": gap,
        "variants": variants,
        "runs": runs,
        "false_claims": float(claims(tests[None]).any(axis=0).mean()),
        "bias": float((tests - chosen).mean()),
        "reused_bias": float((means.max(axis=-1) - chosen).mean()),
        "simulations": simulations,
    }


def variant_means(scores: str, rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    """Means over tasks of the runs of equally good variants, [variants, runs, simulations]."""
    if scores == "exponential":
        return rng.exponential(size=shape)
    if scores in ("share", "unequal_share"):
        counts = np.geomspace(20, 2.5, shape[0]) if scores == "unequal_share" else np.full(shape[0], COUNTS)
        mean = MEANS["share"][1]
        return rng.beta(counts[:, None, None] * mean, counts[:, None, None] * (1 - mean), shape)
    deviations = np.linspace(1, 4, shape[0]) if scores == "unequal" else np.ones(shape[0])
    return np.asarray(deviations[:, None, None] * rng.standard_normal(shape))


def claims(values: Array) -> Array:
    """Whether the verdict claims a difference: [widths, variants, runs, simulations] -> [pairs, simulations], the pairs of each width in
    turn, and of it those of the first variant first.
    """
    widths, variants, runs, simulations = values.shape
    groups = np.arange(widths * variants).reshape(widths, variants)
    pairs = np.array([pair for group in groups for pair in combinations(group, 2)]).T
    values = values.reshape(-1, runs, simulations)
    number = np.full(values.shape[::2], float(runs))
    samples = np.array([values.mean(axis=1), values.var(axis=1, ddof=1), number])[:, pairs]
    band, _ = simultaneous(*welch(samples), ANY)
    return np.asarray((band.low > 0) | (band.high < 0))


def _truth(name: str, everything: Array, scores: str) -> float:
    best = {"best": MEASURES[scores].best} if name == "optimality_gap" else {}
    return float(AGGREGATES[name](everything, **best))


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
