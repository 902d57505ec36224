"""Limits of a container: those of the process's control group and of all groups above it, for versions 1 and 2 of Linux's cgroups.

Version 2 has one tree; version 1 has one tree per controller. /proc/self/cgroup names the group, /proc/self/mountinfo the trees.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def cpu_quota(root: Path = _ROOT) -> float:
    """Cores whose time the process may use; inf without a limit."""
    quotas = [math.inf]
    for group in _groups("", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = _read(group / "cpu.max").split()
            quotas.append(_number(quota) / float(period))
    for group in _groups("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota = _read(group / "cpu.cfs_quota_us")
            # -1 means no limit.
            if float(quota) > 0:
                quotas.append(float(quota) / float(_read(group / "cpu.cfs_period_us")))
    return min(quotas)


def memory_left(root: Path = _ROOT) -> float:
    """Bytes that the process and its children can allocate before a group reaches its limit; inf without a limit."""
    left = [math.inf]
    for controller, limit, used, cached in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in _groups(controller, root):
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                most, now = _number(_read(group / limit)), _number(_read(group / used))
                left.append(max(0.0, most - now + min(now, _cached_bytes(group, cached))))
    return min(left)


def _cached_bytes(group: Path, cached: str) -> float:
    """Bytes of cached file content, which the kernel can reclaim."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        for line in _read(group / "memory.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == cached:
                return float(value)
    return 0.0


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folder of the process's group, and of all visible groups above it. `controller` is one of version 1; empty for version 2."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        own = next(path for controllers, path in _memberships(root) if controller in controllers)
        for top, mounted in _mounts(controller, root):
            # In a container the top of the tree is the container's group, under its name on the host or as `/`.
            below = PurePosixPath(own)
            inside = below.relative_to(top) if below.is_relative_to(top) else PurePosixPath(own.lstrip("/"))
            for place in (inside, *inside.parents):
                yield root / mounted.lstrip("/") / place


def _memberships(root: Path) -> Iterator[tuple[list[str], str]]:
    """Controllers and path of each group. Version 2 has one controller with an empty name."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers.split(","), path
    # The group in trees that are not listed.
    yield ["", "cpu", "memory"], "/"


def _mounts(controller: str, root: Path) -> Iterator[tuple[str, str]]:
    """The top group of each mounted tree of the controller, and its mount point."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(maxsplit=2)
        if kind == ("cgroup" if controller else "cgroup2") and (not controller or controller in options.split(",")):
            yield tuple(part.encode().decode("unicode_escape") for part in before.split()[3:5])  # type: ignore[misc]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def _number(text: str) -> float:
    return math.inf if text == "max" else float(text)
