"""Fabricated results, for tests of analysis and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ablation.analysis.results import Curve, Measure, Results, Run

SUCCESS = Measure(name="success", label="success", best=1.0, floor=0.0)


def run(
    variant: str,
    seed: int,
    values: Mapping[str, float],
    *,
    unseen: Mapping[str, float] | None = None,
    probed: Mapping[str, Mapping[str, float]] | None = None,
    parameters: int = 1000,
    steps: int = 20,
) -> Run:
    """A run in which every task rises linearly from 0 to its value in 100,000 frames and 50 seconds."""
    rise = np.linspace(0, 1, steps)
    return Run(
        name=f"{variant}-seed{seed}",
        variant=variant,
        seed=seed,
        values=values,
        unseen=unseen or {},
        probed=probed or {},
        curve=Curve(
            frames=100_000 * rise, seconds=50 * rise, values={task: value * rise for task, value in values.items()}
        ),
        episodes=100,
        parameters=parameters,
        multiply_adds=2 * parameters,
        frames=100_000,
        seconds=50.0,
        frames_per_second=2000.0,
        config={"fusion.name": variant, "seed": seed, "env.name": "fabricated"},
        provenance={
            "git": {"commit": "0" * 40, "dirty": False},
            "versions": {"python": "3", "torch": "2"},
            "machine": {"platform": "Linux", "processor": "Fabricated"},
            "command": [],
        },
    )


def results(
    values: Mapping[str, Sequence[Sequence[float]]],
    tasks: Sequence[str] = (),
    measure: Measure = SUCCESS,
    unseen: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> Results:
    """Results of `values`: by variant, for each run its value on every task; `unseen` the same of the first tasks."""
    names = tuple(tasks) or tuple(f"task-{number}" for number in range(len(next(iter(values.values()))[0])))
    return Results(
        suite="fabricated",
        measure=measure,
        tasks=names,
        variants=tuple(values),
        runs=tuple(
            run(
                variant,
                seed,
                dict(zip(names, row, strict=True)),
                unseen=dict(zip(names, unseen[variant][seed], strict=False)) if unseen else None,
            )
            for variant, rows in values.items()
            for seed, row in enumerate(rows)
        ),
    )
