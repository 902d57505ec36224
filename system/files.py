"""Atomic writes and bounded reads: the files of a run stay readable if it is killed at any moment or the disk is full."""

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
"""A surrogate escape in JSON. Valid text has them in pairs."""

MOST_BYTES = 64 * 2**20
"""Largest file that is read at once: an evaluation of half a million episodes. Parsed JSON of that size takes less than 2 GiB."""


def open_ordinary(path: Path, flags: int = os.O_RDONLY) -> int:
    """Opens an ordinary file and returns its descriptor. It never blocks: a folder, a device or a pipe raises OSError."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no ordinary file", os.fspath(path))
    return descriptor


def read_bounded(path: Path, most: int = MOST_BYTES) -> str:
    """The text of an ordinary file. OSError if it is another one or larger than `most` bytes, UnicodeDecodeError if it is not UTF-8."""
    with open(open_ordinary(path), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", os.fspath(path))
    return content.decode()


def read_lines(path: Path, most: int = 2**20, *, last: int = 0) -> Iterator[str]:
    """Yields the lines of an ordinary file of any size; OSError for another one. Lines of more than `most` bytes are skipped. With `last`,
    it starts at the first complete line of the last `last` bytes.
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
    """Refuses symbolic links that lead out of `folder`, at its `parts` (default: all entries) and directly inside them.

    A run folder may come from another person. Through such a link, which the InputError names, a run would write or remove files elsewhere.
    """
    home = os.path.realpath(folder)
    inside = [folder / part for part in parts] or (sorted(folder.iterdir()) if folder.is_dir() else [])
    below = [path for part in inside if part.is_dir() and not part.is_symlink() for path in sorted(part.iterdir())]
    for path in (*inside, *below):
        if path.is_symlink() and os.path.commonpath([home, os.path.realpath(path)]) != home:
            raise InputError(f"{path} is a link that leads out of {folder}: replace it by a copy of its target.")


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Writes `content` to `path` atomically: a temporary file, fsync, rename.

    Text is written as UTF-8. Lone surrogates, which stand for undecodable bytes in file names, are escaped. If the disk refuses, OSError is
    raised, the old content is unchanged, and no temporary file is left.
    """
    temporary = temporary_of(path)
    # Remove the temporary file of an earlier kill. Mode x never follows a link.
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
    # Makes the rename survive a power cut.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def temporary_of(path: Path) -> Path:
    """The temporary file of `write_whole`. A kill may leave it behind."""
    return path.with_name(f".{path.name}.tmp")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically. Numbers that are not finite become null, because JSON cannot represent them."""
    write_whole(path, json.dumps(finite_or_null(content), indent=2, allow_nan=False) + "\n")


def finite_or_null(content: Any) -> Any:
    """A copy with None instead of numbers that are not finite."""
    if isinstance(content, dict):
        return {key: finite_or_null(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite_or_null(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def parse_json(text: str) -> Any:
    """Parses JSON. Raises ValueError if it is invalid, nested too deeply, or holds lone surrogates (`is_text`)."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if _HALF.search(text) and not is_text(json.dumps(content, ensure_ascii=False)):
        raise ValueError("it holds half of a character")
    return content


def is_text(text: str) -> bool:
    """Whether a text can be written to a file. Lone surrogates cannot, except U+DC80 to U+DCFF (undecodable bytes of file names)."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file is missing or holds no valid JSON object."""
    try:
        content = parse_json(read_bounded(path))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


class AppendedFile:
    """A file that grows by complete records. A record that the disk refuses leaves no partial data."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: a refused record must not be written with a later one.
        self._file = os.fdopen(open_ordinary(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0)

    def write(self, record: bytes) -> None:
        """Appends `record`, so that other processes can read it. Raises OSError if the disk refuses."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(record) < len(record):
                # The kernel wrote as much as fits and raises only at the next write.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(size)
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
