"""What tests ask of processes that others have started."""

from __future__ import annotations

from pathlib import Path


def is_gone(pid: int) -> bool:
    """Ended; a child of a process that does not wait for it, and such are left to a lazy init, is as good as gone."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return True
