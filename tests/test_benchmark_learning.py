"""`benchmarks.learning`: its command line, and its rows from given run folders. Nothing is measured here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning import CASES, Options, outcome, parse, spread
from system.errors import InputError


@pytest.mark.parametrize(
    ("values", "median", "least", "most"),
    [
        ([3.0, 1.0, 2.0], 2.0, 1.0, 3.0),
        ([3.0, None, 2.0], 3.0, 2.0, None),
        ([None, None, 2.0], None, 2.0, None),
        ([4.0, None], None, 4.0, None),
        ([None], None, None, None),
    ],
)
def test_failed_runs_count_as_the_slowest(
    values: list[float | None], median: float | None, least: float | None, most: float | None
) -> None:
    assert spread("x", values) == {"x_median": median, "x_min": least, "x_max": most}


def test_other_keys_are_passed_to_train() -> None:
    assert parse([]) == Options(5, CASES, 0.9, 120.0, ())
    given = parse(
        ["seeds=2", "cases=[a, b]", "learner.passes=2", "limit_seconds=7.5", "env=conditional", "threshold=1"]
    )
    assert given == Options(2, ("a", "b"), 1.0, 7.5, ("learner.passes=2", "env=conditional"))
    for wrong in (
        "seeds=0",
        "seeds=x",
        "threshold=nan",
        "threshold=0",
        "limit_seconds=inf",
        "cases=[]",
        "cases=[a,a]",
        "seed=3",
    ):
        with pytest.raises(InputError):
            parse([wrong])


def test_the_seconds_of_a_run_are_those_of_its_last_row(tmp_path: Path) -> None:
    options = Options(1, ("a",), 0.9, 60.0, ())

    def row_of(ended_by: str, seconds: float) -> dict[str, Any]:
        metrics = tmp_path / "metrics.jsonl"
        lines = [{"policy_lag_mean": lag, "policy_lag_max": 2 * lag} for lag in (1.0, 3.0)]
        metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.utime(metrics, (1000 + seconds, 1000 + seconds))
        (tmp_path / "result.json").write_text(json.dumps({"ended_by": ended_by, "frames": 640}), encoding="utf-8")
        return outcome("a", 0, tmp_path, 1000.0, 0, options)

    row = row_of("stop_at_success", 12.5)
    assert (row["reached"], row["seconds"], row["frames"]) == (True, 12.5, 640)
    assert (row["policy_lag_mean"], row["policy_lag_max"]) == (2.0, 6.0)
    for ended_by, seconds in (("stop_at_success", 60.5), ("signal", 60.0), ("total_frames", 20.0)):
        row = row_of(ended_by, seconds)
        assert (row["reached"], row["seconds"], row["frames"], row["frames_played"]) == (False, None, None, 640)
    assert not outcome("a", 0, tmp_path / "nothing", 1000.0, -15, options)["reached"]
