"""Finds all descendants of a run and kills them when their owner has ended. Linux only; on other systems all functions do nothing.

A program that an environment starts may call setsid, lose its parent, and change its environment variables. So processes are identified by
a mark that every child inherits and that no program has a reason to change: RLIMIT_RTTIME, at a value too large to limit anything.

The mark holds the process id of the run's root (the learner or another entry point), a random number, and the process id of the owner.
A process becomes an owner by calling `own`: the root, an actor, the process of a slot. A process may run as long as its owner, and an owner
as long as its parent.

As a script, this module is the supervisor of a root. It outlives the root, kills all processes with the root's mark, and removes the
temporary folder of the run. It starts before all other child processes and has no slow imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

_LIMIT: int | None = getattr(resource, "RLIMIT_RTTIME", None) if sys.platform == "linux" else None
_LIMIT_NAME = b"Max realtime timeout"
"""The name of the limit in /proc/<pid>/limits."""

_PID_BITS, _RANDOM_BITS = 22, 18
"""Process ids have at most 22 bits on Linux. One more bit identifies a mark, so a mark has 63 bits."""
_PID_MASK = (1 << _PID_BITS) - 1

_LOOK_SECONDS = 0.1
"""Period of the supervisor's check that its root is alive."""

_DYING_SECONDS, _MOST_SECONDS = 1.0, 10.0
"""Timeouts of `_end`: after the last kill, and in total, because processes may start others faster than they are killed."""

_READY_SECONDS = 10.0
"""Timeout for the start of a supervisor, on a busy machine."""

_PARENT_FOLDER = "/tmp"
"""Parent of temporary folders. Its path is short, because sockets are created inside."""

_FOLDER = re.compile(r"mimpala-[0-9a-f]{11}")
_YOUNG_SECONDS = 60.0
"""A younger folder may not be locked yet."""

_supervised: dict[int, int] = {}
"""Process with a supervisor -> descriptor that locks its temporary folder, or -1. By process id, because a fork copies this dict."""


class _Process(NamedTuple):
    """A living process of a run. `started`: clock ticks since boot."""

    parent: int
    started: str
    run: int
    owner: int


def own() -> None:
    """Makes this process the owner of the processes that it starts from now on. `end_orphans` kills them after this process ended."""
    mark = _own_mark()
    if mark & _PID_MASK != os.getpid() or not mark:
        _set_mark((mark >> _PID_BITS or _new_run()) << _PID_BITS | os.getpid())


def end_orphans() -> None:
    """Kills all processes of this run whose owner has ended, and waits until they are gone, with a timeout."""
    if run := _own_mark() >> _PID_BITS:
        _end(run, _orphans)


def end_all() -> None:
    """Kills all processes of this run except this one, and waits until they are gone, with a timeout."""
    if run := _own_mark() >> _PID_BITS:
        _end(run, _all_but_trackers)


def supervise() -> None:
    """Makes this process the root of a run with a supervisor. Further calls do nothing.

    If the supervisor cannot be started or is killed, the run continues without it.
    """
    if os.getpid() in _supervised or _LIMIT is None:
        return
    # Imported here, because the supervisor does not need it.
    import subprocess

    run = _own_mark() >> _PID_BITS
    if run & _PID_MASK != os.getpid():
        run = _new_run()
        _set_mark(run << _PID_BITS | os.getpid())
    if _own_mark() >> _PID_BITS != run:
        return
    folder, _supervised[os.getpid()] = _folder(run), -1
    command, null = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(run), folder], subprocess.DEVNULL
    # A signal to the process group must not kill the supervisor before it has left the group.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        starting = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    except OSError:
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with contextlib.suppress(subprocess.TimeoutExpired):
        starting.wait(_READY_SECONDS)
    # If this fails, temporary files go to the system's default folder.
    with contextlib.suppress(OSError):
        os.mkdir(folder, 0o700)
        _supervised[os.getpid()] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(_supervised[os.getpid()], fcntl.LOCK_SH)


def temporary_folder() -> str | None:
    """The temporary folder of this run, which the supervisor removes; None without a folder."""
    folder = _folder(_own_mark() >> _PID_BITS)
    return folder if _is_own_folder(folder) else None


