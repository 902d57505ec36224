"""The analysis is complete, independent of the order of runs and tasks, and free of warnings for small results."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import fabricated
import numpy as np
import pytest

from ablation.analysis.analysis import analyse
from ablation.analysis.results import Curve, Results
from ablation.analysis.statistics import AGGREGATES

RNG = np.random.default_rng(0)
VARIANTS = ("concat", "film", "mi")


def results(runs: int = 4, tasks: int = 3) -> Results:
    return fabricated.results({variant: RNG.beta(4, 2, (runs, tasks)).tolist() for variant in VARIANTS})


def same(left: Any, right: Any) -> bool:
    """Bit for bit."""
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, part.name), getattr(right, part.name)) for part in dataclasses.fields(left))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, tuple):
        return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))
    return bool(np.array_equal(left, right, equal_nan=True)) if isinstance(left, np.ndarray) else bool(left == right)


def test_the_analysis_is_complete() -> None:
    found = analyse(results())
    tasks = ["task-0", "task-1", "task-2"]
    for part in (
        found.aggregates,
        found.tasks,
        found.profiles,
        found.improvement,
        found.efficiency,
        found.curves,
        found.probes,
    ):
        assert tuple(part) == VARIANTS
    for variant in VARIANTS:
        assert list(found.aggregates[variant]) == list(AGGREGATES)
        assert list(found.tasks[variant]) == tasks
        assert list(found.improvement[variant]) == [other for other in VARIANTS if other != variant]
        assert list(found.curves[variant]) == ["", *tasks]
        for band in (found.profiles[variant], *found.curves[variant].values()):
            axis = found.profile_values if band is found.profiles[variant] else found.frames
            assert band.value.shape == band.low.shape == band.high.shape == axis.shape
    assert len(found.comparisons) == 3
    assert "jackknife" in found.resampled and "one run plays all tasks" in found.resampled


def test_the_order_of_runs_does_not_matter() -> None:
    given = results(runs=6)
    runs = [dataclasses.replace(run, values=dict(reversed(run.values.items()))) for run in given.runs]
    random.Random(0).shuffle(runs)
    assert [run.name for run in runs] != [run.name for run in given.runs]
    assert same(analyse(given), analyse(dataclasses.replace(given, runs=tuple(runs))))


def test_the_order_of_tasks_does_not_matter() -> None:
    given = results()
    found, turned = analyse(given), analyse(dataclasses.replace(given, tasks=given.tasks[::-1]))
    for variant in VARIANTS:
        for name, value in found.aggregates[variant].items():
            assert turned.aggregates[variant][name] == pytest.approx(value)
        for task in given.tasks:
            assert turned.tasks[variant][task] == pytest.approx(found.tasks[variant][task])


def test_the_threshold_can_be_given() -> None:
    found = analyse(fabricated.results({"a": [[0.5], [1.0]]}), threshold=0.75)
    assert found.threshold == 0.75
    assert found.efficiency["a"].reached == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        {"a": [[0.5]]},
        {"a": [[0.5, 0.7]], "b": [[0.1, 0.2]]},
        {"a": [[1.0, 1.0]] * 5, "b": [[0.0, 0.0]] * 5},
        {"a": [[1.0], [0.0]], "b": [[0.5]]},
    ],
)
def test_small_results_give_no_warning(values: dict[str, Sequence[Sequence[float]]]) -> None:
    found = analyse(fabricated.results(values))
    assert found.sentences
    assert found.aggregates["a"]["mean"].value == pytest.approx(np.mean(values["a"]))


@pytest.mark.filterwarnings("error")
def test_runs_without_curves() -> None:
    given = fabricated.results({"a": [[0.5], [0.6]]})
    none = Curve(frames=np.array([]), seconds=np.array([]), values={"task-0": np.array([])})
    found = analyse(dataclasses.replace(given, runs=tuple(dataclasses.replace(run, curve=none) for run in given.runs)))
    assert np.isnan(found.threshold)
    assert found.efficiency["a"].reached == 0
    assert np.isnan(found.curves["a"][""].value).all()
