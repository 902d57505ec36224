"""Ctrl-C and SIGTERM in every phase of a program: exit code 130, no traceback, and a started run is saved."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import eventually, is_gone
from saved_agents import CONDITIONAL, SMALL

import evaluate
import train
from agents.cli import signals
from agents.cli.signals import InterruptedWait, Interruption, raise_at_signals
from agents.learning.learner import Learner
from agents.run import folder
from agents.run.checkpoint_saver import Saver
from agents.run.session import Session
from agents.runtime.local import LocalRuntime
from agents.runtime.serial import SerialRuntime
from agents.setup import builder
from agents.storage.checkpoint import find_checkpoint, load_checkpoint

pytestmark = pytest.mark.usefixtures("process_settings")

ROOT = Path(train.__file__).parent
TINY = [*SMALL, *CONDITIONAL, "runtime.slots_per_actor=6", "learner.unroll_length=4", "log_seconds=0", "display=false"]
LONG = "total_frames=100000000"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
OF_SCHEDULERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGRTMIN, signal.SIGRTMIN + 3)


def first_call(function: Callable[..., Any], action: Callable[[], object]) -> Callable[..., Any]:
    """`function`, with `action` before its first call."""
    calls: list[None] = []

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 1:
            action()
        return function(*arguments, **options)

    return called


PHASES: dict[str, tuple[Any, str, int]] = {
    "composing": (train, "compose_train", -1),
    "making the agent": (builder, "build_learner", 0),
    "making the folder": (folder, "write_json", 0),
    "starting the actors": (builder, "build_runtime", 0),
    "the first batch": (SerialRuntime, "collect", 1),
    "the first update": (Learner, "update", 1),
    "writing a checkpoint": (os, "replace", 1),
    "closing": (SerialRuntime, "close", 1),
    "after the end": (Session, "_result", 1),
}
"""The function that each phase calls, and the updates in the checkpoint; -1: there is no run. `os.replace` is patched in `Saver.save`."""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_any_phase_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, number: signal.Signals
) -> None:
    owner, name, updates = PHASES[phase]
    owner_of_name = first_call(getattr(owner, name), lambda: signal.raise_signal(number))
    total = LONG
    if phase == "writing a checkpoint":
        begin = lambda: monkeypatch.setattr(os, "replace", owner_of_name)  # noqa: E731
        monkeypatch.setattr(Saver, "save", first_call(Saver.save, begin))
    else:
        monkeypatch.setattr(owner, name, owner_of_name)
    if phase in ("closing", "after the end"):
        total = "total_frames=1"
    assert train.main([*TINY, f"run={tmp_path / 'run'}", total, "checkpoint_seconds=0"]) == 130
    monkeypatch.undo()
    if updates < 0:
        assert not (tmp_path / "run").exists()
    else:
        content = load_checkpoint(find_checkpoint(tmp_path / "run", print))
        assert content["learner"]["counters"]["updates"] == updates
        assert not list(tmp_path.rglob("*.tmp"))
        assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("number", OF_SCHEDULERS)
def test_signals_of_schedulers_end_a_run_as_sigterm_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(Learner, "update", first_call(Learner.update, lambda: signal.raise_signal(number)))
    assert train.main([*TINY, f"run={tmp_path}", LONG]) == 130
    assert load_checkpoint(find_checkpoint(tmp_path, print))["learner"]["counters"]["updates"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    """nohup ignores signals, and a shell does for its background jobs."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        raise_at_signals()
        interruption = Interruption()
        signal.raise_signal(number)
        assert not interruption.wanted and signal.getsignal(number) is signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
        assert interruption.wanted
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("moment", ["replace", "fsync"])
def test_the_second_signal_ends_a_save_and_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    def begin() -> None:
        monkeypatch.setattr(os, moment, first_call(getattr(os, moment), twice))

    saves: list[None] = []
    save = Saver.save

    def third(self: Saver, *arguments: Any, **options: Any) -> None:
        saves.append(None)
        if len(saves) == 3:
            begin()
        save(self, *arguments, **options)

    monkeypatch.setattr(Saver, "save", third)
    monkeypatch.setattr(signals, "_ONE_REQUEST_SECONDS", 0.0)
    assert train.main([*TINY, f"run={tmp_path}", LONG, "checkpoint_seconds=0"]) == 130
    monkeypatch.undo()
    assert load_checkpoint(find_checkpoint(tmp_path, print))["learner"]["counters"]["updates"] == 2
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("number", SIGNALS)
def test_an_evaluation_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    compose = first_call(evaluate.compose_evaluate, lambda: signal.raise_signal(number))
    monkeypatch.setattr(evaluate, "compose_evaluate", compose)
    assert evaluate.main(["run=nowhere"]) == 130
    assert capsys.readouterr().err == "interrupted: no result was written\n"


