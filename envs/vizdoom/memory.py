"""Clears away the shared memory of ViZDoom's games that were killed: the engine gives it names, and only an orderly end removes them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

_NAMES = re.compile(r"ViZDoom(SM|MQCtr|MQDoom)\w+")
_YOUNG_SECONDS = 60.0
"""A game that is just starting may not have mapped what it has created."""


def remove_abandoned(shared: Path = Path("/dev/shm"), processes: Path = Path("/proc")) -> list[str]:
    """Removes this user's files of games that no process has mapped any more, and returns their names."""
    if not shared.is_dir():
        return []
    names = [path.name for path in shared.iterdir() if _NAMES.fullmatch(path.name) and _is_old_and_own(path)]
    mapped = _mapped(processes) if names else ""
    abandoned = [name for name in names if name not in mapped]
    for name in abandoned:
        (shared / name).unlink(missing_ok=True)
    return abandoned


def _is_old_and_own(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        return status.st_uid == os.getuid() and time.time() - status.st_mtime > _YOUNG_SECONDS
    return False


def _mapped(processes: Path) -> str:
    """What the processes that this user may look into have mapped."""
    found = []
    for path in processes.glob("[0-9]*/maps"):
        # It may end, or belong to somebody else, who could not map this user's memory.
        with contextlib.suppress(OSError):
            found.append(path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(found)
