"""Human-normalised scores in the reports of runs and evaluations."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.evaluation.episodes import Episode
from agents.evaluation.report import scores
from agents.evaluation.tables import score_tables
from agents.learning.learner import Counters
from agents.run.metrics import MetricsLog, Statistics, scores_of_suite
from agents.run.progress import Display
from agents.run.timing import Clock
from agents.run.trackers.tracker import TrackedRun, Trackers
from envs.conditional.suite import ConditionalConfig
from envs.spec import Score
from envs.suites import make_spec

SCORES = {"map-0": Score(random=10.0, human=30.0), "map-1": Score(random=-20.0, human=0.0)}
SPEC = replace(make_spec(ConditionalConfig(tasks=list(SCORES))), scores=SCORES)


def ended(task: int, *returns: float) -> dict[str, torch.Tensor]:
    """A batch of one column in which these episodes of a task end."""
    steps = len(returns)
    column = torch.tensor(returns).unsqueeze(1)
    return {
        "task": torch.full((steps + 1, 1), task, dtype=torch.int32),
        "mask": torch.ones(steps, 1, dtype=torch.bool),
        "interrupted": torch.zeros(steps, 1, dtype=torch.bool),
        "episode_return": column,
        "success": torch.full_like(column, math.nan),
        "episode_length": torch.ones(steps, 1, dtype=torch.int32),
    }


def test_suite_score_needs_a_score_of_every_task() -> None:
    assert scores_of_suite({"a": {"score": 50.0}, "b": {"frames": 3.0}}) == {}
    assert scores_of_suite({}) == {}
    found = scores_of_suite({"a": {"score": 50.0}, "b": {"score": 250.0}})
    assert found == {"mean": 150.0, "median": 150.0, "mean_capped": 75.0}


def test_training_reports_the_score_of_mean_returns(tmp_path: Path) -> None:
    statistics = Statistics(tuple(SCORES), SCORES)
    statistics.update(ended(0, 50.0, 70.0))
    assert "score" not in statistics.summary(1)["map-1"]
    statistics.update(ended(1, -40.0, 40.0))
    summary = statistics.summary(1)
    assert (summary["map-0"]["score"], summary["map-1"]["score"]) == (250.0, 100.0)
    assert "score" not in Statistics(tuple(SCORES)).summary(1)["map-0"]
    log = MetricsLog(tmp_path, 0, Trackers((), TrackedRun(tmp_path, {}, 0), print))
    log.write({"updates": 1.0, "frames": 8.0}, summary, "learner")
    log.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8"))
    assert {key: value for key, value in line.items() if "score" in key} == {
        "tasks/map-0/score": 250.0,
        "tasks/map-1/score": 100.0,
        "score/mean": 175.0,
        "score/median": 175.0,
        "score/mean_capped": 100.0,
    }


@pytest.mark.parametrize("terminal", [False, True])
def test_display_shows_scores_if_the_suite_has_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "200")
    task = {"return": 60.0, "length": 3.0, "episodes": 2, "frames": 9, "updates": 1}
    figures = {"frames": 7, "updates": 1, "seconds": 2.0, "frames_per_second": 3.5, "limited_by": "x"}
    figures |= {"finished": True, "ended_by": "total_frames"}
    for shown in ({"map": task}, {"map": task | {"score": 250.0}}):
        with Display(1000) as display:
            display.update(Clock(0.0, Counters(), action_repeat=1).row(Counters(), {}), shown, "limit")
            display.finish(f"run={tmp_path}", figures | {"tasks": shown})
        out = capsys.readouterr().out
        assert ("mean 250.0, median 250.0, mean-capped 100.0" in out) == ("score" in shown["map"])


def test_an_evaluation_has_scores_with_intervals() -> None:
    rng = np.random.default_rng(0)
    returns = {"map-0": rng.normal(60, 10, 40), "map-1": rng.normal(-10, 10, 40)}
    played = {task: [Episode(0, float(value), 1, math.nan) for value in values] for task, values in returns.items()}
    found = scores(SPEC, played)
    one, other = 100 * (returns["map-0"].mean() - 10) / 20, 100 * (returns["map-1"].mean() + 20) / 20
    assert found["tasks"]["map-0"]["score"] == pytest.approx(one)
    aggregate = found["aggregate"]
    assert aggregate["mean"]["score"] == aggregate["median"]["score"] == pytest.approx((one + other) / 2)
    assert aggregate["mean_capped"]["score"] == pytest.approx((100 + other) / 2)
    for row in (*found["tasks"].values(), *aggregate.values()):
        low, high = row["interval"]
        assert low < row["score"] < high
    # The first task is capped at 100 in every sample and has no spread, so the mean has half the spread of the other.
    capped, alone = (np.diff(row["interval"])[0] for row in (aggregate["mean_capped"], found["tasks"]["map-1"]))
    # The interval of a single task is wider.
    assert capped == pytest.approx(alone / 2, rel=0.12)
    assert capped < alone / 2
    (table,) = score_tables({"scores": found})
    assert len(table.rows) == 2 + 3


def test_evaluation_without_human_returns_has_no_scores() -> None:
    spec = make_spec(ConditionalConfig(tasks=["map-0"]))
    assert spec.scores
    assert scores(spec, {"map-0": [Episode(0, 1.0, 1, 1.0)]}) == {}
    assert score_tables({"scores": {}}) == []
