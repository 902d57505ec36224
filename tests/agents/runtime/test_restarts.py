"""Actors that die, raise or hang are restarted, and every number before and after the restart is right."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from counted import Lives, counting_pool, counting_runtime
from counting import SLOTS, CountingNetwork, MakeCountingActor
from processes import PATIENCE

from agents.acting.heartbeat import Heartbeat, heartbeat_spec
from agents.runtime.base import ActorError, ActorLimits, Runtime
from agents.runtime.local import LocalRuntime
from agents.runtime.processes.fork_server import fork_server_context, start_child, start_process
from agents.runtime.restarts import Faults
from agents.trajectory import allocate
from envs.faults import Fault

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


class Records(list[dict[str, Any]]):
    """The records of Faults."""

    def of(self, where: str) -> list[dict[str, Any]]:
        return [record for record in self if record["where"] == where]


def counting(
    name: str, network: CountingNetwork, faults: Faults, actors: int = 1, *, fault: str = "", **options: Any
) -> Runtime:
    """A runtime of counting actors with one unroll per batch; `fault` is that of MakeCountingActor."""
    pool = counting_pool(actors, make_actor=MakeCountingActor(fault=fault), **options)
    return counting_runtime(name, pool, network, faults=faults)


def run(runtime: Runtime, network: CountingNetwork, lives: Lives, actors: int, restarts: int) -> None:
    """Collects, with new weights at every update, until each of the first `actors` actors has restarted `restarts` times."""
    deadline, version = time.monotonic() + PATIENCE, 0
    while min(lives.restarts(actor) for actor in range(actors)) < restarts:
        assert time.monotonic() < deadline, "an actor was not restarted"
        batch = runtime.collect()
        lives.add(batch)
        version += 1
        network.number.data.fill_(version)
        runtime.publish(version)
        if version > 50:  # Slows the other actors down while a process starts.
            time.sleep(0.02)


ON_RAY = pytest.param("cluster", marks=pytest.mark.ray)


@pytest.mark.parametrize("name", [pytest.param("local", marks=pytest.mark.slow), ON_RAY])
def test_an_actor_is_restarted_after_every_kind_of_end(name: str) -> None:
    """One actor raises, one exits and one crashes, at every twentieth step; the fourth is not affected."""
    records, kinds, network = Records(), ("raise", "exit", "segfault"), CountingNetwork()
    faults = Faults(max_restarts=1000, record=records.append)
    runtime = counting(name, network, faults, 4, fault=",".join((*kinds, "")))
    lives = Lives(name)
    try:
        run(runtime, network, lives, actors=3, restarts=1)
        # On a cluster the fourth actor may be the last to start.
        run(runtime, network, lives, actors=4, restarts=0)
        counts = faults.row()
    finally:
        runtime.close()
    lives.check()
    assert lives.restarts(3) == 0 and not records.of("actor 3")
    for index, (cause, words) in enumerate(
        (("raised", "broke as it was told"), ("exited", "exit code 17"), ("killed", "SIGSEGV"))
    ):
        for record in records.of(f"actor {index}"):
            assert record["cause"] == cause and words in record["detail"]
            assert record["unrolls_dropped"] == 1 and record["episodes_dropped"] == SLOTS
    assert "counting.py" in records.of("actor 2")[0]["detail"], "a crash tells where the program was"
    assert counts["restarts"] == len(records) == counts["unrolls_dropped"] == counts["episodes_dropped"] / SLOTS
    assert counts["restarts/exited"] == len(records.of("actor 1"))


@pytest.mark.slow
def test_an_actor_that_hangs_is_restarted_and_its_stack_is_recorded() -> None:
    records, network = Records(), CountingNetwork()
    faults = Faults(max_restarts=1000, record=records.append)
    runtime = counting("local", network, faults, 2, fault="hang,", limits=ActorLimits(hang_seconds=2.0))
    lives = Lives("local")
    try:
        run(runtime, network, lives, actors=1, restarts=1)
    finally:
        runtime.close()
    lives.check()
    first = records.of("actor 0")[0]
    assert first["cause"] == "hung" and "runtime.hang_seconds" in first["detail"] and "counting.py" in first["detail"]
    assert first["detail"].endswith("in <module>"), "the stack is cut off"


@pytest.mark.parametrize("name", ["local", pytest.param("server", marks=pytest.mark.slow)])
def test_a_killed_process_is_restarted(name: str) -> None:
    """First the actor, then its inference server."""
    records, network = Records(), CountingNetwork()
    faults = Faults(max_restarts=1000, record=records.append)
    runtime = counting(name, network, faults)
    lives, killed = Lives(name), ["actor-0"]
    if name == "server":
        killed.append("inference")
    try:
        for number, victim in enumerate(killed):
            run(runtime, network, lives, actors=1, restarts=number)
            os.kill(runtime.processes()[victim], signal.SIGKILL)
            run(runtime, network, lives, actors=1, restarts=number + 1)
        assert set(runtime.processes()) == set(killed)
    finally:
        runtime.close()
    lives.check()
    assert [record["where"] for record in records] == ["actor 0", "the inference server"][: len(killed)]
    assert all(record["cause"] == "killed" and record["detail"] == "SIGKILL" for record in records)


@pytest.mark.slow
def test_an_unroll_that_was_finished_before_the_server_was_killed_is_kept() -> None:
    """The learner reads the unroll and the end of the server at the same time."""
    runtime = counting("server", CountingNetwork(), Faults(max_restarts=1000))
    assert isinstance(runtime, LocalRuntime)
    lives = Lives("server")
    try:
        for _ in range(3):
            lives.add(runtime.collect())
        # A slow learner has received several at once.
        while runtime.ready:
            lives.add(runtime.collect())
        (actor,) = runtime._actors
        assert actor.connection.poll(PATIENCE)
        inference = psutil.Process(runtime.processes()["inference"])
        inference.kill()
        inference.wait(PATIENCE)
        while runtime._actors == [actor]:
            runtime.wait()
        (ready,) = runtime.ready
        assert ready.unrolls == runtime.positions.unrolls[0] + 1
        assert runtime._actors[0].positions.unrolls[0] in (ready.unrolls, ready.unrolls + 1)
        run(runtime, CountingNetwork(), lives, actors=1, restarts=1)
    finally:
        runtime.close()


def test_a_killed_fork_server_is_replaced_and_its_actors_restarted() -> None:
    records, network = Records(), CountingNetwork()
    faults = Faults(max_restarts=1000, record=records.append)
    runtime = counting("local", network, faults, 2)
    lives = Lives("local")
    try:
        run(runtime, network, lives, actors=2, restarts=0)
        (parent,) = {psutil.Process(pid).ppid() for pid in runtime.processes().values()}
        assert parent != os.getpid()
        os.kill(parent, signal.SIGKILL)
        run(runtime, network, lives, actors=2, restarts=1)
    finally:
        runtime.close()
    lives.check()
    assert {record["where"] for record in records} == {"actor 0", "actor 1"}


def test_a_child_does_not_import_the_main_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = ModuleType("__main__")
    program.__file__ = str(tmp_path / "program.py")
    (tmp_path / "program.py").write_text("raise SystemExit(1)")
    monkeypatch.setitem(sys.modules, "__main__", program)
    child_open_files()
    assert sys.modules["__main__"] is program


def test_a_child_has_a_limit_of_open_files_that_was_raised_after_the_fork_server_started() -> None:
    child_open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        assert child_open_files() == soft - 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def child_open_files() -> int:
    """The limit of open files of a new child of the fork server."""
    process, connection = start_child("child", send_open_files, threads=1)
    assert connection.poll(PATIENCE)
    limit: int = connection.recv()
    process.join(PATIENCE)
    return limit


def send_open_files(connection: Connection) -> None:
    connection.send(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class Unwilling:
    """A process whose start raises these errors, one per call."""

    def __init__(self, errors: list[Exception]) -> None:
        self.name, self.errors = "actor-3", errors

    def start(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


def test_a_fork_server_that_was_killed_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`start_process` repeats while the killed fork server still exists and its socket refuses connections."""
    process: Any = Unwilling([ConnectionRefusedError(), ConnectionRefusedError(), EOFError(), BrokenPipeError()])
    start_process(process)
    assert not process.errors
    monkeypatch.setattr("agents.runtime.processes.fork_server._PATIENCE", 0.0)
    process = Unwilling([EOFError()] * 1000)
    with pytest.raises(ActorError, match="actor-3 cannot be started: its fork server ends"):
        start_process(process)


