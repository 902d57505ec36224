"""Files that hold whole contents only, so that a run that is killed at any moment, or whose disk is full, can still be read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Writes `content` (text as UTF-8) to `path`, in whose place the old content stands until the new one is on the disk.

    Raises:
        OSError: the disk refuses; the old content is untouched, and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    # What an earlier kill has left. Whatever it is, it is never followed: mode x makes a file of its own.
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as `write_whole` does."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


class AppendedFile:
    """A file that grows by whole records: one that the disk refuses leaves no part of itself behind."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: what was refused must not come again with a later record.
        self._file = path.open("ab", buffering=0)

    def write(self, record: bytes) -> None:
        """Appends `record`, which other processes can read from then on; OSError when the disk refuses."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(record) < len(record):
                # The kernel wrote as much as there was room for, and would only say so the next time.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(size)
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _sync_directory(folder: Path) -> None:
    """Makes a rename in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
