"""Small files that are there whole or not at all, so that a run that is killed at any moment can still be read."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from envs.errors import InputError

MOST_BYTES = 64 * 2**20
"""Of a file that is read at once: an evaluation of half a million episodes. What JSON of that size becomes in memory is below 2 GiB."""


def read_bounded(path: Path, most: int = MOST_BYTES) -> str:
    """The text of an ordinary file of at most so many bytes.

    Raises:
        OSError: it is none: missing, a device, a pipe that would never end, or too large.
        UnicodeDecodeError: it is not UTF-8.
    """
    # Opening a pipe would wait for somebody who writes into it.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no ordinary file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"{path} is larger than {most:,} bytes")
    return content.decode()


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


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes `content` (text as UTF-8) to `path`, in whose place the old content stands until the new one is on the disk.

    Raises:
        OSError: the disk refuses; the old content is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    # A link that stands there would be followed.
    temporary.unlink(missing_ok=True)
    with temporary.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as `write_whole` does."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is none that can be read."""
    try:
        content = json.loads(read_bounded(path))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
