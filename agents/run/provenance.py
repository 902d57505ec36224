"""The origin of results: command, code, versions and machine."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """The origin of the results: command, code, versions, machine."""
    return {
        "command": sys.argv,
        "git": _git_state(),
        "versions": dict(versions()),
        "machine": {"platform": platform.platform(), "processor": _processor()},
    }


@cache
def versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that affect the results."""
    found = {"python": platform.python_version()}
    for package in ("mimpala", "torch", "numpy", "gymnasium", "minigrid", "envpool", "ale-py", "vizdoom"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_state() -> dict[str, Any]:
    """Commit of the code, and whether the checkout has uncommitted changes; empty outside a checkout."""
    git = partial(subprocess.check_output, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True, timeout=10)
    try:
        return {
            "commit": git(["git", "rev-parse", "HEAD"]).strip(),
            "dirty": bool(git(["git", "status", "--porcelain"])),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
