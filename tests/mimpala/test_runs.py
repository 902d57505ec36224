"""`mimpala runs`: the list of run folders, and the comparison of two."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from run_folders import change, write_run

from agents.run.lock import sole_writer
from mimpala import runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One run in each state that files alone can show."""
    top = tmp_path / "runs"
    write_run(top / "finished", "fusion=mi", "seed=3", returns=0.8)
    write_run(top / "grid" / "interrupted")
    change(top / "grid" / "interrupted" / "result.json", finished=False, ended_by="signal")
    write_run(top / "paused")
    change(top / "paused" / "result.json", finished=False, ended_by="pause")
    write_run(top / "failed")
    change(top / "failed" / "result.json", finished=False, ended_by="error")
    write_run(top / "stopped")
    (top / "stopped" / "result.json").unlink()
    (top / "stopped" / "evaluation.json").unlink()
    write_run(top / "unreadable")
    change(top / "unreadable" / "evaluation.json", tasks={"map-0": {"episodes": -1}})
    shutil.copytree(top / "finished", top / "damaged")
    (top / "damaged" / "config.yaml").write_text("env: {name: [", encoding="utf-8")
    (top / "other").mkdir()
    (top / "other" / "config.yaml").write_text("site_name: docs\n", encoding="utf-8")
    return top


def test_every_state_is_told(folder: Path) -> None:
    with sole_writer(folder / "stopped"):
        running = {one.folder.name: one.state for one in runs.find_runs([str(folder)])}
    found = {one.folder.name: one for one in runs.find_runs([str(folder)])}
    states = {name: one.state for name, one in found.items()}
    own = ("finished", "interrupted", "paused", "failed", "stopped", "damaged")
    assert states == {name: name for name in own} | {"unreadable": "finished"}
    assert running == states | {"stopped": "running"}
    assert {name for name, one in found.items() if one.problem} == {"damaged", "unreadable"}
    one = found["finished"]
    assert (one.frames, one.total_frames, one.seconds, one.parameters) == (896, 1000, 2.0, 99)
    assert (one.training, one.evaluation) == (None, ("success", 0.4))
    assert found["stopped"].evaluation is found["unreadable"].evaluation is None


def test_a_run_that_was_continued_and_killed_is_not_finished(tmp_path: Path) -> None:
    """Its result.json is still that of its earlier end."""
    run = write_run(tmp_path / "a")
    change(run / "result.json", ended_by="total_frames", frames=1024)

    def state() -> str:
        (one,) = runs.find_runs([str(run)])
        return one.state

    assert state() == "finished"
    config = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(config.replace("total_frames: 1000", "total_frames: 2000"), encoding="utf-8")
    assert state() == "stopped"
    # A run that reached its threshold has fewer frames.
    change(run / "result.json", ended_by="stop_at")
    assert state() == "finished"
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"updates": 8, "frames": 1100}) + "\n")
    assert state() == "stopped"
    (one,) = runs.find_runs([str(run)])
    assert (one.frames, one.seconds, one.parameters) == (1100, None, 99)


