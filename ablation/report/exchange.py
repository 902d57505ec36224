"""Results in the formats of two libraries of statistics, rliable (Agarwal et al. 2021) and marl-eval (Gorsane et al. 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ablation.analysis.efficiency import CURVE_POINTS, horizon, interpolate
from ablation.analysis.results import Array, Results


def rliable_scores(results: Results) -> dict[str, list[list[float]]]:
    """By variant, the evaluation [runs, tasks]: runs in the order of their seeds, tasks in that of `Results.tasks`.

    Divided by `Measure.best` if that is known, so that the reference agent has 1, from which rliable measures the optimality gap.
    """
    return {variant: _scaled(results, results.matrix(variant)).tolist() for variant in results.variants}


def marl_eval_scores(results: Results) -> dict[str, Any]:
    """suite -> task -> variant -> seed -> step_1, step_2, ..., absolute_metrics -> measure -> [value], on the scale of `rliable_scores`.

    The steps are frames (`step_count`) of the learning curves, absolute_metrics is the evaluation. marl-eval takes the same seeds and steps
    of every variant, so seeds that a variant lacks are left out, and frames at which a run has no value on a task. Its names have no
    commas.

    Empty if no seed or no frame is left.
    """
    seeds = sorted(set.intersection(*({run.seed for run in results.of(variant)} for variant in results.variants)))
    runs = {(run.variant, run.seed): run for run in results.runs if run.seed in seeds}
    end = horizon(results)[0]
    if not runs or not np.isfinite(end):
        return {}
    frames = np.linspace(0.0, end, CURVE_POINTS)
    curves = {
        (task, *key): _scaled(results, interpolate(frames, run.curve.frames, run.curve.values[task]))
        for task in results.tasks
        for key, run in runs.items()
    }
    known = np.flatnonzero(np.isfinite(list(curves.values())).all(axis=0))
    if not known.size:
        return {}
    measure = results.measure.name

    def history(task: str, variant: str, seed: int) -> dict[str, Any]:
        curve = curves[task, variant, seed]
        steps = {
            f"step_{number}": {"step_count": round(frames[at]), measure: [float(curve[at])]}
            for number, at in enumerate(known, 1)
        }
        final = _scaled(results, np.array(runs[variant, seed].values[task]))
        return {**steps, "absolute_metrics": {measure: [float(final)]}}

    return {
        results.suite: {
            task: {
                variant.replace(",", ";"): {str(seed): history(task, variant, seed) for seed in seeds}
                for variant in results.variants
            }
            for task in results.tasks
        }
    }


def _scaled(results: Results, values: Array) -> Array:
    return values / (results.measure.best or 1.0)
