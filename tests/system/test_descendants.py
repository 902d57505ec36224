"""Marks identify the processes of a run, and supervisors remove temporary folders."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import eventually, is_gone

import train
from system import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")

ROOT = Path(train.__file__).parent

# A root with two owners, one of which starts a third; each starts a program. They print their process ids, and end on command.
FAMILY = """
import os, subprocess, sys
from system.descendants import end_orphans, own, supervise

def program():
    return subprocess.Popen(["env", "-i", "sleep", "100000"], start_new_session=True, stdout=subprocess.DEVNULL)

def owner(deep):
    code = f"import family; family.live({deep})"
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

def live(deep):
    own()
    print(os.getpid(), program().pid, flush=True)
    if deep:
        print(owner(False).stdout.readline(), end="", flush=True)
    sys.stdin.readline()

if __name__ == "__main__":
    supervise()
    print(program().pid, flush=True)
    family = [owner(True), owner(False)]
    for one, lines in zip(family, (2, 1)):
        for _ in range(lines):
            print(one.stdout.readline(), end="", flush=True)
    family[0].kill()
    family[0].wait()
    end_orphans()
    print("ended", flush=True)
    sys.stdin.readline()
"""


def begin(folder: Path, code: str) -> subprocess.Popen[str]:
    (folder / "family.py").write_text(code, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(folder / "family.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
    )


def test_programs_end_with_their_owner_and_all_programs_end_with_the_root(tmp_path: Path) -> None:
    process = begin(tmp_path, FAMILY)
    try:
        assert process.stdout
        lines = iter(process.stdout.readline, "ended\n")
        root, deep, third, other = ([int(pid) for pid in line.split()] for line in lines)
        # The first owner's child owner ended with it.
        assert all(map(is_gone, deep + third)) and not any(map(is_gone, root + other))
    finally:
        process.kill()
        process.wait()
    eventually(lambda: all(map(is_gone, root + other)))


def test_a_program_of_another_run_keeps_running(tmp_path: Path) -> None:
    """It was started by the same process before `supervise`."""
    code = """
import subprocess
before = subprocess.Popen(["sleep", "100000"])
print(before.pid, flush=True)
from system.descendants import end_all, end_orphans, supervise
supervise()
subprocess.Popen(["sleep", "100000"])
end_orphans()
end_all()
print(before.poll(), flush=True)
before.kill()
"""
    process = begin(tmp_path, code)
    said, _ = process.communicate(timeout=60)
    assert said.split()[1] == "None" and process.returncode == 0


@pytest.fixture
def abandoned() -> Iterator[list[Path]]:
    """Temporary folders of a killed run, a live run and a starting run, and an entry that only looks like one."""
    number = os.getpid() << 8 | 1 << 43
    folders = [Path(f"/tmp/mimpala-{number + index:x}") for index in range(3)] + [Path(f"/tmp/mimpala-{os.getpid()}-x")]
    for folder in folders:
        folder.mkdir()
        (folder / "socket").touch()
    for index in (0, 1, 3):
        os.utime(folders[index], (time.time() - 3600, time.time() - 3600))
    lock = os.open(folders[1], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_SH)
    yield folders
    os.close(lock)
    for folder in folders:
        (folder / "socket").unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()


def test_the_next_start_removes_folders_of_runs_killed_with_their_supervisor(
    abandoned: list[Path], tmp_path: Path
) -> None:
    process = begin(tmp_path, "from system.descendants import supervise; supervise(); input()")
    try:
        eventually(lambda: not abandoned[0].exists())
    finally:
        process.communicate("\n")
    assert [folder.exists() for folder in abandoned] == [False, True, True, True]


def test_a_supervised_process_has_a_temporary_folder_that_is_removed_with_it(tmp_path: Path) -> None:
    code = """
from system.descendants import supervise, temporary_folder
print(temporary_folder())
supervise()
supervise()
print(temporary_folder(), flush=True)
input()
"""
    process = begin(tmp_path, code)
    assert process.stdout
    others = process.stdout.readline()
    folder = Path(process.stdout.readline().strip())
    # The test process may be supervised.
    assert str(folder) != others.strip()
    assert folder.stat().st_mode & 0o777 == 0o700 and folder.stat().st_uid == os.getuid()
    (folder / "file").touch()
    process.kill()
    process.communicate()
    eventually(lambda: not folder.exists())


def test_without_a_mark_nothing_is_supervised_or_killed(tmp_path: Path) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_RTTIME, (1000, 1000))
from system.descendants import *
supervise(); own(); end_orphans(); end_all()
print(temporary_folder())
"""
    process = begin(tmp_path, code)
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("None\n", 0)


def test_on_other_systems_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descendants, "_LIMIT", None)
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail("there may be no /proc"))
    descendants.supervise()
    descendants.own()
    descendants.end_orphans()
    descendants.end_all()
    assert descendants.temporary_folder() is None
