"""Small files that are there whole or not at all, so that a run that is killed at any moment can still be read."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes `content` (text as UTF-8) to `path`, in whose place the old content stands until the new one is on the disk.

    Raises:
        OSError: the disk refuses; the old content is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
