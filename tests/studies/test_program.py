"""The program that all studies share: refusals, progress, and how it ends."""

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
from studies.harness.jobs import Job, Outcome
from studies.harness.program import ProgressBar, Study, check_config, main

pytestmark = pytest.mark.usefixtures("process_settings")

ONE, OTHER = (Job(name=name, settings={}, folder=Path("nowhere")) for name in ("one", "other"))
ALL = {study.name: study for study in (synthetic.STUDY, regression.STUDY, neural_process.STUDY, language.STUDY)}


def test_every_study_has_a_schema_and_two_settings() -> None:
    assert STUDIES.keys() == ALL.keys()
    for name in STUDIES:
        full, quick = compose_study(name, []), compose_study(name, ["quick=true"])
        assert type(full) is type(quick) is STUDIES[name]
        assert full.seeds >= 5 and not full.quick and quick.quick and full != quick
        # Keys on the command line override those of quick=true.
        assert compose_study(name, ["quick=true", "seeds=7"]).seeds == 7
        check_config(ALL[name], full)
        check_config(ALL[name], quick)


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sedes=3", "sedes is not a key of the configuration: did you mean seeds"),
        ("seeds=0", "seeds=0 is out of range"),
        ("seeds=many", "seeds=many is not a whole number"),
        ("parallel=-1", "parallel=-1 is out of range"),
        ("networks=[]", "networks=[] is no list of different values"),
        ("networks=[A,A]", "networks=[A,A] is no list of different values"),
        ("networks=[bilinear]", "networks=bilinear is unknown: choose one of "),
        ("steps=0", " is out of range: give "),
        ("hydra.run.dir=x", "is not a key of the configuration"),
        ("networks", "write key=value"),
        ("folder=/proc/nowhere", "folder=/proc/nowhere cannot be written"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(
    study: Study, argument: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = [] if argument.startswith("folder=") else [f"folder={tmp_path}"]
    known: str = compose_study(study.name, []).networks[0]  # type: ignore[attr-defined]
    argument, message = (text.replace("A", known) for text in (argument, message))
    assert main(study, ["quick=true", "display=false", *folder, argument]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_lines_report_finished_jobs_and_rarely_running_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = ProgressBar("study", 3, 1, enabled=True)
    with bar:
        bar.update(ONE, 0.25)
        monkeypatch.setattr(program, "_LINE_SECONDS", 0)
        bar.update(OTHER, 0.5)
        monkeypatch.undo()
        bar.update(ONE, 0.75)
        bar.finish(Outcome(job=ONE, result={}, seconds=7.4))
        monkeypatch.setattr(program, "_LINE_SECONDS", 0)
        bar.update(OTHER, 0.999)
    # Without the time at the start of each line.
    assert [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()] == [
        "one 25%  other 50% (1 of 3)",
        "one: 7 s (2 of 3)",
        "other 99% (2 of 3)",
    ]


def test_the_bar_counts_parts_of_running_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    bar = ProgressBar("study", 4, 1, enabled=True)
    with bar:
        bar.update(ONE, 0.5)
        bar.update(OTHER, 0.5)
        bar.finish(Outcome(job=ONE, result={}, seconds=7.4))
        assert bar._live
        bar._live.refresh()
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().out)
    assert "study" in shown and " 62% 2/4 " in shown


def test_the_time_left_ignores_the_work_of_earlier_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four jobs of 1,000 s each resume at 70%."""
    now = [0.0]
    monkeypatch.setattr("studies.harness.program.time.monotonic", lambda: now[0])
    bar = ProgressBar("study", 4, 0, enabled=False)
    (task,) = bar._bar.tasks
    for job in (ONE, OTHER):
        bar.update(job, 0.7)
    assert task.fields["left"] == ""
    for step in range(2000):
        now[0] += 0.1
        bar.update(ONE, 0.7 + now[0] / 1000)
        bar.update(OTHER, 0.7 + now[0] / 1000)
        # Two jobs at a time.
        if step > 100:
            _, minutes, *unit = task.fields["left"].split()
            assert unit == ["min", "left"]
            # One decimal.
            assert float(minutes) == pytest.approx(((4 - 1.4) * 500 - now[0]) / 60, abs=0.06)
    assert task.completed == pytest.approx(1.8, abs=0.01)


@pytest.mark.parametrize("enabled", [False, True])
def test_display_false_prints_nothing(enabled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("study", 1, 0, enabled=enabled)
    with bar:
        bar.update(ONE, 0.5)
        bar.finish(Outcome(job=ONE, result={}, seconds=1))
    assert bool(capsys.readouterr().out) is enabled


@pytest.mark.parametrize("study", ALL.values(), ids=ALL)
def test_help_shows_every_key(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(study, ["--help", "quick=true"]) == 0
    shown = capsys.readouterr().out
    assert f"python -m studies.{study.name}" in shown and "  quick=true\n" in shown and "  seeds=" in shown


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
        # A terminal sends it to the whole process group.
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130 and error == "interrupted: the same command resumes\n"
        # The resource tracker of multiprocessing ends a moment later.
        until = time.monotonic() + 120
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(process.pid, 0)
                time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_returns_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("studies.harness.program.conduct", interrupt)
    assert main(synthetic.STUDY, [f"folder={tmp_path}"]) == 130
    assert capsys.readouterr().err == "interrupted: the same command resumes\n"
    assert not multiprocessing.active_children()