def test_a_fork_server_that_dies_late_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped fork server is killed only after a wait. Patience counts from there."""
    now = [0.0]

    class DiesLate(Unwilling):
        def start(self) -> None:
            now[0] += 60.0
            super().start()

    monkeypatch.setattr("agents.runtime.processes.fork_server.time.monotonic", lambda: now[0])
    process: Any = DiesLate([EOFError()])
    start_process(process)
    assert not process.errors


def test_a_process_that_cannot_start_is_reported_at_once() -> None:
    process: Any = Unwilling([OSError("Too many open files")])
    with pytest.raises(ActorError, match="actor-3 cannot be started: Too many open files"):
        start_process(process)


def draw(into: Connection) -> None:
    into.send((np.random.random(), random.random()))  # noqa: NPY002


@pytest.mark.slow
def test_forked_processes_draw_different_numbers() -> None:
    """Environments may use the global generators."""
    context, drawn = fork_server_context(), []
    for _ in range(2):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=draw, args=(theirs,))
        start_process(process)
        theirs.close()
        drawn.append(ours.recv())
        process.join()
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        (ActorLimits(recycle_episodes=40), "recycled"),
        pytest.param(ActorLimits(memory_limit=1), "memory", marks=pytest.mark.slow),
    ],
)
def test_an_actor_that_exceeds_a_limit_is_restarted_between_two_unrolls(
    limits: ActorLimits, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.runtime.local._MEMORY_SECONDS", 0.0)
    records, network = Records(), CountingNetwork()
    # Restarts because of limits do not count towards max_restarts.
    faults = Faults(max_restarts=0, record=records.append)
    runtime = counting("local", network, faults, limits=limits)
    lives = Lives("local")
    try:
        run(runtime, network, lives, actors=1, restarts=1)
        unrolls = runtime.positions.unrolls[0]
    finally:
        runtime.close()
    lives.check()
    assert {record["cause"] for record in records} == {cause}
    assert all(record["unrolls_dropped"] == 0 for record in records)
    assert unrolls == sum(len(start) for start in lives.of[0]), "no unroll was dropped, and none was counted twice"


def test_a_serial_actor_that_raises_is_rebuilt() -> None:
    records, network = Records(), CountingNetwork()
    pool = counting_pool(2, 2, make_actor=MakeCountingActor(fault="raise,"))
    runtime = counting_runtime("serial", pool, network, faults=Faults(max_restarts=1000, record=records.append))
    lives = Lives("serial")
    run(runtime, network, lives, actors=1, restarts=4)
    runtime.close()
    lives.check()
    assert lives.restarts(1) == 0
    assert len(records) == 4 and all("broke as it was told" in record["detail"] for record in records)


def test_too_many_restarts_raise_with_a_summary() -> None:
    runtime = counting("serial", CountingNetwork(), Faults(max_restarts=2), fault="raise")
    with pytest.raises(ActorError) as caught:
        for _ in range(20):
            runtime.collect()
    message = str(caught.value)
    assert message.startswith("3 restarts within 300 s exceed runtime.max_restarts=2:\n  3 x actor 0 failed: ")
    assert "Traceback" in message and "counting.py" in message


def test_restarts_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    faults = Faults(max_restarts=2, window=10.0)
    for moment in (0.0, 1.0, 11.5, 12.5, 25.0):
        now[0] = moment
        faults.add("actor 1", Fault("even", "killed", "SIGKILL"))
    now[0] = 26.0
    faults.add("actor 1", Fault("odd", "killed", "SIGKILL"))
    with pytest.raises(ActorError, match=r"2 x actor 1 \(task odd\) was killed: SIGKILL"):
        faults.add("actor 1", Fault("odd", "killed", "SIGKILL"))
    assert faults.restarts_of("odd") == 2 and faults.row()["restarts"] == 7
    other = Faults()
    other.load_state_dict(faults.state_dict())
    assert other.row() == faults.row()


def test_a_clock_that_is_set_back_changes_only_the_recorded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window of restarts uses the monotonic clock."""
    monkeypatch.setattr(time, "time", lambda: -1e9)
    records = Records()
    Faults(max_restarts=1, record=records.append).add("actor 0", Fault("", "killed", "SIGKILL"))
    assert records[0]["time"] == -1e9


def test_a_heartbeat_names_the_task_if_it_is_known() -> None:
    names, heartbeat = ("a", "b"), Heartbeat(allocate(heartbeat_spec(3)))
    for tasks, stepping, expected in (
        ([1, 1, 1], -1, "b"),
        ([0, 1, 1], -1, ""),
        ([0, 1, 1], 0, "a"),
        ([0, 0, 1], 2, "b"),
    ):
        heartbeat.tasks[:], heartbeat.stepping[0] = tasks, stepping
        assert heartbeat.task(names) == expected
