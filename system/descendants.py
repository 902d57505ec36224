"""Finds what a program and its environments have started, and ends it with the process that it belongs to. Linux only; elsewhere nothing
here does anything.

A program that an environment starts may call setsid, lose its parent, and get other environment variables. So processes are told by a
mark that every child inherits and that no program has a reason to change: the limit on the processor time of real-time tasks
(RLIMIT_RTTIME), at a value so large that it limits nothing. The mark holds the process id of the run's root, which is the learner or
another program, a random number, and the process id of the owner. An owner is whoever has called `own`: the root, an actor, the process
of a slot. A process may run as long as its owner does, and an owner as long as the process does that has started it.

As a script, this is the supervisor of a root: it outlives the root, ends all that has its mark, and removes its temporary folder. It runs
from before the root starts anything else, and imports nothing that takes time.
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
"""In /proc/<pid>/limits."""

_PID_BITS, _RANDOM_BITS = 22, 18
"""Linux has no larger process ids. With the bit that says that it is a mark, a mark has 63 bits."""

_LOOK_SECONDS = 0.1
"""How often the supervisor looks whether its root is there."""

_DYING_SECONDS, _MOST_SECONDS = 1.0, 10.0
"""In which a process is gone that was killed; and in which all are, however fast they start others."""

_READY_SECONDS = 10.0
"""In which a supervisor is ready, on a busy machine."""

_PLACE = "/tmp"
"""Of temporary folders: sockets lie in them, whose paths must be short."""

_FOLDER = re.compile(r"mimpala-[0-9a-f]{11}")
_YOUNG_SECONDS = 60.0
"""A folder that was just made may not be locked yet."""

_supervised: dict[int, int] = {}
"""The process that has a supervisor (a copy of it has none) -> the descriptor by which it locks its temporary folder, or -1."""


class _Process(NamedTuple):
    """A living process of a run. `started`: clock ticks since the machine's start."""

    parent: int
    started: str
    run: int
    owner: int


def own() -> None:
    """From now on what this process starts is its own, and ends when this process has (`end_orphans`)."""
    mark = _own_mark()
    if mark & _ones(_PID_BITS) != os.getpid() or not mark:
        _set_mark((mark >> _PID_BITS or _new_run()) << _PID_BITS | os.getpid())


def end_orphans() -> None:
    """Kills all processes of this run whose owner has ended, and waits until they are gone, but not for ever."""
    if run := _own_mark() >> _PID_BITS:
        _end(run, _orphans)


def end_all() -> None:
    """Kills all processes of this run but this one, and waits until they are gone, but not for ever."""
    if run := _own_mark() >> _PID_BITS:
        _end(run, _all_but_trackers)


def supervise() -> None:
    """Makes this process the root of a run of its own, with a supervisor. Does nothing the second time.

    The run goes on without one where none can be started, or where it is killed.
    """
    if os.getpid() in _supervised or _LIMIT is None:
        return
    # Imported here, for the supervisor does without.
    import subprocess

    run = _own_mark() >> _PID_BITS
    if run & _ones(_PID_BITS) != os.getpid():
        run = _new_run()
        _set_mark(run << _PID_BITS | os.getpid())
    if _own_mark() >> _PID_BITS != run:
        return
    folder, _supervised[os.getpid()] = _folder(run), -1
    # A signal to the whole process group must not end it before it has left the group.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        starting = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(run), folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with contextlib.suppress(subprocess.TimeoutExpired):
        starting.wait(_READY_SECONDS)
    # Without it, temporary files lie where they usually do.
    with contextlib.suppress(OSError):
        os.mkdir(folder, 0o700)
        _supervised[os.getpid()] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(_supervised[os.getpid()], fcntl.LOCK_SH)


def temporary_folder() -> str | None:
    """Of this run, which its supervisor removes; None where there is none."""
    folder = _folder(_own_mark() >> _PID_BITS)
    return folder if _is_own_folder(folder) else None


def _ones(bits: int) -> int:
    return (1 << bits) - 1


def _new_run() -> int:
    """The upper bits of a mark."""
    chance = int.from_bytes(os.urandom(4), "little") & _ones(_RANDOM_BITS)
    return (1 << _RANDOM_BITS | chance) << _PID_BITS | os.getpid()


def _folder(run: int) -> str:
    return f"{_PLACE}/mimpala-{run:x}"


def _is_own_folder(path: str) -> bool:
    with contextlib.suppress(OSError):
        status = os.lstat(path)
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return False


def _is_mark(limit: int) -> bool:
    return limit >> (2 * _PID_BITS + _RANDOM_BITS) == 1


def _own_mark() -> int:
    """0 for none."""
    if _LIMIT is None:
        return 0
    soft, _ = resource.getrlimit(_LIMIT)
    return soft if _is_mark(soft) else 0


def _set_mark(soft: int) -> None:
    if _LIMIT is not None:
        # Not where whoever has started this process allows real-time tasks less.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(_LIMIT, (soft, resource.getrlimit(_LIMIT)[1]))


def _status(pid: int) -> tuple[int, str] | None:
    """Parent, and time of the start; None for a process that has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before it may hold anything.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else (int(fields[1]), fields[19].decode())


def _look_at(pid: int) -> _Process | None:
    """None for a process that has no mark, or has ended."""
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            limit = file.read().partition(_LIMIT_NAME)[2].split(None, 1)[0]
    except (OSError, IndexError):
        return None
    mark = int(limit) if limit.isdigit() else 0
    if not _is_mark(mark) or not (status := _status(pid)):
        return None
    return _Process(*status, mark >> _PID_BITS, mark & _ones(_PID_BITS))


def _processes(run: int) -> dict[int, _Process]:
    """Of that run, by process id."""
    found = ((pid, _look_at(pid)) for pid in map(int, filter(str.isdigit, os.listdir("/proc"))))
    return {pid: process for pid, process in found if process and process.run == run}


def _orphans(found: dict[int, _Process]) -> Iterator[int]:
    for pid, process in found.items():
        if process.owner != pid:
            owner = found.get(process.owner)
            if owner is None or owner.owner != process.owner:
                yield pid
        elif process.run & _ones(_PID_BITS) != pid and process.parent not in found:
            yield pid


def _all_but_trackers(found: dict[int, _Process]) -> Iterator[int]:
    """multiprocessing's resource trackers end by themselves when all that they track have, and remove what those have left."""
    for pid in found:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if pid != os.getpid() and b"multiprocessing.resource_tracker" not in file.read():
                yield pid


def _end(run: int, choose: Callable[[dict[int, _Process]], Iterator[int]]) -> None:
    """Kills those until there are none, for they may start others meanwhile."""
    begun = asked = time.monotonic()
    killed = set[int]()
    while found := set(choose(_processes(run))):
        now = time.monotonic()
        if new := found - killed:
            asked = now
        if now - asked > _DYING_SECONDS or now - begun > _MOST_SECONDS:
            return
        for pid in new:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= new
        time.sleep(0.002)


def _remove_abandoned() -> None:
    """Removes this user's temporary folders of runs whose supervisor was killed, too."""
    for entry in os.scandir(_PLACE):
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
    """Main function of the supervisor. It hears no signal: all are held back since before its start."""
    assert _LIMIT is not None
    # Not to be found itself, neither by its mark nor, without a parent, by who kills all that the root has started.
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
