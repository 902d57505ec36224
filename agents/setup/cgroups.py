"""What a container leaves this process: the limits of its control group and of all groups above it, of both versions of Linux's cgroups.

Version 2 has one tree; version 1 has one for each controller. /proc/self/cgroup tells the group, /proc/self/mountinfo where the trees are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def cpu_quota(root: Path = _ROOT) -> float:
    """Cores whose time the process may take; inf where nothing limits it.

    Args:
        root: of the file system.
    """
    quotas = [math.inf]
    for group in _groups("", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = _read(group / "cpu.max").split()
            quotas.append(_number(quota) / float(period))
    for group in _groups("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota = _read(group / "cpu.cfs_quota_us")
            # -1: no limit.
            if float(quota) > 0:
                quotas.append(float(quota) / float(_read(group / "cpu.cfs_period_us")))
    return min(quotas)


def memory_left(root: Path = _ROOT) -> float:
    """Bytes that the process and its children can still take before a group is at its limit; inf where nothing limits it.

    Args:
        root: of the file system.
    """
    left = [math.inf]
    for controller, limit, used, cached in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in _groups(controller, root):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                most, now = _number(_read(group / limit)), _number(_read(group / used))
                left.append(max(0.0, most - now + min(now, _of_files(group, cached))))
    return min(left)


def _of_files(group: Path, cached: str) -> float:
    """Bytes that hold what files hold as well: the kernel takes them back where they are needed."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        for line in _read(group / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == cached:
                return float(value)
    return 0.0


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folder of the process's group, and of all groups above it that can be seen from here.

    Args:
        controller: of version 1; empty for version 2.
    """
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        own = next(path for controllers, path in _memberships(root) if controller in controllers)
        for top, mounted in _mounts(controller, root):
            # In a container the tree's top is the container's group, by its name outside or as `/`.
            below = PurePosixPath(own)
            inside = below.relative_to(top) if below.is_relative_to(top) else PurePosixPath(own.lstrip("/"))
            for place in (inside, *inside.parents):
                yield root / mounted.lstrip("/") / place


def _memberships(root: Path) -> Iterator[tuple[list[str], str]]:
    """Controllers and group; of version 2 the one controller without a name."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers.split(","), path
    # The group of a tree that is not listed.
    yield ["", "cpu", "memory"], "/"


def _mounts(controller: str, root: Path) -> Iterator[tuple[str, str]]:
    """The top of each mounted tree of the controller, and where it is mounted."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(maxsplit=2)
        if kind == ("cgroup" if controller else "cgroup2") and (not controller or controller in options.split(",")):
            yield tuple(part.encode().decode("unicode_escape") for part in before.split()[3:5])  # type: ignore[misc]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _number(text: str) -> float:
    return math.inf if text == "max" else float(text)
