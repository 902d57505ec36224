"""Programs that environments start, in new sessions and as daemons, end with their actor or run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from environments import BREAKING, STARTED, MakeStarting
from processes import eventually, is_gone

import train
from agents.runtime.local import LocalRuntime
from agents.storage.checkpoint import find_checkpoint, load_checkpoint
from envs.engines.process_engine import ProcessEngine
from envs.seeding import episode_seed
from envs.spec import Slot, Split
from system import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

ROOT = Path(train.__file__).parent
FAULTS = Path(__file__).parent
TINY = [
    *("env=gymnasium", "env.tasks=[environments:Starts-v0]", "context=task", "fusion=film", "core.size=8"),
    *("fusion.size=8", "torso.hidden=[8]", "runtime.num_actors=1", "runtime.slots_per_actor=2", "precision=fp32"),
    *("learner.batch_size=2", "learner.unroll_length=4", "log_seconds=0", "display=false"),
]
LONG = "total_frames=100000000"
KINDS = {
    "actors": ["runtime=local", "env.processes=false"],
    "processes of slots": ["runtime=local", "env.processes=true"],
    "the learner itself": ["runtime=serial", "env.processes=false"],
    "several learners": [
        "runtime=local",
        "env.processes=false",
        "learner.num_processes=2",
        "runtime.num_actors=2",
        "learner.batch_size=4",
    ],
}


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the process ids of programs that environments start. The fixture kills the programs after the test."""
    file = tmp_path / "started"
    file.touch()
    monkeypatch.setenv(STARTED, str(file))
    yield file
    for pid in programs(file):
        if "sleep" in psutil.Process(pid).name() if psutil.pid_exists(pid) else False:
            os.kill(pid, signal.SIGKILL)


def programs(file: Path) -> list[int]:
    """The process ids of all programs started so far."""
    return [int(line) for line in file.read_text(encoding="utf-8").splitlines()]


def all_gone(file: Path) -> bool:
    found = programs(file)
    return bool(found) and all(map(is_gone, found))


