"""How fast variants learn: learning curves on a common grid, the area under them, frames and seconds to a threshold.

A curve of the mean over tasks begins where every task has a value: before, it would be a mean over other tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ablation.analysis.intervals import Range, estimate, of_mean
from ablation.analysis.results import Array, Band, Curve, Efficiency, Estimate, Results, Run
from ablation.analysis.statistics import possible

GRID = 101
SHARE = 0.9
"""Of the way that the best variant comes, at which the threshold is."""
PACES = ("area", "frames_to", "seconds_to", "frames_per_second")
"""What every run has one value of: the attributes of `Efficiency` with these names are made of them."""
MEAN = ""
"""Stands for the mean over tasks among the curves."""


def mean_over_tasks(curve: Curve, tasks: Sequence[str]) -> Array:
    """[N]; NaN until every task has a value."""
    return np.asarray(np.mean([curve.values[task] for task in tasks], axis=0))


def at(frames: Array, curve_frames: Array, values: Array) -> Array:
    """A curve [N] at other frames [M], interpolated; NaN before its first value and after its last."""
    known = np.isfinite(values)
    if not known.any():
        return np.full(frames.shape, np.nan)
    return np.interp(frames, curve_frames[known], values[known], left=np.nan, right=np.nan)


def area(frames: Array, values: Array) -> float:
    """Area under a curve [N] from frame 0 to its end, divided by these frames; NaN without a value.

    Before its first value the curve counts as constant.
    """
    known = np.isfinite(values)
    if not known.any() or frames[known][-1] <= 0:
        return float("nan")
    frames, values = np.append(0.0, frames[known]), np.append(values[known][0], values[known])
    return float(np.trapezoid(values, frames) / frames[-1])


def first_reach(curve: Curve, values: Array, threshold: float) -> tuple[float, float]:
    """Frames and seconds at the first of the curve's points that is at or above the threshold; infinite if none is."""
    reached = np.flatnonzero(values >= threshold)
    return (float(curve.frames[reached[0]]), float(curve.seconds[reached[0]])) if reached.size else (np.inf, np.inf)


def default_threshold(results: Results) -> float:
    """SHARE of the way from the floor to the best variant's final value, by training's mean over tasks and runs.

    Where `Measure.floor` is unknown, the lowest of the variants' first values takes its place. NaN, which no run comes to, without any
    curve and where no variant rises above the floor.
    """
    ends = {variant: _ends(results.of(variant), results.tasks) for variant in results.variants}
    known = [end for end in ends.values() if end]
    if not known:
        return float("nan")
    best = max(last for _, last in known)
    floor = results.measure.floor if results.measure.floor is not None else min(first for first, _ in known)
    return floor + SHARE * (best - floor) if best > floor else float("nan")


def efficiency(results: Results, variant: str, threshold: float) -> Efficiency:
    """Over all runs of a variant. Runs whose curve has no value on some task count as ones that never came to the threshold."""
    runs = results.of(variant)
    curves = [(run.curve, mean_over_tasks(run.curve, results.tasks)) for run in runs]
    areas = np.array([area(curve.frames, values) for curve, values in curves])
    known = areas[np.isfinite(areas)]
    reached = np.array([first_reach(curve, values, threshold) for curve, values in curves])
    return Efficiency(
        area=estimate(of_mean(known, possible(results.measure))) if known.size else Estimate(float("nan"), None, None),
        reached=int(np.isfinite(reached[:, 0]).sum()),
        frames_to=reached[:, 0],
        seconds_to=reached[:, 1],
        frames_to_median=float(np.median(reached[:, 0])),
        seconds_to_median=float(np.median(reached[:, 1])),
        frames_per_second=estimate(of_mean(np.array([run.frames_per_second for run in runs]), Range(0.0, np.inf))),
    )


def horizon(results: Results) -> tuple[float, float]:
    """Frames and seconds up to which every run with a curve was trained; infinite without any."""
    ends = [(run.curve.frames[-1], run.curve.seconds[-1]) for run in results.runs if run.curve.frames.size]
    frames, seconds = (min(map(float, part)) for part in zip(*ends, strict=True)) if ends else (np.inf, np.inf)
    return frames, seconds


def speeds(results: Results) -> dict[str, Array]:
    """By variant, the frames per second of each run."""
    return {
        variant: np.array([run.frames_per_second for run in results.of(variant)], np.float64)
        for variant in results.variants
    }


def of_every_run(results: Results, threshold: float) -> dict[str, dict[str, Array]]:
    """By name of PACES and variant, a value for each run, finite; a variant without any is left out.

    Frames and seconds to the threshold count up to `horizon`, for the runs that came there later or never too: the mean of that (the
    restricted mean, as of survival times) is finite and can be compared, whoever came there.
    """
    found: dict[str, dict[str, Array]] = {name: {} for name in PACES}
    most = horizon(results)
    for variant in results.variants:
        runs = results.of(variant)
        lines = [(run.curve, mean_over_tasks(run.curve, results.tasks)) for run in runs if run.curve.frames.size]
        found["area"][variant] = np.array([area(curve.frames, values) for curve, values in lines])
        reached = np.array([first_reach(curve, values, threshold) for curve, values in lines]).reshape(-1, 2)
        found["frames_to"][variant], found["seconds_to"][variant] = np.minimum(reached, most).T
    found["frames_per_second"] = speeds(results)
    return {
        name: {variant: known for variant, values in of_runs.items() if (known := values[np.isfinite(values)]).size}
        for name, of_runs in found.items()
    }


def grid(results: Results) -> Array:
    """GRID frames from 0 to where the curves of the variant that was trained longest end; a variant's end with its shortest run's."""
    ends = [
        min((run.curve.frames[-1] if run.curve.frames.size else 0.0) for run in results.of(variant))
        for variant in results.variants
    ]
    return np.linspace(0.0, max(ends), GRID)


def curves(results: Results, variant: str, frames: Array) -> Mapping[str, Band]:
    """By task, and MEAN, over runs at these frames [N], wherever every run has a value: others would be means of other runs."""
    runs = results.of(variant)
    found = {}
    for name in (MEAN, *results.tasks):
        lines = [mean_over_tasks(run.curve, results.tasks) if name == MEAN else run.curve.values[name] for run in runs]
        values = np.array([at(frames, run.curve.frames, line) for run, line in zip(runs, lines, strict=True)])
        found[name] = of_mean(values, possible(results.measure))
    return found


def _ends(runs: Sequence[Run], tasks: Sequence[str]) -> tuple[float, float] | None:
    """First and last value of the runs' curves, mean over those that have any."""
    lines = [mean_over_tasks(run.curve, tasks) for run in runs]
    known = [line[np.isfinite(line)] for line in lines if np.isfinite(line).any()]
    if not known:
        return None
    return float(np.mean([line[0] for line in known])), float(np.mean([line[-1] for line in known]))
