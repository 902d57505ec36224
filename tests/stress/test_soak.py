"""tests.stress.soak for 12 seconds with a small suite: too short for the limit on growth of memory, because allocators still warm up."""

from __future__ import annotations

import pytest

from tests.stress import soak

MOST_GROWTH = 0.1


@pytest.mark.stress
def test_a_training_keeps_its_memory_and_ends_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "LOG_SECONDS", 0.2)
    (row,) = soak.measure(["minutes=0.2", "warm=0.1", "env=conditional", "runtime.num_actors=1"])
    assert row["growth_max"] < MOST_GROWTH
    assert row["silence_max"] < soak.MOST_SILENCE
    assert (row["restarts"], row["exit_code"], row["processes_left"], row["saved"]) == (0, 130, 0, True), row
    assert row["ending_seconds"] < soak.END_SECONDS
