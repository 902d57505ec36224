"""Small files that are there whole or not at all, so that a run that is killed at any moment can still be read."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes `text` (UTF-8) to `path`, in whose place the old content stands until the new one is on the disk.

    Raises:
        OSError: the disk refuses; the old content is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
