"""Resources of this machine: cores, memory, open files, devices, bf16."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
from pathlib import Path

import psutil
import torch

from agents.setup.cgroups import cpu_quota, memory_left
from system.errors import InputError


def num_cores() -> int:
    """Cores that this process may use: the smaller of its affinity and its container's quota, at least 1."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(here, cpu_quota())))


def memory() -> int:
    """Bytes of main memory, or of the container's remaining part."""
    return int(min(psutil.virtual_memory().total, memory_left()))


def free_memory() -> int:
    """Bytes that this process and its children can still allocate."""
    return int(min(psutil.virtual_memory().available, memory_left()))


def allow_open_files(wanted: int) -> int:
    """Raises the soft limit of open files to `wanted`, or to the hard limit if that is lower. Returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return soft


def resolve_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device of this machine. Without a number it is the GPU of this process's LOCAL_RANK.

    Raises InputError if this machine does not have it.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    number = int(name.partition(":")[2] or local_rank % max(1, count))
    if number >= count:
        raise InputError(
            f"device={name} is unavailable: torch sees {count or 'no'} GPUs; use device=auto or device=cpu."
        )
    # torch.device("cuda") without a number is not equal to "cuda:0".
    return torch.device("cuda", number)


def visible_gpus() -> list[str]:
    """The GPUs that torch sees here, as CUDA_VISIBLE_DEVICES names them. None of them is initialised."""
    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return (given.split(",") if given else [str(number) for number in range(count)])[:count]


_CPU = torch.device("cpu")


def has_bf16(device: torch.device = _CPU) -> bool:
    """Whether this processor, or that GPU, multiplies bfloat16 in hardware. Emulation is slower than fp32 and does not count."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in text or "amx_bf16" in text


@functools.cache
def has_bf16_lstm() -> bool:
    """Whether torch can train nn.LSTM under autocast to bf16 on this processor: without AVX512 it has no kernel."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.LSTM(4, 4)(torch.zeros(2, 3, 4))
    except RuntimeError:
        return False
    return True
