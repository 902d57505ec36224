"""`benchmarks.learning`: its command line, its rows from given run folders, and tiny programs as cases. Nothing is measured here."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import eventually, is_gone

from benchmarks.bench_dir import EnvironmentCounts, read_steps, read_success, read_updates
from benchmarks.cases import ROOT
from benchmarks.learning import TASKS, Options, main, make_cases, parse, spread
from benchmarks.learning_runs import Goal, Training, training_row

PYTHON = shlex.quote(sys.executable)
A, B = TASKS[:2]


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
    assert parse([]) == Options(5, TASKS, Goal(0.9, 120.0), {}, ())
    given = parse(
        ["seeds=2", "cases=[a, b]", "learner.passes=2", "limit_seconds=7.5", "env=conditional", "threshold=1"]
    )
    assert given[:3] == (2, ("a", "b"), Goal(1.0, 7.5))
    assert given.overrides == ("learner.passes=2", "env=conditional")
    (case,) = make_cases(parse([f"cases={A}", "learner.passes=2"]))
    assert case.name == A and case.config is not None and case.config.learner.passes == 2
    assert isinstance(case.program, Training)
    assert case.program.keys == [
        *("learner.passes=2", f"env.tasks=[{A}]", "stop_at_success=0.9", "display=false"),
    ]


def test_every_program_runs_on_every_task_and_replaces_common_keys(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    words = [f"cases={A},{B}", "learner.passes=2", "case=new: learner.passes=3", "case=old:"]
    cases = make_cases(
        parse([*words, f"checkout=before: {tmp_path} fusion=mi", f"command=peer: {PYTHON} {{task}} {{seed}}"])
    )
    assert [case.name for case in cases] == [
        f"{name}: {t}" for t in (A, B) for name in ("new", "old", "before", "peer")
    ]
    trainings = [case.program for case in cases if isinstance(case.program, Training)]
    assert [(program.root, program.keys[0]) for program in trainings[:3]] == [
        (ROOT, "learner.passes=3"),
        (ROOT, "learner.passes=2"),
        (tmp_path, "learner.passes=2"),
    ]
    assert f"env.tasks=[{B}]" in trainings[-1].keys and "fusion=mi" in trainings[-1].keys
    assert [case.name for case in make_cases(parse([f"cases={A}", f"checkout=before: {tmp_path}"]))] == [
        *(f"this checkout: {A}", f"before: {A}"),
    ]


PEER = f"command=peer: {PYTHON} {{task}} {{seed}}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seeds=0"], "seeds=0, .* out of range"),
        (["seeds=x"], "seeds, threshold and limit_seconds are numbers"),
        (["threshold=nan"], "threshold=nan, .* out of range"),
        (["threshold=0"], "threshold=0.0, .* out of range"),
        (["limit_seconds=inf"], "limit_seconds=inf are out of range"),
        (["cases=[]"], r"cases=\[\] is no list of different tasks"),
        (["cases=[a,a]"], r"cases=\[a,a\] is no list of different tasks"),
        (["fast"], "fast cannot be read: write key=value"),
        (["seed=3"], "seed=3 is set for every run"),
        (["case=x: env.tasks=[a]"], r"env.tasks=\[a\] is set for every run"),
        (["case=x: core.sise=1"], "core.sise is not a key"),
        (["case=fusion=mi"], 'write case="name: words"'),
        (["case=x:", "case=x: fusion=mi"], 'case="x: ..." is given twice'),
        (["checkout=x: tests"], 'checkout="x: tests" has no train.py'),
        (["case=x:", "checkout=x: ."], "has the name of a case"),
        ([PEER, PEER.replace("peer", "x", 1), f"command=y: {PYTHON} {{task}}"], 'command="y: ..." has no {seed}'),
        ([f"command=x: {PYTHON} {{seed}}"], 'command="x: ..." has no {task}'),
        (["command=x:"], "needs a program"),
        (["command=x: ./no-such-program {task} {seed}"], "./no-such-program is no program"),
        (["case=peer:", PEER], "needs a program and a name that no other case has"),
        ([PEER, "cases=default"], 'cases=default is no task for command="peer: ..."'),
        ([PEER, "limitseconds=3"], "limitseconds=3 is for train.py, which is no case"),
        ([PEER, "pattern=("], "no regular expression"),
        ([PEER, "pattern=(a)"], "pattern= has no group frames"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], process_settings: None, arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert re.match(r"error: .*\n\Z", output.err)
    assert re.search(message, output.err)


def test_the_seconds_of_a_training_are_those_of_its_last_row(tmp_path: Path) -> None:
    def row_of(ended_by: str, seconds: float) -> dict[str, Any]:
        metrics = tmp_path / "metrics.jsonl"
        lines = [{"policy_lag_mean": lag, "policy_lag_max": 2 * lag} for lag in (1.0, 3.0)]
        metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.utime(metrics, (1000 + seconds, 1000 + seconds))
        (tmp_path / "result.json").write_text(json.dumps({"ended_by": ended_by, "frames": 640}), encoding="utf-8")
        return training_row(tmp_path, 1000.0, 0, Goal(0.9, 60.0))

    row = row_of("stop_at_success", 12.5)
    assert (row["reached"], row["seconds"], row["frames"]) == (True, 12.5, 640)
    assert (row["policy_lag_mean"], row["policy_lag_max"]) == (2.0, 6.0)
    for ended_by, seconds in (("stop_at_success", 60.5), ("signal", 60.0), ("total_frames", 20.0)):
        row = row_of(ended_by, seconds)
        assert (row["reached"], row["seconds"], row["frames"], row["frames_played"]) == (False, None, None, 640)
    assert not training_row(tmp_path / "nothing", 1000.0, -15, Goal(0.9, 60.0))["reached"]


def run_rows(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """The printed rows of the benchmark."""
    found = main(arguments)
    output = capsys.readouterr()
    assert found == code, output.err
    return [json.loads(line) for line in output.out.splitlines()]


COUNTS = """
import os, pathlib, struct, subprocess, sys, time
task, seed, pids = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
folder = pathlib.Path(os.environ["BENCH_DIR"])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with pids.open("a") as file:
    file.write(f"{os.getpid()} {child.pid} ")
