"""Results as rliable and marl-eval read them. The tests with these libraries are skipped where they are not installed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import results, run

from ablation.analysis.analysis import analyse
from ablation.analysis.results import Measure, Results
from ablation.analysis.statistics import interquartile_mean, optimality_gap
from ablation.report.exchange import marl_eval_scores, rliable_scores
from ablation.report.report import write_report

VALUES = {"mi": [[0.9, 0.8, 0.7], [0.6, 0.95, 0.5]], "film sites=[a, b]": [[0.2, 0.3, 0.4], [0.1, 0.5, 0.25]]}
RESULTS = results(VALUES)
HUMAN = Measure(name="score", label="score", best=100.0, floor=0.0)


def restored(content: Any) -> Any:
    """The content after a way through a file. JSON has no NaN."""
    return json.loads(json.dumps(content, allow_nan=False))


def test_rliable_scores_are_runs_by_tasks() -> None:
    assert restored(rliable_scores(RESULTS)) == VALUES


def test_scores_are_1_where_the_reference_agent_is() -> None:
    scores = results({"mi": [[50.0, 100.0]]}, measure=HUMAN)
    assert rliable_scores(scores) == {"mi": [[0.5, 1.0]]}
    found = marl_eval_scores(scores)["fabricated"]["task-0"]["mi"]["0"]
    assert found["absolute_metrics"] == {"score": [0.5]} and found["step_101"]["score"] == [0.5]
    returns = results({"mi": [[50.0]]}, measure=Measure(name="return", label="return", best=None))
    assert rliable_scores(returns) == {"mi": [[50.0]]}


def test_marl_eval_scores_have_curves_and_evaluation() -> None:
    found = restored(marl_eval_scores(RESULTS))
    assert list(found) == ["fabricated"] and list(found["fabricated"]) == ["task-0", "task-1", "task-2"]
    # Its names must have no commas.
    assert list(found["fabricated"]["task-1"]) == ["mi", "film sites=[a; b]"]
    history = found["fabricated"]["task-1"]["mi"]["1"]
    assert history.pop("absolute_metrics") == {"success": [0.95]}
    # The fabricated curve rises linearly from 0 in 100,000 frames.
    assert len(history) == 101
    for number in (1, 51, 101):
        step = history[f"step_{number}"]
        assert step["step_count"] == 1000 * (number - 1)
        assert step["success"] == [pytest.approx(0.95 * step["step_count"] / 100_000)]


def with_runs(*runs: Any) -> Results:
    return dataclasses.replace(results({"mi": [[0.5]], "film": [[0.5]]}), runs=runs)


def test_marl_eval_takes_the_seeds_and_frames_that_all_variants_have() -> None:
    late = run("film", 1, {"task-0": 0.4})
    late.curve.values["task-0"][:10] = np.nan  # type: ignore[index]
    content = with_runs(run("mi", 0, {"task-0": 0.5}), run("mi", 1, {"task-0": 0.5}), late)
    tasks = marl_eval_scores(content)["fabricated"]
    assert {name: list(seeds) for name, seeds in tasks["task-0"].items()} == {"mi": ["1"], "film": ["1"]}
    steps = [list(seeds["1"]) for seeds in tasks["task-0"].values()]
    assert steps[0] == steps[1] and 40 < len(steps[0]) < 60
    first = tasks["task-0"]["mi"]["1"]["step_1"]["step_count"]
    assert first >= 100_000 * 10 / 19 > first - 2000
    # rliable takes any number of runs.
    assert rliable_scores(content) == {"mi": [[0.5], [0.5]], "film": [[0.4]]}


def test_without_a_common_seed_or_curve_there_is_nothing_for_marl_eval() -> None:
    assert marl_eval_scores(with_runs(run("mi", 0, {"task-0": 0.5}), run("film", 1, {"task-0": 0.5}))) == {}
    assert marl_eval_scores(with_runs(*(run(name, 0, {"task-0": 0.5}, steps=0) for name in ("mi", "film")))) == {}


def test_the_report_has_both_files(tmp_path: Path) -> None:
    write_report(RESULTS, analyse(RESULTS), tmp_path)
    for name, make in (("rliable", rliable_scores), ("marl_eval", marl_eval_scores)):
        content = json.loads((tmp_path / "data" / f"{name}.json").read_text(encoding="utf-8"))
        assert content == restored(make(RESULTS)) and content


def test_rliable_reads_its_file() -> None:
    library = pytest.importorskip("rliable.library", reason="rliable is not installed (pip install rliable 'pandas<3')")
    metrics = pytest.importorskip("rliable.metrics")
    scores = {name: np.array(rows) for name, rows in restored(rliable_scores(RESULTS)).items()}

    def both(values: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(values), metrics.aggregate_optimality_gap(values)])

    found, _ = library.get_interval_estimates(scores, both, reps=50)
    for name in VALUES:
        matrix = RESULTS.matrix(name)
        np.testing.assert_allclose(found[name], [interquartile_mean(matrix), optimality_gap(matrix, 1.0)])


def test_marl_eval_reads_its_file() -> None:
    tools = pytest.importorskip(
        "marl_eval.utils.data_processing_utils", reason="marl-eval is not installed (pip install id-marl-eval)"
    )
    processed = tools.data_process_pipeline(restored(marl_eval_scores(RESULTS)), [])
    final, curves = tools.create_matrices_for_rliable(processed, "fabricated", [])
    assert processed["extra"]["number_of_runs"] == 2 and processed["extra"]["number_of_steps"] == 101
    for name in VALUES:
        np.testing.assert_allclose(final["mean_success"][name.replace(",", ";")], RESULTS.matrix(name))
        curve = curves["mean_success"][name.replace(",", ";")]
        assert curve.shape == (2, 3, 101)
        np.testing.assert_allclose(curve[:, :, 50], RESULTS.matrix(name) / 2)