def _new_run() -> int:
    """The upper bits of a mark."""
    chance = int.from_bytes(os.urandom(4), "little") & ((1 << _RANDOM_BITS) - 1)
    return (1 << _RANDOM_BITS | chance) << _PID_BITS | os.getpid()


def _folder(run: int) -> str:
    return f"{_PARENT_FOLDER}/mimpala-{run:x}"


def _is_own_folder(path: str) -> bool:
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return False


def _is_mark(limit: int) -> bool:
    return limit >> (2 * _PID_BITS + _RANDOM_BITS) == 1


def _own_mark() -> int:
    """The mark of this process; 0 if it has none."""
    if _LIMIT is None:
        return 0
    soft, _ = resource.getrlimit(_LIMIT)
    return soft if _is_mark(soft) else 0


def _set_mark(soft: int) -> None:
    if _LIMIT is not None:
        # Fails if the hard limit is lower.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(_LIMIT, (soft, resource.getrlimit(_LIMIT)[1]))


def _status(pid: int) -> tuple[int, str] | None:
    """Parent and start time of a process; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The process name in parentheses may hold any characters.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else (int(fields[1]), fields[19].decode())


def _look_at(pid: int) -> _Process | None:
    """The process with this id; None if it has no mark or has ended."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            limit = file.read().partition(_LIMIT_NAME)[2].split(None, 1)[0]
    except (OSError, IndexError):
        return None
    mark = int(limit) if limit.isdigit() else 0
    if not _is_mark(mark) or not (status := _status(pid)):
        return None
    return _Process(*status, mark >> _PID_BITS, mark & _PID_MASK)


def _processes(run: int) -> dict[int, _Process]:
    """The processes of `run` by process id."""
    found = ((pid, _look_at(pid)) for pid in map(int, filter(str.isdigit, os.listdir("/proc"))))
    return {pid: process for pid, process in found if process and process.run == run}


def _orphans(found: dict[int, _Process]) -> Iterator[int]:
    for pid, process in found.items():
        if process.owner != pid:
            owner = found.get(process.owner)
            if owner is None or owner.owner != process.owner:
                yield pid
        elif process.run & _PID_MASK != pid and process.parent not in found:
            yield pid


def _all_but_trackers(found: dict[int, _Process]) -> Iterator[int]:
    """All processes except this one and multiprocessing's resource trackers, which clean up and exit by themselves."""
    for pid in found:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if pid != os.getpid() and b"multiprocessing.resource_tracker" not in file.read():
                yield pid


def _end(run: int, choose: Callable[[dict[int, _Process]], Iterator[int]]) -> None:
    """Kills the chosen processes until none is left. They may start others meanwhile."""
    start = last_kill = time.monotonic()
    killed = set[int]()
    while found := set(choose(_processes(run))):
        now = time.monotonic()
        if new := found - killed:
            last_kill = now
        if now - last_kill > _DYING_SECONDS or now - start > _MOST_SECONDS:
            return
        for pid in new:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= new
        time.sleep(0.002)


def _remove_abandoned() -> None:
    """Removes this user's temporary folders of runs whose supervisor was killed."""
    for entry in os.scandir(_PARENT_FOLDER):
        if not _FOLDER.fullmatch(entry.name) or not _is_own_folder(entry.path):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if time.time() - os.fstat(handle).st_mtime > _YOUNG_SECONDS:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(handle)


def _supervise(root: int, run: int, folder: str) -> None:
    """Main function of the supervisor. All signals are blocked since before its start."""
    assert _LIMIT is not None
    # The supervisor must not be killed with the run: it removes its mark, and the fork below removes its parent.
    hard = resource.getrlimit(_LIMIT)[1]
    resource.setrlimit(_LIMIT, (hard, hard))
    os.chdir("/")
    status = _status(root) if os.getppid() == root else None
    if os.fork():
        os._exit(0)
    with contextlib.suppress(OSError):
        _remove_abandoned()
    while status and (now := _status(root)) and now[1] == status[1]:
        time.sleep(_LOOK_SECONDS)
    _end(run, _all_but_trackers)
    if _is_own_folder(folder):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _supervise(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
