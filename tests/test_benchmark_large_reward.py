"""`python -m benchmarks.large_reward` prints its documented rows, and the growth of sigma is bounded."""

from __future__ import annotations

import json

import pytest

from benchmarks import large_reward

pytestmark = pytest.mark.usefixtures("process_settings")

SMALL = [
    *("case=c: env=conditional env.tasks=[map-0] learner.reward_transform=none", "runtime.slots_per_actor=8"),
    *("core.size=8", "fusion.size=8", "torso.hidden=[8]", "seeds=1", "at=5", "updates=40", "window=10"),
]


@pytest.mark.slow
def test_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert large_reward.main(SMALL) == 0
    row, means = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["case"], row["seed"], row["size"], row["at"], row["window"]) == ("c", 0, 10_000, 5, 10)
    assert means["seeds"] == 1
    for key in ("undisturbed", "control", "disturbed", "control_ratio", "ratio"):
        assert len(row[key]) == 4 and means[key] == row[key]
    # It is 100 with the published update of PopArt.
    assert max(row["sigma_growth"]) < 1.1


def test_recovered_is_the_end_of_the_first_good_window() -> None:
    assert large_reward.recovered([1, 1, 1], [0, 1, 1], 50) == 100
    assert large_reward.recovered([1, 1, 1], [1, 1, 0.5], 50) is None


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert large_reward.main(["size=0"]) == 2 and "size" in capsys.readouterr().err
