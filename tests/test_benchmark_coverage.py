"""`python -m benchmarks.coverage` prints its documented rows, the same every time, and refuses bad input.

tests/ablation checks the values.
"""

from __future__ import annotations

import json

import pytest

from benchmarks import coverage

pytestmark = pytest.mark.usefixtures("process_settings")

SHORT = ["simulations=5", "runs=3", "tasks=1,3", "variants=3"]


def test_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert coverage.main(SHORT) == 0
    first = capsys.readouterr().out
    rows = [json.loads(line) for line in first.splitlines()]
    numbers = {case: sum(row["case"] == case for row in rows) for case in coverage.CASES}
    # Tuning: 2 ways to choose, 2 gaps.
    # Intervals: 2 kinds of scores, 1 setting of one task and 4 of three tasks, 4 aggregates. Improvement: 2 shifts, 1 + 2 correlations.
    assert numbers == {"intervals": 2 * (1 + 4) * 4, "improvement": 2 * (1 + 2), "verdict": 2 * 5, "tuning": 4}
    assert all(0 <= row["coverage"] <= 1 for row in rows if row["case"] in ("intervals", "improvement"))
    assert all(0 <= row["false_claims"] <= 1 for row in rows if row["case"] == "tuning")
    assert all(
        0 <= row["false_claims"] <= 1 and row["power"] <= row["found"] <= 1 for row in rows if row["case"] == "verdict"
    )
    assert coverage.main(SHORT) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["cases=x"], "cases"), (["total_frames=1"], "total_frames"), (["simulations=0"], "simulations")],
)
def test_bad_input(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert coverage.main(arguments) == 2
    assert word in capsys.readouterr().err
