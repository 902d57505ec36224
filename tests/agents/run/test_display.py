"""The display on the terminal, and the rows of the log."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from agents.learning.learner import Counters
from agents.run.metrics import MetricsLog
from agents.run.progress import Display, _LogStep
from agents.run.timing import Clock
from agents.run.trackers.tracker import TrackedRun, Trackers

LIMIT = "limited by the [disk]; try checkpoint_seconds=1380"
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
TASKS = {
    f"BabyAI-GoTo[{colour}]BallNoDistractors-v0": {
        "return": 0.5,
        "success": 0.25,
        "length": 12.5,
        "episodes": 1234,
        "frames": 12345,
        "updates": 98,
    }
    for colour in ("red", "green", "blue")
}
FIGURES: dict[str, Any] = {
    "frames": 1000,
    "updates": 1,
    "seconds": 2.0,
    "frames_per_second": 3.5,
    "limited_by": LIMIT,
    "finished": True,
    "ended_by": "total_frames",
    "tasks": TASKS,
}
ROW: dict[str, float] = {
    **Clock(0.0, Counters(), action_repeat=1).row(Counters(), {"loss/total": -0.071, "loss/entropy": 1.2}),
    "memory/learner": 311,
    **{f"memory/actor-{number}": 203 for number in range(40)},
}


def screen(written: str) -> list[str]:
    """What a terminal that is high enough shows after this output of rich."""
    lines, at = [""], 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            at += 1
            lines += [""] * (at == len(lines))
        elif part == "\x1b[1A":
            at -= 1
        elif part == "\x1b[2K":
            lines[at] = ""
        elif part != "\r" and not part.startswith("\x1b"):
            lines[at] += part
    return [line.rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Standard output is a terminal of 80 x 60."""
    for key, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80", "LINES": "60"}.items():
        monkeypatch.setenv(key, value)
    return monkeypatch


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_finished_run_leaves_its_results_once(
    capsys: pytest.CaptureFixture[str], terminal: pytest.MonkeyPatch, width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    with Display(1000) as display:
        display.banner("mimpala: training in runs/x", {"suite": "babyai, 3 tasks", "frames": "1,000"})
        for frames in (0, 500, 1000):
            display.update(ROW | {"frames": frames}, TASKS, LIMIT)
            display.say(f"event at {frames}")
        display.finish("run=runs/x", FIGURES)
    lines = [line for line in screen(capsys.readouterr().out) if line]
    starts = [line.split()[0] for line in lines]
    assert starts[:6] == ["mimpala:", "suite", "frames", "event", "event", "event"]
    assert starts[6] == "finished:" and starts[7:9] == ["means", "task"] and starts[12] == "mean"
    assert lines[13:] == [LIMIT, "next: python evaluate.py run=runs/x"]
    assert max(map(cell_len, lines)) <= width and len(set(lines)) == len(lines)


@pytest.mark.parametrize("ended_by", ["signal", "pause"])
def test_an_unfinished_run_says_how_it_continues(capsys: pytest.CaptureFixture[str], ended_by: str) -> None:
    with Display(1000) as display:
        display.finish("run=x", FIGURES | {"finished": False, "ended_by": ended_by})
    first, *_, last = capsys.readouterr().out.splitlines()
    assert re.match(TIME + "(interrupted|paused) and saved: 1,000 frames, 1 update in 0:02, 4 frames/s", first)
    assert last == "next: python train.py resume=true run=x"


def test_an_error_clears_the_live_part(capsys: pytest.CaptureFixture[str], terminal: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), Display(1000) as display:
        display.update(ROW, TASKS, LIMIT)
        raise KeyboardInterrupt
    assert not any(screen(capsys.readouterr().out))


def live(width: int, height: int, tasks: dict[str, dict[str, float]], row: dict[str, float] = ROW) -> list[str]:
    """The lines of the live part."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(_LogStep("bar", row, tasks, LIMIT, [0.1, 0.2, 0.9]))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("count", [1, 3, 57])
def test_the_live_part_fits_the_terminal(width: int, count: int) -> None:
    tasks = {f"BabyAI-{number}-GoToTheRedBallNoDistractors-v0": TASKS[next(iter(TASKS))] for number in range(count)}
    row = ROW | {"restarts": 2, "restarts/crash": 2, "unrolls_dropped": 1, "episodes_dropped": 3}
    lines = live(width, 24, tasks, row)
    assert max(map(cell_len, lines)) <= width and len(lines) <= 24
    text = "\n".join(lines)
    assert ("success" in text) == (width > 20) and ("score" in text) is False
    assert ("mean over tasks" in text) == (count > 1 and width > 20)
    assert ("more\n" in text + "\n") == (count == 57)
    shown = [
        line.split("  ")[0]
        for line in lines[lines.index(next(line for line in lines if line.startswith("task"))) + 1 :]
    ]
    assert len(set(shown)) == len(shown)


def test_the_live_part_shows_times_limit_and_course() -> None:
    lines = live(80, 24, TASKS)
    names = ["bar", "speed", "learner", "actors", "memory", "limit", "return", "task"]
    assert [line.split()[0] for line in lines[:8]] == names and lines[-1].startswith("mean over tasks")
    assert "computing" in lines[2] and "waiting" in lines[2] and "disk" in lines[2]
    assert lines[5] == "limit    the [disk]; try checkpoint_seconds=1380"
    assert lines[6] == "return   0.900  ▁▂█"
    assert lines[7].split() == ["task", "return", "success", "length", "episodes", "frames", "updates"]


def test_scores_have_a_column_and_a_line() -> None:
    tasks = {task: values | {"score": 50.0} for task, values in TASKS.items()}
    text = "\n".join(live(80, 24, tasks))
    assert "score    mean 50.0  median 50.0  mean of tasks capped at 100 50.0" in text and "return  score" in text


def test_plain_lines_begin_with_the_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal the bottleneck is shown when it changes."""
    monkeypatch.setattr("agents.run.progress._PLAIN_SECONDS", 0.0)
    with Display(1000) as display:
        for limit in ("limited by [x]; try y", LIMIT, LIMIT):
            display.update(ROW, TASKS, limit)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all(re.match(TIME, line) for line in lines)
    assert [line[21:] for line in lines if "limited" in line] == ["limited by [x]; try y", LIMIT]
    assert lines[0].endswith("return 0.500  success 25.0% (mean of 3 tasks)")


@pytest.mark.parametrize(
    ("tasks", "end"),
    [
        ({"a": {"return": 0.5}}, "return 0.500"),
        ({"a": {"return": 0.5, "success": 1.0}}, "return 0.500  success 100.0%"),
        ({"a": {}}, "0 of 1 task with an episode"),
        ({"a": {"return": 0.5}, "b": {}}, "1 of 2 tasks with an episode"),
    ],
)
def test_the_figures_of_a_plain_line(
    capsys: pytest.CaptureFixture[str], tasks: dict[str, dict[str, float]], end: str
) -> None:
    with Display(1000) as display:
        display.update(ROW | {"frames": 1000}, tasks, LIMIT)
    assert capsys.readouterr().out.endswith(f"left  {end}\n")


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
    with Display(1000) as display:
        display.update(ROW | {"frames": frames, "frames_per_second": 100.0}, TASKS, LIMIT)
    assert f"  {left}  " in capsys.readouterr().out


def test_a_run_without_episodes_has_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(1000) as display:
        display.finish("run=x", FIGURES | {"tasks": {"map": {"episodes": 0, "frames": 7, "updates": 1}}})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[3:5]] == [["task", "episodes", "frames", "updates"], ["map", "0", "7", "1"]]
