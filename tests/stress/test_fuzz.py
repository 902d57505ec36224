"""tests.stress.fuzz at a small setting."""

from __future__ import annotations

import pytest

from tests.stress import fuzz


@pytest.mark.stress
def test_hostile_files_are_loaded_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # `measure` works in a temporary folder; this restores the working directory.
    monkeypatch.chdir(".")
    *rows, counts = fuzz.measure(["cases=40", "programs=1"])
    assert {row["outcome"] for row in rows} <= {"loaded", "refused"}
    assert len(rows) == 2 * counts["cases"] + counts["programs"] == 81
