"""Removes the shared memory of ViZDoom games that were killed. The engine names it, and only an orderly end removes it."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

_NAMES = re.compile(r"ViZDoom(SM|MQCtr|MQDoom)\w+")
_YOUNG_SECONDS = 60.0
"""Age in seconds below which files stay: a game that is starting may not have mapped its own yet."""


def remove_abandoned(shared: Path = Path("/dev/shm"), processes: Path = Path("/proc")) -> list[str]:
    """Removes this user's files of games that no process maps, and returns their names."""
    if not shared.is_dir():
        return []
    names = []
    for path in shared.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            old = time.time() - status.st_mtime > _YOUNG_SECONDS
            if _NAMES.fullmatch(path.name) and status.st_uid == os.getuid() and old:
                names.append(path.name)
    mapped = _mapped(processes) if names else ""
    abandoned = [name for name in names if name not in mapped]
    for name in abandoned:
        (shared / name).unlink(missing_ok=True)
    return abandoned


def _mapped(processes: Path) -> str:
    """The memory maps of all processes that this user may inspect."""
    found = []
    for path in processes.glob("[0-9]*/maps"):
        # The process may end, or belong to another user, who cannot map these files.
        with contextlib.suppress(OSError):
            found.append(path.read_text(encoding="utf-8", errors="replace"))
    return "\n".join(found)
