"""Files that hold whole contents only, so that a run that is killed at any moment, or whose disk is full, can still be read."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from system.errors import InputError

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""In JSON, whose two halves of a character usually stand side by side."""

MOST_BYTES = 64 * 2**20
"""Of a file that is read at once: an evaluation of half a million episodes. What JSON of that size becomes in memory is below 2 GiB."""


def open_ordinary(path: Path, flags: int = os.O_RDONLY) -> int:
    """The descriptor of an ordinary file. Never waits, as opening a pipe does for somebody at its other end.

    Raises:
        OSError: it is none: missing, a folder, a device, a pipe.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no ordinary file", os.fspath(path))
    return descriptor


def read_bounded(path: Path, most: int = MOST_BYTES) -> str:
    """The text of an ordinary file of at most so many bytes.

    Raises:
        OSError: it is none (`open_ordinary`), or too large.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open(open_ordinary(path), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", os.fspath(path))
    return content.decode()


def read_lines(path: Path, most: int = 2**20, *, last: int = 0) -> Iterator[str]:
    """The lines of an ordinary file of any size, one by one. Those of more than so many bytes are left out.

    Args:
        last: begin with the first whole line among so many bytes at the end; 0 = at the beginning.

    Raises:
        OSError: it is no ordinary file.
    """
    with open(open_ordinary(path), "rb") as file:
        if last and file.seek(0, os.SEEK_END) > last:
            file.seek(-last, os.SEEK_END)
            file.readline(last)
        else:
            file.seek(0)
        while line := file.readline(most + 1):
            if len(line) <= most:
                yield line.decode(errors="replace").rstrip("\n")
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(most)


def check_links(folder: Path, *parts: str) -> None:
    """Refuses a folder out of which a symbolic link leads: one of its `parts` (all of them by default), or one right inside of these.

    A run folder may come from somebody else, and what is written, appended to or removed there would be somewhere else.

    Raises:
        InputError: with the link.
    """
    home = os.path.realpath(folder)
    inside = [folder / part for part in parts] or (sorted(folder.iterdir()) if folder.is_dir() else [])
    below = [path for part in inside if part.is_dir() and not part.is_symlink() for path in sorted(part.iterdir())]
    for path in (*inside, *below):
        if path.is_symlink() and os.path.commonpath([home, os.path.realpath(path)]) != home:
            raise InputError(f"{path} is a link that leads out of {folder}: put what it leads to in its place.")


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Writes `content` to `path`, in whose place the old content stands until the new one is on the disk.

    Text is written as UTF-8, with escapes for halves of characters and other bytes in names of files.

    Raises:
        OSError: the disk refuses; the old content is untouched, and nothing else is left.
    """
    temporary = temporary_of(path)
    # What an earlier kill has left. Whatever it is, it is never followed: mode x makes a file of its own.
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def temporary_of(path: Path) -> Path:
    """Where `write_whole` writes first, and what a kill has left may lie."""
    return path.with_name(f".{path.name}.tmp")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as `write_whole` does; numbers that are not finite become null, because JSON has none of them."""
    write_whole(path, json.dumps(finite_or_null(content), indent=2, allow_nan=False) + "\n")


def finite_or_null(content: Any) -> Any:
    """The same data with null in place of numbers that are not finite."""
    if isinstance(content, dict):
        return {key: finite_or_null(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite_or_null(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def parse_json(text: str) -> Any:
    """What a text of JSON says; ValueError when it is none, is nested too deeply, or has texts that no file can hold (`is_text`)."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if _HALF.search(text) and not is_text(json.dumps(content, ensure_ascii=False)):
        raise ValueError("it holds half of a character")
    return content


def is_text(text: str) -> bool:
    """Whether a text can be written: one with half of a character (U+D800) cannot. Bytes that are no UTF-8 in names of files, which Python
    reads as U+DC80 to U+DCFF, can.
    """
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        content = parse_json(read_bounded(path))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


class AppendedFile:
    """A file that grows by whole records: one that the disk refuses leaves no part of itself behind."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: what was refused must not come again with a later record.
        self._file = os.fdopen(open_ordinary(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0)

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
