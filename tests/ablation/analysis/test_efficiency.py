"""Learning curves and paces against values computed by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import fabricated
import numpy as np
import pytest

from ablation.analysis.analysis import analyse
from ablation.analysis.efficiency import (
    PACES,
    area,
    common_frames,
    comparable_paces,
    curves,
    default_threshold,
    efficiency,
    horizon,
    interpolate,
    mean_over_tasks,
)
from ablation.analysis.results import Curve, Measure, Results, Run
from ablation.analysis.statistics import compare

NAN = float("nan")
RETURN = Measure(name="return", label="return", best=None)


def curve(frames: Sequence[float], **values: Sequence[float]) -> Curve:
    points = np.array(frames, float)
    return Curve(
        frames=points, seconds=points / 10, values={task: np.array(line, float) for task, line in values.items()}
    )


def results(measure: Measure = fabricated.SUCCESS, **variants: Sequence[Curve]) -> Results:
    runs: list[Run] = []
    for variant, its_curves in variants.items():
        for seed, each in enumerate(its_curves):
            values: Mapping[str, float] = dict.fromkeys(each.values, 0.5)
            runs.append(dataclasses.replace(fabricated.run(variant, seed, values), curve=each))
    tasks = tuple(next(iter(variants.values()))[0].values)
    return Results(suite="s", measure=measure, tasks=tasks, variants=tuple(variants), runs=tuple(runs))


RISING = curve([100, 200, 300, 400], x=[0, 0.2, 0.6, 0.8], y=[NAN, 0.4, 0.6, 1.0])
"""Mean over tasks: nan, 0.3, 0.6, 0.9."""
FLAT = curve([100, 200, 300, 400], x=[0.1] * 4, y=[0.1] * 4)


def test_a_mean_over_tasks_starts_with_the_last_task() -> None:
    assert mean_over_tasks(RISING, ("x", "y")) == pytest.approx([NAN, 0.3, 0.6, 0.9], nan_ok=True)


def test_a_curve_at_other_frames_is_interpolated_and_not_extrapolated() -> None:
    line = RISING.values["y"]
    found = interpolate(np.array([0, 150, 200, 250, 400, 401.0]), RISING.frames, line)
    assert found == pytest.approx([NAN, NAN, 0.4, 0.5, 1.0, NAN], nan_ok=True)
    assert np.isnan(interpolate(np.array([1.0, 2.0]), RISING.frames, np.full(4, NAN))).all()


def test_area_by_trapezia() -> None:
    """0.3 up to frame 200, then 0.45 and 0.75 for 100 frames each."""
    assert area(RISING.frames, mean_over_tasks(RISING, ("x", "y"))) == pytest.approx((60 + 45 + 75) / 400)
    assert np.isnan(area(RISING.frames, np.full(4, NAN)))
    assert np.isnan(area(np.array([]), np.array([])))


def test_a_run_below_the_threshold_has_infinite_frames() -> None:
    found = efficiency(results(a=[RISING, FLAT, RISING]), "a", 0.6)
    assert found.frames_to.tolist() == [300, np.inf, 300]
    assert found.seconds_to.tolist() == [30, np.inf, 30]
    assert (found.reached, found.frames_to_median, found.seconds_to_median) == (2, 300, 30)
    half = efficiency(results(a=[RISING, FLAT]), "a", 0.6)
    assert (half.reached, half.frames_to_median) == (1, np.inf)
    none = efficiency(results(a=[FLAT, FLAT]), "a", 0.6)
    assert (none.reached, none.frames_to_median) == (0, np.inf)


def test_a_run_without_a_value_on_some_task_has_infinite_frames_and_no_area() -> None:
    blank = curve([100, 200], x=[0.9, 0.9], y=[NAN, NAN])
    found = efficiency(results(a=[RISING, blank]), "a", 0.5)
    assert found.reached == 1
    assert found.area == (pytest.approx(0.45), None, None)
    alone = efficiency(results(a=[blank]), "a", 0.5)
    assert np.isnan(alone.area.value) and alone.area.low is None


def test_the_threshold_is_a_share_of_the_best_variants_gain() -> None:
    found = results(a=[RISING, FLAT], b=[FLAT, FLAT])
    assert default_threshold(found) == pytest.approx(0.9 * 0.5)
    raw = results(
        RETURN,
        a=[curve([1, 2], x=[-20, -10]), curve([1, 2], x=[-16, -10])],
        b=[curve([1, 2], x=[-30, -20]), curve([1, 2], x=[-30, -30])],
    )
    assert default_threshold(raw) == pytest.approx(-30 + 0.9 * 20)
    assert np.isnan(default_threshold(results(a=[curve([], x=[])])))


def test_without_learning_no_run_reaches_the_threshold() -> None:
    found = results(a=[curve([1, 2], x=[0, 0]), curve([1, 2], x=[0, 0])])
    assert np.isnan(default_threshold(found))
    assert efficiency(found, "a", default_threshold(found)).reached == 0


def test_curves_at_common_frames() -> None:
    short = curve([100, 200, 250], x=[0, 0.2, 0.4], y=[0, 0.2, 0.4])
    found = results(a=[RISING, FLAT], b=[RISING, short])
    frames = common_frames(found)
    assert (frames[0], frames[-1], len(frames)) == (0, 400, 101)
    ours, theirs = curves(found, "a", frames), curves(found, "b", frames)
    assert list(ours) == ["", "x", "y"]
    place = int(np.flatnonzero(frames == 300)[0])
    assert ours[""].value[place] == pytest.approx((0.6 + 0.1) / 2)
    assert ours[""].low[place] < ours[""].value[place] < ours[""].high[place]
    assert np.isnan(ours[""].value[frames < 200]).all() and np.isfinite(ours[""].value[frames >= 200]).all()
    assert np.isfinite(ours["x"].value[frames >= 100]).all()
    # One run of b ends at 250; beyond it, a mean would be over fewer runs.
    assert (
        np.isnan(theirs["x"].value[frames > 250]).all()
        and np.isfinite(theirs["x"].value[(frames >= 100) & (frames <= 250)]).all()
    )


def test_a_curve_of_one_run_has_no_interval() -> None:
    found = results(a=[RISING])
    band = curves(found, "a", common_frames(found))["x"]
    assert np.isfinite(band.value[-1]) and np.isnan(band.low).all() and np.isnan(band.high).all()


def test_speed_over_runs() -> None:
    found = results(a=[FLAT, FLAT, FLAT])
    runs = [
        dataclasses.replace(run, frames_per_second=speed)
        for run, speed in zip(found.runs, (90.0, 100.0, 110.0), strict=True)
    ]
    speed = efficiency(dataclasses.replace(found, runs=tuple(runs)), "a", 0.5).frames_per_second
    assert speed.value == pytest.approx(100)
    assert speed.low is not None and 0 <= speed.low < 100


def test_times_to_the_threshold_are_cut_where_the_shortest_run_ends() -> None:
    """A run that reaches the threshold later or never counts as reaching it at that point."""
    longer = curve([100, 200, 300, 400, 500], x=[0, 0.2, 0.3, 0.4, 0.8], y=[NAN, 0.4, 0.5, 0.6, 1.0])
    found = results(a=[RISING, FLAT], b=[longer])
    assert horizon(found) == (400, 40)
    values = comparable_paces(found, 0.6)
    assert list(values) == list(PACES)
    assert values["frames_to"]["a"].tolist() == [300, 400] and values["frames_to"]["b"].tolist() == [400]
    assert values["seconds_to"]["a"].tolist() == [30, 40] and values["seconds_to"]["b"].tolist() == [40]
    assert values["area"]["a"] == pytest.approx([180 / 400, 0.1])
    assert values["frames_per_second"]["b"].tolist() == [2000.0]
    assert efficiency(found, "b", 0.6).frames_to.tolist() == [500]


def test_paces_are_compared_as_means_are() -> None:
    late = curve([100, 200, 300, 400], x=[0, 0, 0, 0.8], y=[NAN, 0, 0, 1.0])
    found = results(a=[RISING, RISING, late], b=[late, late, RISING])
    expected = analyse(found, threshold=0.6).paces
    assert set(expected) == set(PACES)
    for name, pairs in expected.items():
        assert pairs == compare(comparable_paces(found, 0.6)[name])
    (pair,) = expected["frames_to"]
    assert pair.difference.value == pytest.approx((300 + 300 + 400) / 3 - (400 + 400 + 300) / 3)
    assert not pair.claimed


def test_a_variant_without_a_curve_has_no_pace() -> None:
    empty = curve([], x=[], y=[])
    found = results(a=[RISING, FLAT], b=[empty, empty])
    assert set(analyse(found, threshold=0.6).paces) == {"frames_per_second"}
    assert analyse(results(a=[RISING, FLAT]), threshold=0.6).paces == {}
    assert horizon(results(a=[empty])) == (np.inf, np.inf)
