"""What all studies do alike: what they refuse, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import studies
from conf.loading import compose_study
from conf.studies_schema import STUDIES
from studies import language, neural_process, regression, synthetic
from studies.harness import program
from studies.harness.program import Bar, Study, main
from studies.harness.running import Cell, Outcome

pytestmark = pytest.mark.usefixtures("process_settings")

ALL = {study.name: study for study in (synthetic.STUDY, regression.STUDY, neural_process.STUDY, language.STUDY)}


def test_every_study_has_a_schema_and_two_settings() -> None:
    assert STUDIES.keys() == ALL.keys()
    for name in STUDIES:
        full, quick = compose_study(name, []), compose_study(name, ["quick=true"])
        assert type(full) is type(quick) is STUDIES[name]
        assert full.seeds >= 5 and not full.quick and quick.quick and full != quick
        # What is given is stronger than what comes with quick=true.
        assert compose_study(name, ["quick=true", "seeds=7"]).seeds == 7
        ALL[name].check(full)
        ALL[name].check(quick)


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("sedes=3", "sedes is not a key of the configuration: did you mean seeds"),
        ("seeds=0", "seeds=0 is out of range"),
        ("seeds=many", "seeds: "),
        ("parallel=-1", "parallel=-1 is out of range"),
        ("networks=[]", "networks=[] is no list of different values"),
        ("networks=[A,A]", "networks=[A,A] is no list of different values"),
        ("networks=[bilinear]", "networks=bilinear is unknown: choose one of "),
        ("steps=0", "steps=0 is out of range"),
        ("hydra.run.dir=x", "is not a key of the configuration"),
        ("networks", "write key=value"),
        ("folder=/proc/nowhere", "folder=/proc/nowhere cannot be written"),
    ],
)
def test_one_sentence_for_what_cannot_be(
    study: Study, argument: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = [] if argument.startswith("folder=") else [f"folder={tmp_path}"]
    known: str = compose_study(study.name, []).networks[0]  # type: ignore[attr-defined]
    argument, told = (text.replace("A", known) for text in (argument, told))
    assert main(study, ["quick=true", "display=false", *folder, argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_lines_tell_of_cells_that_are_done_and_seldom_of_those_under_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (Cell(name=name, settings={}) for name in ("one", "other"))
    with Bar("study", 3, 1, enabled=True) as bar:
        bar.look(one, 0.25)
        monkeypatch.setattr(program, "_LINE_SECONDS", 0)
        bar.look(other, 0.5)
        monkeypatch.undo()
        bar.look(one, 0.75)
        bar.advance(Outcome(cell=one, result={}, seconds=7.4))
        monkeypatch.setattr(program, "_LINE_SECONDS", 0)
        bar.look(other, 0.999)
    assert capsys.readouterr().out.splitlines() == [
        "one 25%  other 50% (1 of 3)",
        "one: 7 s (2 of 3)",
        "other 99% (2 of 3)",
    ]


def test_a_bar_counts_what_is_done_of_cells_under_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    one, other = (Cell(name=name, settings={}) for name in ("one", "other"))
    with Bar("study", 4, 1, enabled=True) as bar:
        bar.look(one, 0.5)
        bar.look(other, 0.5)
        bar.advance(Outcome(cell=one, result={}, seconds=7.4))
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().out)
    assert "study" in shown and " 62% 2/4 " in shown


def test_the_time_left_is_reckoned_from_what_is_done_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not from what cells had come to before the study was stopped: here 0.7 of each of the 2 that go on, of 4 that take 1,000 s."""
    now = [0.0]
    monkeypatch.setattr(program.time, "monotonic", lambda: now[0])
    one, other = (Cell(name=name, settings={}) for name in ("one", "other"))
    bar = Bar("study", 4, 0, enabled=False)
    bar._progress.get_time = lambda: now[0]
    bar._progress.tasks[0]._get_time = bar._progress.get_time
    bar._progress.start_task(bar._progress.tasks[0].id)
    for step in range(2000):
        now[0] += 0.1
        bar.look(one, 0.7 + now[0] / 1000)
        bar.look(other, 0.7 + now[0] / 1000)
        left = bar._progress.tasks[0].time_remaining
        # Of two at a time, with the latest change up to a second ago.
        if step > 100:
            assert left == pytest.approx((4 - 1.4) * 500 - now[0], rel=0.1)
    assert bar._progress.tasks[0].completed == pytest.approx(1.8, abs=0.01)


@pytest.mark.parametrize("enabled", [False, True])
def test_nothing_is_shown_where_it_is_not_wanted(enabled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cell = Cell(name="one", settings={})
    with Bar("study", 1, 0, enabled=enabled) as bar:
        bar.look(cell, 0.5)
        bar.advance(Outcome(cell=cell, result={}, seconds=1))
    assert bool(capsys.readouterr().out) is enabled


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_help_shows_every_key(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(study, ["--help", "quick=true"]) == 0
    told = capsys.readouterr().out
    assert f"python -m studies.{study.name}" in told and "  quick=True\n" in told and "  seeds=" in told


@pytest.mark.slow
def test_ctrl_c_ends_a_study_and_its_processes_without_a_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "studies.synthetic",
        "quick=true",
        "steps=100000",
        "parallel=2",
        f"folder={tmp_path}",
    ]
    process = subprocess.Popen(
        command,
        cwd=Path(studies.__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 120
        while not (tmp_path / "cells").exists():
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.05)
        # As a terminal does: the whole group.
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130 and error == "interrupted: the same command goes on\n"
        # The keeper of multiprocessing's resources sees a moment later that it is alone.
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(process.pid, 0)
                time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("studies.harness.program.conduct", interrupt)
    assert main(synthetic.STUDY, [f"folder={tmp_path}"]) == 130
    assert capsys.readouterr().err == "interrupted: the same command goes on\n"
    assert not multiprocessing.active_children()