@pytest.mark.parametrize(
    "config",
    [
        "env: {name: 2020-01-01}\nfusion: {name: mi}\nseed: 0\ntotal_frames: 1\n",
        "env: {name: x}\nfusion: 1\nseed: 0\ntotal_frames: 1\n",
        "env: {name: x}\nfusion: {name: mi}\nseed: 2020-01-01\ntotal_frames: -1\n",
        "env: &a {name: x}\nfusion: *a\n",
        "env: !!python/object/apply:os.system [ls]\nfusion: 1\n",
        "env: [\nfusion",
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_hostile_configuration_is_one_sentence(
    tmp_path: Path, config: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    assert runs.main([str(tmp_path), *flags]) == 0
    output, errors = capsys.readouterr()
    problem = json.loads(output)[0]["problem"] if flags else errors.rstrip("\n")
    assert problem.startswith(str(tmp_path / "config.yaml")) and "\n" not in problem
    assert "damaged" in output


def test_a_huge_return_is_short(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    (run / "metrics.jsonl").write_text('{"updates": 7, "frames": 9, "mean/return": -1e300}\n', encoding="utf-8")
    (one,) = runs.find_runs([str(run)])
    assert str(one.training) == "return -1e+300"


def test_the_newest_log_step_and_scores_are_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    step = {"updates": 7, "frames": 500, "mean/return": 3.0, "mean/success": 0.25, "score/mean": 41.26}
    (run / "metrics.jsonl").write_text(json.dumps(step) + "\n", encoding="utf-8")
    change(run / "evaluation.json", scores={"aggregate": {"mean": {"score": 57.6, "interval": None}}})
    (one,) = runs.find_runs([str(run)])
    assert (str(one.training), str(one.evaluation)) == ("score 41.3", "score 57.6")


@pytest.mark.parametrize(
    "scores", [[], {"aggregate": 3}, {"aggregate": {"mean": "x"}}, {"aggregate": {"mean": {"score": 1e999}}}]
)
def test_odd_scores_are_passed_over(tmp_path: Path, scores: object) -> None:
    run = write_run(tmp_path / "a")
    change(run / "evaluation.json", scores=scores)
    (one,) = runs.find_runs([str(run)])
    assert one.evaluation == ("success", 0.25)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_list_fits_the_terminal(folder: Path, width: int) -> None:
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=False)
    console.print(runs.list_table(list(runs.find_runs([str(folder)]))))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("stopped" in line for line in lines) == 1
    assert ("fusion" in output.getvalue()) == (width == 200)


def test_the_program_lists_and_explains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main([str(folder)]) == 0
    output, errors = capsys.readouterr()
    assert "7 runs" in output and "conditional" in output and "success 40.0%" in output
    assert errors.count("\n") == 2 and "unreadable" in errors and "cannot be read as YAML" in errors
    assert runs.main(["--json", str(folder / "finished"), str(folder / "grid")]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {(row["state"], row["fusion"], row["seed"]) for row in listed} == {
        ("finished", "mi", 3),
        ("interrupted", "gated", 0),
    }


def test_two_runs_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main(["diff", str(folder / "finished"), str(folder / "paused")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    first = lines.index(["keys", "that", "differ", str(folder / "finished"), str(folder / "paused")])
    assert lines[first + 1 : first + 3] == [["fusion.name", "mi", "gated"], ["seed", "3", "0"]]
    assert ["state", "finished", "paused"] in lines and ["parameters", "99", "99"] in lines
    assert runs.main(["diff", "--json", str(folder / "finished"), str(folder / "paused")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["keys"] == {"fusion.name": ["mi", "gated"], "seed": [3, 0]}
    assert [figures["state"] for figures in found["figures"]] == ["finished", "paused"]


def test_equal_runs_and_empty_folders(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main(["diff", str(folder / "paused"), str(folder / "stopped")]) == 0
    assert capsys.readouterr().out.startswith("no key differs\n")
    (tmp_path / "empty").mkdir()
    assert runs.main([str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == f"no run in {tmp_path / 'empty'}\n"
    assert runs.main(["--json", str(tmp_path / "empty")]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_small_differences_and_long_values_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a", "learner.entropy_cost=0.003300000001")
    write_run(tmp_path / "b", "learner.entropy_cost=0.0033")
    for name, task in (("a", "map-7"), ("b", "map-8")):
        path = tmp_path / name / "config.yaml"
        tasks = [*(f"memory-{number}" for number in range(9)), task, *(f"map-{number}" for number in range(6))]
        text = path.read_text(encoding="utf-8").replace("  - map-0\n  - map-1\n", "".join(f"  - {t}\n" for t in tasks))
        path.write_text(text, encoding="utf-8")
    output = io.StringIO()
    monkeypatch.setattr(runs, "TextConsole", lambda: Console(file=output, width=80))
    assert runs.main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    shown = output.getvalue()
    assert "0.003300000001" in shown and "map-7" in shown and "map-8" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "/nowhere is no folder"),
        (["diff", "/nowhere"], "give two run folders"),
        (["diff", "/nowhere", "/nowhere"], "/nowhere is no run that can be read"),
        (["--jsno"], "--jsno is unknown"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_nothing_that_a_run_names_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "finished" / "config.yaml"
    content = path.read_text(encoding="utf-8")
    assert "plugins: []" in content
    path.write_text(content.replace("plugins: []", "plugins: [evil]"), encoding="utf-8")
    (folder / "evil.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    states = {one.folder.name: one.state for one in runs.find_runs([str(folder)])}
    assert states["finished"] == "finished"
