"""Commands that train.py refuses with one sentence. tests/test_config.py has the table of invalid configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import TINY, refusal

import train
from envs.suites import SUITES

pytestmark = pytest.mark.usefixtures("process_settings")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["env=nowhere"],
            f"env=nowhere is unknown: choose one of {', '.join(sorted(SUITES))}",
        ),
        (["runtime.inference=server"], "runtime.inference=server needs separate processes"),
        (["env.tasks=[map-99]"], "env.tasks=map-99 is no task"),
        (["env.tasks=[map-0,map]"], "more than once"),
        (["context=instruction"], "context=instruction needs instructions"),
        (["torso=deep"], "torso=deep does not fit"),
        (["laerner.unroll_length=4"], "laerner.unroll_length is not a key"),
        (["learner.epsilon=0"], "learner.epsilon=0.0 is out of range: give a finite number of at least 1e-20"),
        (["learner.batch_size=12"], "learner.batch_size=12 does not fit"),
        (
            ["learner.replay_fraction=0.5", "learner.replay_size=1000000000000"],
            "lower learner.replay_size=1000000000000",
        ),
        (["runtime.slots_per_actor=1"], "without a slot"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run = tmp_path / "run"
    assert message in refusal(capsys, *TINY, f"run={run}", *arguments)
    assert not run.exists()


def test_resume_refuses_a_change_to_a_default_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert train.main([*TINY, f"run={run}", "total_frames=32", "seed=1", "fusion=concat"]) == 0
    capsys.readouterr()
    assert "seed=0 (the run has 1)" in refusal(capsys, f"run={run}", "resume=true", "seed=0")
    assert "fusion.name=film (the run has concat)" in refusal(capsys, f"run={run}", "resume=true", "fusion=film")
    # The same values again are no change.
    again = [f"run={run}", "resume=true", "seed=1", "fusion=concat", "total_frames=64"]
    assert train.main([*TINY, *again]) == 0


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(capsys, *TINY, f"run={tmp_path / 'file' / 'run'}")


@pytest.mark.parametrize(
    "text", ["", "- a list", "env: {name: babyai", "env: {name: nowhere}", "env: {name: conditional}\nx: 1"]
)
def test_a_damaged_config_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert "config.yaml" in refusal(capsys, f"run={tmp_path}", "resume=true")
