"""An analysis of fabricated results whose statistics are simple, for tests of the report alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np

from ablation.analysis.results import (
    Analysis,
    Array,
    Band,
    Comparison,
    Efficiency,
    Estimate,
    Results,
)

POINTS = 15


def analysis(results: Results, *, threshold: float | None = None) -> Analysis:
    """Means with intervals of two standard errors over runs; no interval for a single run."""
    matrices = {variant: results.matrix(variant) for variant in results.variants}
    aggregates: dict[str, Callable[[Array], Array]] = {
        "iqm": lambda values: np.sort(values, axis=1).mean(axis=1),
        "median": lambda values: np.median(values, axis=1),
        "mean": lambda values: values.mean(axis=1),
    }
    best = results.measure.best
    if best is not None:
        aggregates["optimality_gap"] = lambda values: np.maximum(best - values, 0).mean(axis=1)
    values = np.concatenate([matrix.ravel() for matrix in matrices.values()])
    profile_values = np.linspace(values.min(), values.max(), POINTS)
    aim = float(values.mean() / 2) if threshold is None else threshold
    frames = np.linspace(0, max(run.curve.frames[-1] for run in results.runs), POINTS)
    pairs = comparisons({variant: float(results.matrix(variant).mean()) for variant in results.variants}, 0.1)
    claimed = [pair for pair in pairs if pair.claimed]
    main = (
        f"{claimed[0].higher} is better than {claimed[0].lower}."
        if claimed
        else "These runs do not tell any two variants apart."
    )
    probes = sorted({probe for run in results.runs for probe in run.probed})
    return Analysis(
        aggregates={
            variant: {name: estimate(over(matrix)) for name, over in aggregates.items()}
            for variant, matrix in matrices.items()
        },
        tasks={
            variant: {task: estimate(matrix[:, number]) for number, task in enumerate(results.tasks)}
            for variant, matrix in matrices.items()
        },
        profile_values=profile_values,
        profiles={
            variant: band((matrix[:, :, None] > profile_values).mean(axis=1)) for variant, matrix in matrices.items()
        },
        improvement={
            first: {second: above(matrices[first], matrices[second]) for second in matrices if second != first}
            for first in matrices
        },
        threshold=aim,
        efficiency={variant: efficiency(results, variant, aim) for variant in results.variants},
        paces={
            "area": comparisons({variant: float(results.matrix(variant).mean()) for variant in results.variants}, 0.1),
            "frames_per_second": comparisons(dict.fromkeys(results.variants, 2000.0), 7.0),
        }
        if len(results.variants) > 1
        else {},
        frames=frames,
        curves={
            variant: {task: curve(results, variant, task, frames) for task in ("", *results.tasks)}
            for variant in results.variants
        },
        probes={
            variant: {
                probe: estimate(
                    np.array(
                        [
                            np.mean([run.values[task] - run.probed[probe][task] for task in results.tasks])
                            for run in results.of(variant)
                        ]
                    )
                )
                for probe in probes
            }
            for variant in results.variants
        }
        if probes
        else {},
        resampled="Two standard errors of the mean over runs on either side, for a test of the report.",
        comparisons=pairs,
        sentences=(main, "More seeds would tell more.", f"The runs took {results.runs[0].seconds:.0f} s."),
    )


def estimate(samples: Array) -> Estimate:
    """Estimate of the mean of samples [N]."""
    mean = float(samples.mean())
    if len(samples) < 2:
        return Estimate(mean, None, None)
    error = 2 * float(samples.std(ddof=1)) / math.sqrt(len(samples))
    return Estimate(mean, mean - error, mean + error)


def band(samples: Array) -> Band:
    """Band of the mean over the first axis of samples [runs, N]."""
    found = [estimate(column) for column in samples.T]
    return Band(
        *(np.array([math.nan if value is None else value for value in part]) for part in zip(*found, strict=True))
    )


def above(first: Array, second: Array) -> Estimate:
    """The share of pairs of runs, over tasks, in which the first is above the second; ties count half."""
    chance = float(np.mean((np.sign(first[:, None] - second[None]) + 1) / 2))
    if min(len(first), len(second)) < 2:
        return Estimate(chance, None, None)
    return Estimate(chance, max(0.0, chance - 0.2), min(1.0, chance + 0.2))


def curve(results: Results, variant: str, task: str, frames: Array) -> Band:
    tasks = (task,) if task else results.tasks
    return band(
        np.array(
            [
                np.mean([np.interp(frames, run.curve.frames, run.curve.values[name]) for name in tasks], axis=0)
                for run in results.of(variant)
            ]
        )
    )


def efficiency(results: Results, variant: str, threshold: float) -> Efficiency:
    runs = results.of(variant)
    means = [np.mean([run.curve.values[task] for task in results.tasks], axis=0) for run in runs]
    places = [int(np.argmax(mean >= threshold)) if (mean >= threshold).any() else None for mean in means]
    frames, seconds = (
        np.array([math.inf if place is None else float(axis[place]) for axis, place in zip(axes, places, strict=True)])
        for axes in ([run.curve.frames for run in runs], [run.curve.seconds for run in runs])
    )
    return Efficiency(
        area=estimate(np.array([np.nan_to_num(mean).mean() for mean in means])),
        reached=sum(place is not None for place in places),
        frames_to=frames,
        seconds_to=seconds,
        frames_to_median=float(np.median(frames)),
        seconds_to_median=float(np.median(seconds)),
        frames_per_second=estimate(np.array([run.frames_per_second for run in runs])),
    )


def comparisons(means: Mapping[str, float], reach: float) -> tuple[Comparison, ...]:
    """Every pair of variants; a difference above `reach` is claimed."""
    return tuple(
        Comparison(
            first=first,
            second=second,
            difference=Estimate(size := means[first] - means[second], size - reach, size + reach),
            p=0.01 if abs(size) > reach else 0.6,
            claimed=abs(size) > reach,
        )
        for first, second in combinations(means, 2)
    )