for name, number in {"steps_a": 600 + seed, "steps_b": 40, "updates": 7 + seed}.items():
    (folder / name).write_bytes(struct.pack("=q", number))
(folder / "episodes").write_bytes(b"0" * 30 + b"1" * (89 + (task != "never")))
time.sleep(600)
"""


def test_a_program_that_counts_in_files_runs_until_the_threshold_and_is_ended(
    capsys: pytest.CaptureFixture[str], process_settings: None, tmp_path: Path
) -> None:
    (tmp_path / "counts.py").write_text(COUNTS)
    pids = tmp_path / "pids"
    words = [f"command={name}: {PYTHON} {tmp_path}/counts.py {{task}} {{seed}} {pids}" for name in ("one", "two")]
    *runs, one, two = run_rows(capsys, *words, "seeds=2", "cases=easy", "limit_seconds=100")
    assert [(row["case"], row["seed"]) for row in runs] == [
        *(("one: easy", 0), ("two: easy", 0), ("one: easy", 1), ("two: easy", 1)),
    ]
    for row in runs:
        assert row["reached"] and 0 < row["seconds"] < 100
        assert (row["frames"], row["updates"], row["success"]) == (640 + row["seed"], 7 + row["seed"], 0.9)
        assert (row["exit_code"], row["error"]) == (None, None)
    for row in (one, two):
        assert (row["seeds"], row["reached"], row["frames_median"], row["updates_median"]) == (2, 2, 640.5, 7.5)
        assert row["seconds_min"] <= row["seconds_median"] <= row["seconds_max"]
        assert row["arguments"][-3:] == ["{task}", "{seed}", str(pids)]
    assert len(pids.read_text().split()) == 8
    # The children end with their program.
    eventually(lambda: all(is_gone(int(pid)) for pid in pids.read_text().split()))

    run, case = run_rows(capsys, words[0], "seeds=1", "cases=never", "limit_seconds=2")
    assert (run["reached"], run["seconds"], run["frames"]) == (False, None, None)
    assert (run["success"], run["frames_played"], run["updates"], run["exit_code"]) == (0.89, 640, 7, None)
    assert (case["reached"], case["seconds_median"], case["updates_median"]) == (0, None, None)


def test_a_program_that_prints_is_read_line_by_line(
    capsys: pytest.CaptureFixture[str], process_settings: None, tmp_path: Path
) -> None:
    """Both lines appear at once; the first one at the threshold counts, and the second one is no longer at it."""
    (tmp_path / "prints.py").write_text(
        "import sys, time\n"
        "print('hello')\n"
        "print('2,000 frames, success 0.95, 12 updates\\n3,000 frames, success 0.20, 18 updates')\n"
        "raise SystemExit(int(sys.argv[2]))\n"
    )
    pattern = r"pattern=(?P<frames>[\d,]+) frames, success (?P<success>[\d.]+)(, (?P<updates>\d+) updates)?"
    words = [f"command=peer: {PYTHON} {tmp_path}/prints.py {{task}} {{seed}}", pattern, "seeds=1", "cases=x"]
    run, _ = run_rows(capsys, *words)
    assert (run["reached"], run["frames"], run["updates"], run["success"]) == (True, 2000, 12, 0.95)
    run, case = run_rows(capsys, *words, "threshold=0.99")
    assert (run["reached"], run["frames_played"], run["exit_code"]) == (False, 3000, 0)
    assert (case["reached"], case["frames_median"]) == (0, None)
    for wrong in (r"pattern=(?P<frames>\w+)(?P<success>lo)", r"pattern=(?P<frames>\d)?hel(?P<success>\w+)"):
        assert main([words[0], wrong, "seeds=1", "cases=x"]) == 2
        assert 'pattern= matches "hello" without numbers' in capsys.readouterr().err


def test_a_program_that_fails_is_named_after_the_other_runs(
    capsys: pytest.CaptureFixture[str], process_settings: None
) -> None:
    fails = f"command=peer: {PYTHON} -c \"print('out of paper'); raise SystemExit(3)\" {{task}} {{seed}}"
    assert main([fails, "seeds=2", "cases=x"]) == 1
    output = capsys.readouterr()
    assert output.err == "error: peer: x with seed 0 ended with exit code 3: out of paper\n"
    *runs, case = map(json.loads, output.out.splitlines())
    assert [(row["reached"], row["error"]) for row in runs] == [(False, "out of paper")] * 2
    assert (case["case"], case["seeds"], case["reached"]) == ("peer: x", 2, 0)


def test_another_checkout_is_run_in_its_folder(
    capsys: pytest.CaptureFixture[str], process_settings: None, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(
        "import json, pathlib, sys\n"
        "keys = dict(word.split('=', 1) for word in sys.argv[1:])\n"
        "assert pathlib.Path.cwd() == pathlib.Path(__file__).parent and keys['fusion'] == 'mi', keys\n"
        "run = pathlib.Path(keys['run'])\n"
        "run.mkdir()\n"
        "(run / 'metrics.jsonl').write_text(json.dumps({'policy_lag_mean': 1, 'policy_lag_max': 2}) + chr(10))\n"
        "result = {'ended_by': 'stop_at_success', 'frames': int(keys['seed']) + 100, 'updates': 5, 'mean': {'success': 1.0}}\n"
        "(run / 'result.json').write_text(json.dumps(result))\n"
    )
    words = f"command=quits: {PYTHON} -c pass {{task}} {{seed}}"
    *runs, before, _ = run_rows(capsys, "seeds=2", f"cases={A}", words, f"checkout=before: {tmp_path} fusion=mi")
    assert [row["case"] for row in runs] == [f"before: {A}", f"quits: {A}"] * 2
    assert (before["reached"], before["frames_median"], before["updates_median"]) == (2, 100.5, 5)
    assert before["arguments"] == [str(tmp_path), "fusion=mi"]


def test_counts_of_several_environments_are_added(tmp_path: Path) -> None:
    assert (read_steps(tmp_path), read_updates(tmp_path), read_success(tmp_path)) == (0, None, None)
    first, second = EnvironmentCounts(tmp_path), EnvironmentCounts(tmp_path)
    for number in range(120):
        first.step()
        second.step()
        if number % 2:
            first.episode(success=True)
            second.episode(success=number >= 80)
    assert read_steps(tmp_path) == 240
    assert read_success(tmp_path) == pytest.approx((50 + 20) / 100)


def test_help_is_the_description(capsys: pytest.CaptureFixture[str], process_settings: None) -> None:
    assert main(["--help"]) == 0
    assert "python -m benchmarks.learning [key=value ...]" in capsys.readouterr().out
