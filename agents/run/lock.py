"""A lock that gives a folder one writer. The process holds it before its first read, and the kernel releases it when the process ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from agents.cli.signals import cleaned_when_left
from agents.cli.terminal import warn
from system.errors import InputError, RunError
from system.files import check_links, open_ordinary

LOCK = "lock"

_RETRY_SECONDS = 0.2
"""Seconds of retries before a run is refused: `is_locked` holds the lock for a shorter time."""

_LOCKS: dict[str, FolderLock] = {}
"""Locks that this process holds, by folder."""


class MovedError(RunError):
    """The folder was deleted or renamed while this process wrote to it."""


class FolderLock:
    """The lock of a folder, held by this process. `folder` is the path that messages show."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self._folder, self._descriptor = folder, descriptor
        # An environment may change the working directory.
        self._path = Path(os.path.abspath(folder)) / LOCK

    def current_folder(self) -> Path | None:
        """The present path of the folder; None if it was deleted, or if its path is unknown."""
        if _is_at(self._descriptor, self._path):
            return self._folder
        with contextlib.suppress(OSError):
            path = Path(os.readlink(f"/proc/self/fd/{self._descriptor}"))
            if _is_at(self._descriptor, path):
                return path.parent
        return None

    def check(self) -> None:
        """Raises MovedError if the folder was renamed or deleted."""
        place = self.current_folder()
        if place is None:
            raise MovedError(f"run={self._folder} was deleted while the run wrote to it.")
        if place != self._folder:
            raise MovedError(f"run={self._folder} was renamed to {place} while the run wrote to it.")

    def release(self) -> None:
        """Releases the lock for other processes."""
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self.close()

    def close(self) -> None:
        """Closes the descriptor. In a forked child this leaves the lock to the parent."""
        os.close(self._descriptor)


@contextlib.contextmanager
def sole_writer(folder: Path, *, key: str = "run", wait: bool = False) -> Iterator[FolderLock]:
    """Locks a folder for this process, and creates it if missing. A new folder that stays empty is removed at the end, also when a
    signal ends the process during its slow imports.

    The lock is reentrant: it is released when the outermost context ends. `key` is the key of the command line that named the folder.
    Raises InputError if another process holds the lock (`wait` waits for it instead), if the folder cannot be written, or if a link leads
    out of it.
    """
    made = _make_folders(folder, key)
    name = os.path.realpath(folder)
    if name in _LOCKS:
        yield _LOCKS[name]
        return

    def discard() -> None:
        """Removes the folders that are new and stayed empty."""
        with contextlib.suppress(OSError):
            # Only the file of this process, which a forked child does not hold.
            if made and name in _LOCKS and os.listdir(folder) == [LOCK]:
                (folder / LOCK).unlink()
            for path in made:
                path.rmdir()

    with cleaned_when_left(discard):
        try:
            check_links(folder)
            _LOCKS[name] = FolderLock(folder, _open_locked(folder, key, wait))
            yield _LOCKS[name]
        finally:
            discard()
            # None if the folder could not be locked.
            if lock := _LOCKS.pop(name, None):
                lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder's lock."""
    return _read_owner_if_locked(folder) is not None


def _read_owner_if_locked(folder: Path) -> str | None:
    """The text that the holder of the lock wrote into it; None if the folder is not locked."""
    try:
        descriptor = open_ordinary(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return _read_owner(descriptor) if error.errno == errno.EWOULDBLOCK else None
    finally:
        os.close(descriptor)
    return None


def check_writable(folder: Path, key: str = "run") -> None:
    """Raises InputError if `sole_writer` would raise it. Writes nothing."""
    if (owner := _read_owner_if_locked(folder)) is not None:
        raise _busy_error(folder, key, owner)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{key}={folder} cannot be written ({there} is read-only or no folder): give another {key}=.")
    check_links(folder)


def _make_folders(folder: Path, key: str) -> list[Path]:
    """Creates the folder with its parents. Returns the folders that were missing, innermost first."""
    made = []
    try:
        for path in (folder, *folder.parents):
            if path.exists():
                break
            made.append(path)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _unwritable_error(folder, key, error) from error
    return made


def _open_locked(folder: Path, key: str, wait: bool) -> int:
    """Opens and locks the lock file, and writes this process's id into it. Returns the descriptor."""
    path, until = folder / LOCK, time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            descriptor = open_ordinary(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        except OSError as error:
            raise _unwritable_error(folder, key, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _read_owner(descriptor)
            if error.errno == errno.EWOULDBLOCK:
                os.close(descriptor)
                if time.monotonic() < until:
                    time.sleep(_RETRY_SECONDS / 10)
                    continue
                raise _busy_error(folder, key, owner) from error
            warn(f"warning: {key}={folder} cannot be locked ({error.strerror}): a second process could write to it.")
        # The previous holder may have removed the file.
        if _is_at(descriptor, path):
            break
        os.close(descriptor)
        _make_folders(folder, key)
    # The lock holds on a full disk too; only the owner's name is missing.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _read_owner(descriptor: int) -> str:
    """The text in the lock file: process id and host of its holder."""
    return os.pread(descriptor, 100, 0).decode(errors="replace").strip()


def _busy_error(folder: Path, key: str, owner: str) -> InputError:
    pid, _, host = owner.partition(" ")
    elsewhere = f" on {host}" if host.isprintable() and host not in ("", socket.gethostname()) else ""
    writer = f"process {pid}{elsewhere}" if pid.isdecimal() and pid.isascii() else "another process"
    return InputError(f"{key}={folder} is being written by {writer}: wait for it, or give another {key}=.")


def _unwritable_error(folder: Path, key: str, error: OSError | ValueError) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{key}={folder} cannot be written ({reason}): give another {key}=.")


def _drop_inherited_locks() -> None:
    """Runs in forked children: a process that an environment forks must not hold the lock, because it may outlive the writer."""
    for lock in _LOCKS.values():
        lock.close()
    _LOCKS.clear()


os.register_at_fork(after_in_child=_drop_inherited_locks)