@pytest.mark.parametrize("first", SIGNALS)
def test_the_first_signal_interrupts_a_wait_and_a_later_ctrl_c_raises(
    monkeypatch: pytest.MonkeyPatch, first: signal.Signals
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interruption = Interruption()
    interruption.check()
    signal.raise_signal(first)
    assert interruption.wanted
    with pytest.raises(InterruptedWait):
        interruption.check()
    now += 0.9
    signal.raise_signal(signal.SIGINT)
    now += 0.1
    for repeated in (signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(repeated)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_while_nothing_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stopped actors, the first signal must end the wait: after a second one there would be no result."""
    publish, wait, stopped = LocalRuntime.publish, LocalRuntime.wait, list[int]()

    def published(self: LocalRuntime, version: int) -> None:
        publish(self, version)
        if version == 3:
            stopped.extend(self.processes().values())
            for process in stopped:
                os.kill(process, signal.SIGSTOP)

    def waited(self: LocalRuntime, *arguments: Any, **options: Any) -> None:
        had = len(self.ready)
        wait(self, *arguments, **options)
        if stopped and len(self.ready) == had:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LocalRuntime, "publish", published)
    monkeypatch.setattr(LocalRuntime, "wait", waited)
    local = [*SMALL, *CONDITIONAL, "runtime=local", "runtime.num_actors=1", "runtime.slots_per_actor=3"]
    settings = ["learner.batch_size=3", "runtime.hang_seconds=100000", "display=false", LONG]
    assert train.main([*local, *settings, f"run={tmp_path}"]) == 130
    assert len(stopped) == 1 and all(map(is_gone, stopped))
    assert json.loads((tmp_path / "result.json").read_text("utf-8"))["ended_by"] == "signal"


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr of a process that was sent a signal."""
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, err


@pytest.mark.parametrize("program", ["train.py", "evaluate.py", "ablate.py"])
def test_a_signal_while_modules_are_imported(program: str) -> None:
    # `importtime` prints each import, so the signal comes within them.
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", program, "fusion=nothing"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    while "numpy" not in (line := process.stderr.readline()):
        assert line, "the process ended before the signal"
    process.send_signal(signal.SIGINT)
    code, err = ended(process)
    assert code == 130
    assert "Traceback" not in err and "error:" not in err


def test_a_signal_while_a_function_imports_is_not_lost() -> None:
    code = """
import os, signal
from agents.cli.signals import raise_at_signals, slow_imports
raise_at_signals()
with slow_imports():
    pass
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print("raised", flush=True)
with slow_imports():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        print("lost", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (130, "raised\n")


def local_run(run: Path) -> subprocess.Popen[str]:
    """A run with two actors in its own process group, which has just printed its banner."""
    settings = [*SMALL, *CONDITIONAL, "runtime=local", "runtime.num_actors=2", "runtime.slots_per_actor=2"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *settings, f"run={run}", LONG, "log_seconds=0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    while "training in" not in (line := process.stdout.readline()):
        assert line, "the process ended before the signal"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_to_all_while_actors_start(tmp_path: Path, number: signal.Signals) -> None:
    """The signal reaches the whole process group while the actors still import."""
    process = local_run(tmp_path)
    os.killpg(process.pid, number)
    code, err = ended(process)
    assert (code, err) == (130, "")
    assert load_checkpoint(find_checkpoint(tmp_path, print))


@pytest.mark.slow
def test_no_signal_to_all_kills_an_actor_before_the_save(tmp_path: Path) -> None:
    process = local_run(tmp_path)
    try:
        eventually(lambda: (tmp_path / "metrics.jsonl").exists() and (tmp_path / "metrics.jsonl").stat().st_size)
        os.kill(process.pid, signal.SIGSTOP)
        children = psutil.Process(process.pid).children(recursive=True)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN + 3):
            os.killpg(process.pid, number)
        # Time for the signals to end actors, while the learner is stopped.
        time.sleep(1)
        assert len(children) >= 3 and not any(is_gone(child.pid) for child in children)
        os.kill(process.pid, signal.SIGCONT)
        code, err = ended(process)
    finally:
        process.kill()
    assert (code, err) == (130, "")
    assert not (tmp_path / "faults.jsonl").exists()
    assert load_checkpoint(find_checkpoint(tmp_path, print))["learner"]["counters"]["updates"] > 0
    # The supervisor ends after the learner.
    eventually(lambda: all(is_gone(child.pid) for child in children))
