"""tests.stress.kills at a small setting: each case once."""

from __future__ import annotations

import pytest

from tests.stress import kills

pytestmark = pytest.mark.stress


@pytest.mark.parametrize(("case", "number", "seconds"), [("actors", 2, 1), ("tree", 2, 1), ("signals", 1, 4)])
def test_a_training_survives_kills(case: str, number: int, seconds: int) -> None:
    (row,) = kills.measure([f"cases={case}", f"kills={number}", f"seconds={seconds}", "frames=5000"])
    assert row["ok"], row
