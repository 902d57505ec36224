"""Limits of containers, on file systems that imitate Linux, Docker, Kubernetes and Slurm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from ablation.grid.local_executor import available_cores
from agents.setup import machine
from agents.setup.cgroups import cpu_quota, memory_left

V2 = "25 1 0:22 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate\n"
V1 = (
    "30 1 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
    "31 30 0:27 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def file_system(root: Path, cgroup: str, mounts: str, files: Mapping[str, str]) -> Path:
    for path, content in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}.items():
        target = root / (path if path.startswith("proc") else f"sys/fs/cgroup/{path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "cores"),
    [
        # docker --cpus=2: the container sees its own group as the top.
        ("0::/\n", V2.format(top="/"), {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", V2.format(top="/"), {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", V2.format(top="/"), {}, math.inf),
        # systemd-run below a scheduler that limits the parent group.
        ("0::/a/b\n", V2.format(top="/"), {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", V2.format(top="/"), {"a/b/cpu.max": "50000 100000", "a/cpu.max": "150000 100000"}, 0.5),
        # A container without a cgroup namespace: the group has its name on the host.
        ("0::/docker/1234/x\n", V2.format(top="/docker/1234"), {"x/cpu.max": "max 1", "cpu.max": "300000 100000"}, 3),
        ("0::/docker/1234\n", V2.format(top="/docker/1234"), {"cpu.max": "300000 100000"}, 3),
        # Version 1.
        (
            "4:memory:/m\n3:cpu,cpuacct:/slurm/job\n",
            V1.format(top="/"),
            {
                "cpu,cpuacct/slurm/job/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/slurm/job/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/slurm/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/slurm/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            "3:cpu,cpuacct:/docker/1\n0::/\n",
            V1.format(top="/docker/1"),
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        # Invalid values set no limit.
        ("0::/\n", V2.format(top="/"), {"cpu.max": "many\n"}, math.inf),
        ("0::/\n", V2.format(top="/"), {"cpu.max": "1 0\n"}, math.inf),
        ("nonsense", "nonsense", {}, math.inf),
        ("", "", {}, math.inf),
    ],
)
def test_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, mounts: str, files: Mapping[str, str], cores: float
) -> None:
    root = file_system(tmp_path, cgroup, mounts, files)
    assert cpu_quota(root) == cores
    monkeypatch.setattr(machine, "cpu_quota", lambda: cpu_quota(root))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(10, 74)))
    assert machine.num_cores() == max(1, math.floor(min(64, cores)))
    assert len(available_cores()) == machine.num_cores() and available_cores() <= set(range(10, 74))


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "left"),
    [
        ("0::/\n", V2.format(top="/"), {"memory.max": "1000", "memory.current": "10"}, 990),
        ("0::/\n", V2.format(top="/"), {"memory.max": "1000", "memory.current": "2000"}, 0),
        ("0::/\n", V2.format(top="/"), {"memory.max": "max", "memory.current": "10"}, math.inf),
        (
            "0::/\n",
            V2.format(top="/"),
            {"memory.max": "1000", "memory.current": "900", "memory.stat": "anon 300\nfile 600\ninactive_file 500\n"},
            600,
        ),
        (
            "0::/a/b\n",
            V2.format(top="/"),
            {"a/b/memory.max": "max", "a/b/memory.current": "1", "a/memory.max": "70", "a/memory.current": "20"},
            50,
        ),
        (
            "4:memory:/a\n",
            V1.format(top="/"),
            {
                "memory/a/memory.limit_in_bytes": "500",
                "memory/a/memory.usage_in_bytes": "400",
                "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 150",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "1000",
            },
            250,
        ),
    ],
)
def test_memory(tmp_path: Path, cgroup: str, mounts: str, files: Mapping[str, str], left: float) -> None:
    assert memory_left(file_system(tmp_path, cgroup, mounts, files)) == left


def test_this_machine() -> None:
    assert cpu_quota() > 0 and memory_left() > 0
