"""A stopped fork server (SIGSTOP) neither blocks a run for ever nor keeps signals from it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from saved_agents import CONDITIONAL, SMALL

import train
from agents.cli.signals import Interruption
from agents.runtime.local import LocalRuntime
from agents.runtime.processes import fork_server as fork_server_module
from agents.runtime.processes.fork_server import fork_server_context, start_process

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("process_settings", "nothing_is_left_behind")]

LOCAL = [
    *(*SMALL, *CONDITIONAL, "runtime=local", "runtime.num_actors=1", "runtime.slots_per_actor=3"),
    *("learner.batch_size=3", "display=false", "runtime.hang_seconds=100000"),
]


def fork_server() -> psutil.Process:
    (found,) = [one for one in psutil.Process().children() if "forkserver import main" in " ".join(one.cmdline())]
    return found


def start_another() -> Any:
    """A process that ends at once."""
    ends = fork_server_context().Process(target=os.getpid, name="ends")
    start_process(ends)
    return ends


@pytest.fixture
def stopped() -> Iterator[psutil.Process]:
    """The fork server, stopped after it has started a process."""
    start_another().join()
    server = fork_server()
    server.suspend()
    yield server
    if server.is_running():
        server.kill()


@contextlib.contextmanager
def interrupted(stopped: psutil.Process) -> Iterator[None]:
    """Sends this process SIGINT every second. If that does not end the block, resumes the fork server, and the test fails."""
    left = threading.Event()

    def interrupt() -> None:
        # The second signal may come before the interrupted system call is restarted.
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGINT)
            if left.wait(1.0):
                return
        stopped.resume()

    sending = threading.Thread(target=interrupt)
    sending.start()
    try:
        yield
    finally:
        left.set()
        sending.join()


class Interrupted:
    """A process that receives signals during its start."""

    name = "ends"

    def __init__(self, server: psutil.Process) -> None:
        self._server, self._process = server, fork_server_context().Process(target=os.getpid)

    def start(self) -> None:
        with interrupted(self._server):
            self._process.start()


def test_a_second_signal_ends_a_start(stopped: psutil.Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server_module, "_LOOKS", 10**9, raising=False)
    interruption = Interruption()
    with pytest.raises(KeyboardInterrupt):
        start_process(Interrupted(stopped))  # type: ignore[arg-type]
    assert interruption.wanted
    assert stopped.status() == psutil.STATUS_STOPPED


def test_a_fork_server_that_stays_stopped_is_killed(stopped: psutil.Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server_module, "_LOOKS", 2, raising=False)
    timer = threading.Timer(100, stopped.resume)
    timer.start()
    ends = start_another()
    timer.cancel()
    ends.join()
    assert ends.exitcode == 0 and fork_server().pid != stopped.pid


def test_a_run_continues_when_the_fork_server_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, stopped, timers = LocalRuntime.publish, list[psutil.Process](), list[threading.Timer]()

    def published(self: LocalRuntime, version: int) -> None:
        publish(self, version)
        if version == 3:
            stopped.append(fork_server())
            stopped[0].suspend()
            timers.append(threading.Timer(100, stopped[0].resume))
            timers[0].start()
            os.kill(self.processes()["actor-0"], signal.SIGKILL)

    monkeypatch.setattr(LocalRuntime, "publish", published)
    assert train.main([*LOCAL, f"run={tmp_path}", "total_frames=1000"]) == 0
    timers[0].cancel()
    assert len(stopped) == 1 and not stopped[0].is_running()
    assert json.loads((tmp_path / "result.json").read_text("utf-8"))["restarts"] == 1


def test_a_second_signal_ends_a_run_whose_actor_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server_module, "_LOOKS", 10**9, raising=False)
    begin = LocalRuntime._start_actor
    publish, stopped, ended = LocalRuntime.publish, list[psutil.Process](), list[str]()

    def published(self: LocalRuntime, version: int) -> None:
        publish(self, version)
        if version == 3:
            os.kill(self.processes()["actor-0"], signal.SIGKILL)

    def starts(self: LocalRuntime, *arguments: Any) -> Any:
        if not self._anything_finished:
            return begin(self, *arguments)
        stopped.append(fork_server())
        stopped[0].suspend()
        try:
            with interrupted(stopped[0]):
                return begin(self, *arguments)
        finally:
            ended.append(stopped[0].status())

    monkeypatch.setattr(LocalRuntime, "publish", published)
    monkeypatch.setattr(LocalRuntime, "_start_actor", starts)
    assert train.main([*LOCAL, f"run={tmp_path}", "total_frames=100000000"]) == 130
    assert ended == [psutil.STATUS_STOPPED]
