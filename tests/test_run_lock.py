"""One process writes to a run folder: a second one is refused, and a moved or deleted folder ends the run with a message."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import eventually
from saved_agents import CONDITIONAL, SMALL

import train
from ablation.grid import cell as cell_process
from ablation.grid.grid import Cell, save_cell
from agents.run import lock as run_lock
from agents.run.lock import LOCK, is_locked, sole_writer
from agents.run.metrics import Statistics
from agents.storage.checkpoint import list_checkpoints
from conf.loading import compose_train
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("process_settings")

ROOT = Path(train.__file__).parent
TINY = [
    *(*SMALL, *CONDITIONAL, "runtime.slots_per_actor=4", "learner.unroll_length=5"),
    *("log_seconds=0", "checkpoint_seconds=1000", "display=false"),
]
HOLD = """
import sys
from pathlib import Path
from agents.run.lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts another process that holds the folder's lock."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


@pytest.mark.parametrize("arguments", [["resume=true", "total_frames=200"], ["total_frames=100"]])
def test_second_writer_is_refused_and_changes_nothing(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train.main([*TINY, f"run={run}", "total_frames=100"]) == 0
    before = files(run)
    capsys.readouterr()
    with held(run) as other:
        assert is_locked(run)
        assert train.main([*TINY, f"run={run}", *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: run={run} is being written by process {other.pid}: ")
    assert errors.count("\n") == 1 and files(run) == before
    # The kernel releases the lock when its process is killed.
    assert not is_locked(run)
    assert train.main([f"run={run}", "resume=true", "total_frames=200"]) == 0


def test_new_run_does_not_wait_for_a_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that holds the lock of a folder without a run is about to start one there."""
    with held(tmp_path / "run"):
        assert train.main([*TINY, f"run={tmp_path / 'run'}", "total_frames=100"]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_a_cell_is_not_refused_by_its_own_lock_and_waits_for_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "a-seed0"
    config = compose_train([*TINY, f"run={run}", "total_frames=100", "resume=true"])
    save_cell(Cell(name="a-seed0", variant="a", seed=0, train=config, evaluate=None, pause_at=0))
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    with held(run) as earlier:
        command = [sys.executable, "-m", "ablation.grid.cell", str(run), "1", cores, str(os.getpid())]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            assert not list_checkpoints(run / "checkpoints")
            earlier.kill()
            assert process.wait(240) == 0
        finally:
            process.kill()
    assert list_checkpoints(run / "checkpoints")
    assert cell_process.run(run, threads=1) == 0


def test_lock_belongs_to_one_process(tmp_path: Path) -> None:
    with sole_writer(tmp_path) as outer:
        with sole_writer(tmp_path / "." / "") as inner:
            assert inner is outer
        assert is_locked(tmp_path)
        # Imitates an environment that forks, and whose child continues.
        if not (child := os.fork()):
            os._exit(int(bool(run_lock._LOCKS)))
        assert os.waitpid(child, 0)[1] == 0
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_child_that_outlives_the_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    wait, go = os.pipe()
    with sole_writer(tmp_path):
        if not (child := os.fork()):
            os.close(go)
            os.read(wait, 1)
            os._exit(0)
    assert not is_locked(tmp_path)
    os.close(go)
    os.waitpid(child, 0)
    os.close(wait)


def test_new_folder_is_removed_if_it_stays_empty(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    with sole_writer(run):
        assert run.is_dir()
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="the reason"), sole_writer(run):
        raise InputError("the reason")
    assert not any(tmp_path.iterdir())
    with sole_writer(run):
        (run / "file").touch()
    assert sorted(path.name for path in run.iterdir()) == ["file", LOCK]


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_signal_during_slow_imports_removes_a_new_folder_that_is_empty(tmp_path: Path, is_empty: bool) -> None:
    folder = tmp_path / "parent" / "run"
    lines = [
        "import os, signal, sys",
        "from pathlib import Path",
        "from agents.cli.signals import slow_imports",
        "from agents.run.lock import sole_writer",
        "with sole_writer(folder := Path(sys.argv[1])), slow_imports():",
        "    pass" if is_empty else "    (folder / 'file').touch()",
        "    os.kill(os.getpid(), signal.SIGINT)",
        "    sys.exit(0)",
    ]
    process = subprocess.run([sys.executable, "-c", "\n".join(lines), str(folder)], cwd=ROOT, check=False)
    assert process.returncode == 130
    assert (tmp_path / "parent").exists() == folder.exists() == (not is_empty)


def test_waiting_process_locks_the_recreated_folder(tmp_path: Path) -> None:
    """The first holder removes the folder that it created, so the waiting process must create and lock it again."""
    run = tmp_path / "run"
    with held(run) as other:
        descriptor = os.open(run / LOCK, os.O_RDONLY)
        eventually(lambda: is_locked(run))
        assert other.stdin
        other.stdin.close()
        other.wait()
    assert not run.exists()
    os.close(descriptor)
    with sole_writer(run, wait=True) as lock:
        assert lock.current_folder() == run


def test_invalid_lock_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious", encoding="utf-8")
    made: list[Callable[[Path], object]] = [os.mkfifo, os.mkdir, lambda path: path.symlink_to(outside)]
    for number, make in enumerate(made):
        run = tmp_path / f"run{number}"
        run.mkdir()
        make(run / LOCK)
        with pytest.raises(InputError) as caught, sole_writer(run):
            pass
        assert "\n" not in str(caught.value) and str(run) in str(caught.value)
        assert not is_locked(run)
    assert outside.read_text(encoding="utf-8") == "precious"
    for run in (outside / "run", tmp_path / ("x" * 300), Path("/dev/null/run"), tmp_path / "a\0b"):
        with pytest.raises(InputError, match=r"cannot be written"), sole_writer(run):
            pass


def test_is_locked_does_not_block_writers(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    descriptor = os.open(tmp_path / LOCK, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    looked = threading.Timer(0.05, os.close, [descriptor])
    looked.start()
    with sole_writer(tmp_path):
        assert is_locked(tmp_path)
    looked.join()


def test_file_system_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    with sole_writer(tmp_path) as lock:
        assert lock.current_folder() == tmp_path
    assert f"run={tmp_path} cannot be locked (No locks available)" in capsys.readouterr().err


def test_links_are_refused_before_anything_is_renamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    assert train.main([*TINY, f"run={run}", "total_frames=100"]) == 0
    (run / "checkpoints").rename(outside)
    for checkpoint in list_checkpoints(outside):
        checkpoint.write_bytes(b"damaged")
    (run / "checkpoints").symlink_to(outside)
    before = files(outside)
    assert train.main([f"run={run}", "resume=true", "total_frames=200"]) == 2
    assert "is a link that leads out of" in capsys.readouterr().err
    assert files(outside) == before


def test_owner_text_of_another_process_is_not_printed_unchecked(tmp_path: Path) -> None:
    for owner in ("12 \x1b[31mred", "\x1b[31m", "", "-1 x", "٣ x", "12"):
        said = str(run_lock._busy_error(tmp_path, "run", owner))
        assert any(f" by {writer}: wait " in said for writer in ("process 12", "another process"))
    assert " by process 12 on elsewhere: wait " in str(run_lock._busy_error(tmp_path, "run", "12 elsewhere"))


@pytest.mark.parametrize("renamed", [True, False])
def test_moved_or_deleted_folder_ends_the_run(
    renamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    update, seen = Statistics.update, list[int]()

    def take_away(*arguments: object) -> None:
        update(*arguments)  # type: ignore[arg-type]
        seen.append(1)
        if len(seen) == 5:
            run.rename(elsewhere)
            if not renamed:
                shutil.rmtree(elsewhere)

    monkeypatch.setattr(Statistics, "update", take_away)
    assert train.main([*TINY, f"run={run}", "total_frames=100000"]) == 1
    errors = capsys.readouterr().err
    assert len(seen) == 5 and "Traceback" not in errors and not run.exists()
    if not renamed:
        assert f"run={run} was deleted while the run wrote to it" in errors and not elsewhere.exists()
        return
    assert f"run={run} was renamed to {elsewhere} while the run wrote to it" in errors
    assert "The run was saved up to here" in errors
    assert [path.name for path in list_checkpoints(elsewhere / "checkpoints")] == ["checkpoint-000000000005.pt"]
    monkeypatch.undo()
    assert train.main([f"run={elsewhere}", "resume=true", "total_frames=200"]) == 0


def test_another_run_at_the_old_path_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    update = Statistics.update

    def replace(*arguments: object) -> None:
        update(*arguments)  # type: ignore[arg-type]
        if not (tmp_path / "elsewhere").exists():
            run.rename(tmp_path / "elsewhere")
            (run / "checkpoints").mkdir(parents=True)
            (run / LOCK).touch()

    monkeypatch.setattr(Statistics, "update", replace)
    assert train.main([*TINY, f"run={run}", "total_frames=100000"]) == 1
    assert f"was renamed to {tmp_path / 'elsewhere'}" in capsys.readouterr().err
    assert files(run) == {}