def begin(program: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a program in a new process group, with the module `environments` on its path."""
    path = os.pathsep.join([str(ROOT), str(FAULTS)])
    command = [sys.executable, *program.split(), *arguments]
    environment = {**os.environ, "PYTHONPATH": path, **options}
    return subprocess.Popen(command, cwd=ROOT, env=environment, process_group=0)


def has_started(run: Path, file: Path) -> bool:
    log = run / "metrics.jsonl"
    return bool(log.exists() and log.stat().st_size and len(programs(file)) >= 4)


def cell_has_started(grid: Path, file: Path) -> bool:
    """Whether the actor of a cell plays. The first row of its log may come later."""
    return bool(list(grid.rglob("agent.json"))) and len(programs(file)) >= 12


def cell_of(grid: subprocess.Popen[bytes]) -> psutil.Process:
    """The process of the cell that a grid runs."""
    (found,) = [one for one in psutil.Process(grid.pid).children() if "ablation.grid.cell" in one.cmdline()]
    return found


def supervisor_of(pid: int) -> psutil.Process:
    """The supervisor of a program: the process with its id as first argument."""
    (found,) = [
        one
        for one in psutil.process_iter(["cmdline"])
        if (one.info["cmdline"] or [])[-4:-2] == [descendants.__file__, str(pid)]
    ]
    return found


def temporary_files(pid: int, folder: Path) -> list[Path]:
    """The files of the program in its temporary folder and in `folder`."""
    folders = Path("/tmp").glob("mimpala-" + 11 * "[0-9a-f]")
    own = [path for path in folders if int(path.name.removeprefix("mimpala-"), 16) % 2**22 == pid]
    return own + [path for path in folder.iterdir() if not path.name.startswith("torchinductor")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "whole_group"),
    [
        ("actors", False),
        ("actors", True),
        ("processes of slots", False),
        ("the learner itself", True),
        ("several learners", False),
        ("several learners", True),
    ],
)
def test_a_killed_learner_leaves_no_processes_and_files(
    kind: str, whole_group: bool, tmp_path: Path, started: Path
) -> None:
    run, temporary = tmp_path / "run", tmp_path / "temporary"
    temporary.mkdir()
    shared = set(Path("/dev/shm").iterdir())
    process = begin("train.py", *TINY, *KINDS[kind], f"run={run}", LONG, TMPDIR=str(temporary))
    try:
        eventually(lambda: process.poll() is not None or has_started(run, started))
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if whole_group else process.kill()
        process.wait()
    eventually(lambda: all_gone(started))
    eventually(lambda: all(is_gone(one.pid) for one in family))
    eventually(lambda: not temporary_files(process.pid, temporary))
    assert not {
        path for path in set(Path("/dev/shm").iterdir()) - shared if "torch" in path.name or "mimpala" in path.name
    }


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train.py", "train.py runtime=serial", "doctor.py"])
def test_a_program_that_ends_leaves_no_processes(program: str, tmp_path: Path, started: Path) -> None:
    """Environments of the learner's process, of actors, and of doctor.py."""
    process = begin(program, *TINY, f"run={tmp_path / 'run'}", "total_frames=60")
    assert process.wait(240) == 0
    assert all_gone(started)


@pytest.mark.slow
@pytest.mark.usefixtures("process_settings")
@pytest.mark.parametrize("fault", ["is killed", "raises"])
def test_programs_of_an_actor_end_before_its_successor_starts(
    fault: str, tmp_path: Path, started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, alive = LocalRuntime._start_actor, list[list[int]]()

    def starts(pool: LocalRuntime, *arguments: Any) -> Any:
        alive.append([pid for pid in programs(started) if not is_gone(pid)])
        return start(pool, *arguments)

    monkeypatch.setattr(LocalRuntime, "_start_actor", starts)
    # The fork server keeps the environment variables of the test that started it.
    options = [f"env.options={{fault: {fault}, every: 8, file: '{started}'}}", "env.processes=false", "runtime=local"]
    assert (
        train.main([*TINY, *options, f"run={tmp_path / 'run'}", "total_frames=200", "runtime.max_restarts=1000"]) == 0
    )
    # Programs of the probe, which plays in this process before the run starts.
    first = set(alive[0])
    assert len(alive) >= 3 and all(set(left) <= first for left in alive)
    assert len(programs(started)) > 2 * len(alive)
    assert {pid for pid in programs(started) if not is_gone(pid)} <= first


def test_programs_of_a_slots_process_end_before_its_successor_starts(tmp_path: Path) -> None:
    started, slots = tmp_path / "started", [Slot(task=0, index=0), Slot(task=1, index=1)]
    broken = episode_seed(5, Split.TRAIN, BREAKING.tasks[0], 0, 0)
    engine = ProcessEngine(MakeStarting({broken: (1, "is killed")}, started=started), BREAKING, slots, Split.TRAIN)
    try:
        engine.supervise(3600.0, 0, 0)
        engine.start(5)
        before = programs(started)
        assert len(before) == 4 and not any(map(is_gone, before))
        engine.step([0, 0])  # type: ignore[arg-type]
        assert [fault.cause for fault in engine.take_faults()] == ["killed"]
        # One of the two slots has failed.
        assert sorted(map(is_gone, before)) == [False, False, True, True]
    finally:
        engine.close()
    assert all_gone(started)


@pytest.mark.slow
def test_a_run_continues_without_its_supervisor(tmp_path: Path, started: Path) -> None:
    run = tmp_path / "run"
    process = begin("train.py", *TINY, *KINDS["actors"], f"run={run}", LONG)
    try:
        eventually(lambda: process.poll() is not None or has_started(run, started))
        supervisor_of(process.pid).kill()
        size = (run / "metrics.jsonl").stat().st_size
        eventually(lambda: process.poll() is not None or (run / "metrics.jsonl").stat().st_size > 2 * size)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    finally:
        process.kill()
    assert all_gone(started) and not (run / "faults.jsonl").exists()


@pytest.mark.slow
def test_no_signal_ends_the_supervisor_before_its_learner(tmp_path: Path, started: Path) -> None:
    run, numbers = tmp_path / "run", (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    process = begin("train.py", *TINY, *KINDS["the learner itself"], f"run={run}", LONG)
    try:
        eventually(lambda: process.poll() is not None or has_started(run, started))
        supervisor = supervisor_of(process.pid)
        process.send_signal(signal.SIGSTOP)
        for number in numbers:
            os.killpg(process.pid, number)
            supervisor.send_signal(number)
        # A deadly signal would have ended it by now.
        time.sleep(0.5)
        assert supervisor.is_running() and supervisor.memory_info().rss < 32 * 2**20
        process.send_signal(signal.SIGCONT)
        assert process.wait(120) == 130
    finally:
        process.kill()
    assert load_checkpoint(find_checkpoint(run, print))
    assert all_gone(started)
    eventually(lambda: is_gone(supervisor.pid))


@pytest.mark.slow
def test_a_killed_grid_leaves_no_processes(tmp_path: Path, started: Path) -> None:
    """Each of its cells has its own supervisor, and saves."""
    keys = [key for key in TINY if not key.startswith("fusion=")]
    process = begin(
        "ablate.py",
        *keys,
        "fusions=[film]",
        "seeds=1",
        "runtime=local",
        "checkpoint_seconds=1e6",
        f"folder={tmp_path / 'grid'}",
        LONG,
    )
    try:
        eventually(lambda: process.poll() is not None or cell_has_started(tmp_path / "grid", started))
        cell = cell_of(process)
        family = [cell, *cell.children(recursive=True)]
        assert not list((tmp_path / "grid").rglob("checkpoint-*.pt"))
    finally:
        process.kill()
        process.wait()
    eventually(lambda: all(is_gone(one.pid) for one in family))
    eventually(lambda: all_gone(started))
    assert list((tmp_path / "grid").rglob("checkpoint-*.pt"))


@pytest.mark.slow
def test_a_killed_cell_leaves_no_processes(tmp_path: Path, started: Path) -> None:
    keys = [key for key in TINY if not key.startswith("fusion=")]
    process = begin(
        "ablate.py", *keys, "fusions=[film]", "seeds=1", "runtime=local", f"folder={tmp_path / 'grid'}", LONG
    )
    try:
        eventually(lambda: process.poll() is not None or cell_has_started(tmp_path / "grid", started))
        cell_of(process).kill()
        # The grid reports that its only cell failed.
        assert process.wait(120) == 1
    finally:
        process.kill()
    eventually(lambda: all_gone(started))
