"""tests.stress.kills at a small setting: each case once."""

from __future__ import annotations

import pytest

from tests.stress import kills

pytestmark = pytest.mark.stress


@pytest.mark.parametrize(("case", "number"), [("actors", 3), ("tree", 1), ("signals", 1)])
def test_a_training_survives_kills(case: str, number: int) -> None:
    (row,) = kills.measure([f"cases={case}", f"kills={number}", "seconds=2"])
    assert row["ok"], row
