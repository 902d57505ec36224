"""The display on the terminal, and the rows of the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.learning.learner import Counters
from agents.run.metrics import MetricsLog
from agents.run.progress import Display
from agents.run.timing import Clock
from agents.run.trackers.tracker import TrackedRun, Trackers

LIMIT = "limited by the [disk]; try checkpoint_seconds=1380"


def test_display_shows_time_shares_and_bottleneck(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Clock(0.0, Counters(), action_repeat=1).row(Counters(), {})
    # Without a terminal, the bottleneck is shown when it changes.
    monkeypatch.setattr("agents.run.progress._PLAIN_SECONDS", 0.0)
    with Display(1000) as display:
        for limit in ("limited by [x]; try y", LIMIT, LIMIT):
            display.update(row, {}, limit)
    out = capsys.readouterr().out
    assert out.count("limited by [x]; try y\n") == 1
    assert out.count(LIMIT) == 1
    # On a terminal, it is shown below the time shares.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with Display(1000) as display:
        display.update(row, {}, "limited by [x]; try y")
    lines = [line for line in capsys.readouterr().out.splitlines() if "waiting" in line or "limited" in line]
    assert "time: learner" in lines[-2] and "disk" in lines[-2]
    assert lines[-1].strip().endswith("limited by [x]; try y")


def test_bottleneck_name_is_logged_to_json_but_not_to_trackers(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0, Trackers(["csv"], TrackedRun(tmp_path, {}, 0), print))
    log.write({"updates": 1.0, "frames": 4.0}, {"task": {"frames": 4.0}}, "disk")
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"updates": 1.0, "frames": 4.0, "tasks/task/frames": 4.0, "limited_by": "disk"}
    assert (tmp_path / "metrics.csv").read_text(
        encoding="utf-8"
    ) == "frames,speed/updates,speed/frames/task\n4,1.0,4.0\n"


@pytest.mark.parametrize(("frames", "left"), [(500, "0:05 left"), (1000, "0:00 left"), (1024, "0:00 left")])
def test_time_left_is_not_negative(capsys: pytest.CaptureFixture[str], frames: int, left: str) -> None:
    row = Clock(0.0, Counters(), action_repeat=1).row(Counters(), {})
    with Display(1000) as display:
        display.update(row | {"frames": frames, "frames_per_second": 100.0}, {}, LIMIT)
    assert f"  {left}  " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"return": 0.5, "success": 0.25}, "return (success) of the last episodes: map 0.500 (25.0%)\n"),
        ({"return": 3.0}, "return of the last episodes: map 3.000\n"),
        ({}, "return of the last episodes: map nan\n"),
    ],
)
def test_result_line_labels_its_figures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, values: dict[str, float], line: str
) -> None:
    figures = {"frames": 7, "updates": 1, "seconds": 2.0, "frames_per_second": 3.5, "limited_by": LIMIT}
    figures |= {"finished": True, "ended_by": "total_frames", "tasks": {"map": values}}
    with Display(1000) as display:
        display.finish(f"run={tmp_path}", figures)
    assert line in capsys.readouterr().out
