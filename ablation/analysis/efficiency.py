"""How fast variants learn: learning curves at common frames, the area under them, frames and seconds to a threshold.

The mean over tasks starts where every task has a value; before that it would be a mean over fewer tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ablation.analysis.intervals import Range, estimate, of_mean
from ablation.analysis.results import Array, Band, Curve, Efficiency, Estimate, Results
from ablation.analysis.statistics import value_range

CURVE_POINTS = 101
THRESHOLD_SHARE = 0.9
"""Position of the threshold between the floor and the best variant's final value."""
PACES = ("area", "frames_to", "seconds_to", "frames_per_second")
"""Quantities of speed: columns of `run_paces`, and attributes of `Efficiency`."""
MEAN = ""
"""Name of the mean over tasks among the curves."""


def mean_over_tasks(curve: Curve, tasks: Sequence[str]) -> Array:
    """[N]; NaN until every task has a value."""
    return np.asarray(np.mean([curve.values[task] for task in tasks], axis=0))


def interpolate(frames: Array, curve_frames: Array, values: Array) -> Array:
    """A curve [N] at other frames [M]; NaN before its first value and after its last."""
    known = np.isfinite(values)
    if not known.any():
        return np.full(frames.shape, np.nan)
    return np.interp(frames, curve_frames[known], values[known], left=np.nan, right=np.nan)


def area(frames: Array, values: Array) -> float:
    """Area under a curve [N] from frame 0 to its end, divided by these frames; NaN without a value.

    The curve is taken as constant before its first value.
    """
    known = np.isfinite(values)
    if not known.any() or frames[known][-1] <= 0:
        return float("nan")
    frames, values = np.append(0.0, frames[known]), np.append(values[known][0], values[known])
    return float(np.trapezoid(values, frames) / frames[-1])


def default_threshold(results: Results) -> float:
    """THRESHOLD_SHARE of the way from the floor to the best variant's final value, by training's mean over tasks and runs.

    The floor is `Measure.floor`, or the lowest first value of the variants if that is unknown. NaN, which no run reaches, if there is
    no curve or no variant rises above the floor.
    """
    ends = []
    for variant in results.variants:
        lines = [mean_over_tasks(run.curve, results.tasks) for run in results.of(variant)]
        known = [line[np.isfinite(line)] for line in lines if np.isfinite(line).any()]
        if known:
            ends.append((np.mean([line[0] for line in known]), np.mean([line[-1] for line in known])))
    if not ends:
        return float("nan")
    first, best = min(first for first, _ in ends), max(last for _, last in ends)
    floor = first if results.measure.floor is None else results.measure.floor
    return float(floor + THRESHOLD_SHARE * (best - floor)) if best > floor else float("nan")


def run_paces(results: Results, variant: str, threshold: float) -> Array:
    """The PACES of each run [runs, 4]. Frames and seconds are infinite for a run that never reaches the threshold.

    The area is NaN without a curve on every task.
    """
    rows = []
    for run in results.of(variant):
        curve, values = run.curve, mean_over_tasks(run.curve, results.tasks)
        reached = np.flatnonzero(values >= threshold)
        first = (curve.frames[reached[0]], curve.seconds[reached[0]]) if reached.size else (np.inf, np.inf)
        rows.append((area(curve.frames, values), *first, run.frames_per_second))
    return np.array(rows, np.float64)


def efficiency(results: Results, variant: str, threshold: float) -> Efficiency:
    """Over all runs of a variant. A run whose curve has no value on some task counts as never reaching the threshold."""
    areas, frames, seconds, speeds = run_paces(results, variant, threshold).T
    known = areas[np.isfinite(areas)]
    mean = estimate(of_mean(known, value_range(results.measure))) if known.size else Estimate(np.nan, None, None)
    return Efficiency(
        area=mean,
        reached=int(np.isfinite(frames).sum()),
        frames_to=frames,
        seconds_to=seconds,
        frames_to_median=float(np.median(frames)),
        seconds_to_median=float(np.median(seconds)),
        frames_per_second=estimate(of_mean(speeds, Range(0.0, np.inf))),
    )


def horizon(results: Results) -> tuple[float, float]:
    """Frames and seconds up to which every run with a curve was trained; infinite if no run has a curve."""
    curves = [run.curve for run in results.runs if run.curve.frames.size]
    frames = min((float(curve.frames[-1]) for curve in curves), default=np.inf)
    return frames, min((float(curve.seconds[-1]) for curve in curves), default=np.inf)


def speeds(results: Results) -> dict[str, Array]:
    """Frames per second of each run, by variant."""
    return {variant: np.array([run.frames_per_second for run in results.of(variant)]) for variant in results.variants}


def comparable_paces(results: Results, threshold: float) -> dict[str, dict[str, Array]]:
    """By name of PACES and variant, the finite values of its runs with a curve; a variant without any is left out.

    Frames and seconds to the threshold are cut at `horizon`, also for runs that never reach the threshold. Their mean, the restricted
    mean of survival analysis, is finite and can be compared.
    """
    found: dict[str, dict[str, Array]] = {name: {} for name in PACES}
    cut = np.array([np.inf, *horizon(results), np.inf])
    for variant in results.variants:
        has_curve = np.array([run.curve.frames.size > 0 for run in results.of(variant)])
        paces = np.minimum(run_paces(results, variant, threshold), cut)
        for number, name in enumerate(PACES):
            values = paces[:, number] if name == "frames_per_second" else paces[has_curve, number]
            if np.isfinite(values).any():
                found[name][variant] = values[np.isfinite(values)]
    return found


def common_frames(results: Results) -> Array:
    """CURVE_POINTS frames from 0 to the end of the longest variant's curve; a variant ends with its shortest run."""
    ends = [
        min((run.curve.frames[-1] if run.curve.frames.size else 0.0) for run in results.of(variant))
        for variant in results.variants
    ]
    return np.linspace(0.0, max(ends), CURVE_POINTS)


def curves(results: Results, variant: str, frames: Array) -> Mapping[str, Band]:
    """By task, and MEAN: the mean over runs at these frames [N], NaN where some run has no value."""
    runs = results.of(variant)
    found = {}
    for name in (MEAN, *results.tasks):
        lines = [mean_over_tasks(run.curve, results.tasks) if name == MEAN else run.curve.values[name] for run in runs]
        values = np.array([interpolate(frames, run.curve.frames, line) for run, line in zip(runs, lines, strict=True)])
        found[name] = of_mean(values, value_range(results.measure))
    return found
