"""A folder of compiled maps that any number of processes and runs share.

DeepMind Lab compiles a map in seconds and asks the cache first. A key identifies a map exactly, level and seed included, so the cache
changes only the duration of a reset.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import struct
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

KEPT = 0.9
"""Fraction of the allowed size to which old maps are removed, so that not every write removes one."""

ABANDONED = 3600.0
"""Age in seconds from which a half-written file belongs to a process that was killed."""


_KEY = re.compile(r"(?P<map>.+)_(?P<no>no)?aas_[0-9a-f]{32}")
"""The engine's keys: the name of the map, whether it is without paths for bots, and a digest of its source."""

_ENGINE_READS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_MAP, _HALF_WRITTEN = re.compile(r"[0-9a-f]{40}\.pk3"), re.compile(r"\.\w+\.tmp")


class LevelCache:
    """The argument `level_cache` of `deepmind_lab.Lab`, with the methods `fetch` and `write`.

    Files are in 256 folders by the hash of their key. A rename makes each file appear complete. Above `max_bytes` the least recently used
    files are removed. A process counts the sizes again after it has written a twentieth of `max_bytes`, so several processes together may
    exceed the limit for a while. The folder is created when the first map is written.

    Attributes:
        hits, misses: Number of successful and failed calls of `fetch`.
        failures: Number of maps that could not be stored, because the disk is full or read-only. This is not an error.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self._folder = Path(folder).expanduser().absolute()
        self._max_bytes = max_bytes
        # So that the first write counts the files of other processes.
        self._uncounted = max_bytes
        self.hits = self.misses = self.failures = 0

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Copies the map of `key` to `pk3_path`; returns False if there is none.

        A damaged archive, or one without the map, would end the engine's process, so such a file is removed.
        """
        found = self._copy_out(self._path(key), Path(pk3_path), key)
        self.hits += found
        self.misses += not found
        return found

    def write(self, key: str, pk3_path: str) -> None:
        """Stores the map at `pk3_path` under `key`."""
        path = self._path(key)
        try:
            if path.exists():
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(pk3_path, "rb") as source:
                self._uncounted += _copy_whole(source, path, durable=True)
            if self._uncounted >= self._max_bytes / 20:
                self._shrink()
        except OSError:
            # A run works without a cache.
            self.failures += 1

    def _path(self, key: str) -> Path:
        digest = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self._folder / digest[:2] / f"{digest}.pk3"

    def _copy_out(self, source: Path, target: Path, key: str) -> bool:
        # Another process may remove the file at any moment, and a crash of the machine may have left half of one.
        try:
            with source.open("rb") as found:
                if not _holds_map(found, key):
                    # The engine then compiles the map again, and `write` stores it.
                    source.unlink(missing_ok=True)
                    return False
                found.seek(0)
                _copy_whole(found, target, durable=False)
        except OSError:
            return False
        with contextlib.suppress(OSError):
            os.utime(source)
        return True

    def _shrink(self) -> None:
        self._uncounted = 0
        files = []
        # Only files of the cache: by mistake the folder may hold files of the user.
        for path in self._folder.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if _MAP.fullmatch(path.name):
                    files.append((status.st_mtime_ns, status.st_size, path))
                elif _HALF_WRITTEN.fullmatch(path.name) and status.st_mtime < time.time() - ABANDONED:
                    path.unlink()
        size = sum(bytes_ for _, bytes_, _ in files)
        if size <= self._max_bytes:
            return
        for _, bytes_, path in sorted(files):
            path.unlink(missing_ok=True)
            size -= bytes_
            if size <= self._max_bytes * KEPT:
                return


def _holds_map(file: BinaryIO, key: str) -> bool:
    """Whether the engine can load the map of `key` from an open file: an intact archive with the files of the map."""
    named = _KEY.fullmatch(key)
    try:
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist() if entry.file_size}
            maps = [name for name in entries if name.startswith("maps/") and name.endswith(".bsp")]
            wanted = maps[:1]
            if named:
                wanted = [f"maps/{named['map']}.bsp", *([] if named["no"] else [f"maps/{named['map']}.aas"])]
            readable = all(entry.compress_type in _ENGINE_READS for entry in archive.infolist())
            return bool(wanted) and readable and set(wanted) <= set(entries) and archive.testzip() is None
    # A damaged archive fails in many ways: numbers out of range, unknown methods, truncated streams.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, struct.error, OverflowError):
        return False


def _copy_whole(source: BinaryIO, target: Path, *, durable: bool) -> int:
    """Copies an open file so that `target` appears complete or not at all, with `durable` also at a loss of power. Returns the size."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as copy:
            os.fchmod(handle, os.fstat(source.fileno()).st_mode)
            shutil.copyfileobj(source, copy)
            size = copy.tell()
            if durable:
                copy.flush()
                os.fsync(copy.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return size
