"""Runs cells as child processes of this machine, a few at a time, each pinned to its own cores and GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ablation.grid.grid import Cell, save_cell
from ablation.grid.scheduler import Exit
from agents.setup.machine import num_cores, visible_gpus
from conf.schema import TrainConfig
from system.errors import InputError
from system.files import open_ordinary
from system.python_paths import child_environment

SAVE_SECONDS = 60.0
"""An interrupted cell is killed if it has not saved and ended after this time."""


class Slot(NamedTuple):
    """The part of this machine that one cell at a time has: cores, and a GPU if there are several (empty = all)."""

    cores: tuple[int, ...]
    gpu: str


@dataclass(slots=True)
class LocalCell:
    """A cell in a child process (RunningCell in scheduler.py)."""

    cell: Cell
    process: subprocess.Popen[bytes]
    slot: Slot

    def has_begun(self) -> bool:
        return True

    def poll(self) -> Exit | None:
        code = self.process.poll()
        return None if code is None else Exit(code)


class LocalExecutor:
    """Runs up to `parallel` cells at a time and divides the available cores and GPUs between them (Executor in scheduler.py).

    More cells than GPUs share them in turn.
    """

    def __init__(self, parallel: int) -> None:
        gpus = visible_gpus() if parallel > 1 else []
        self._free = [
            Slot(cores, gpus[number % len(gpus)] if len(gpus) > 1 else "")
            for number, cores in enumerate(split_cores(sorted(available_cores()), parallel))
        ]
        self._running: list[LocalCell] = []

    def start(self, cell: Cell) -> LocalCell | None:
        for ended in [one for one in self._running if one.poll() is not None]:
            self._running.remove(ended)
            self._free.append(ended.slot)
        if not self._free:
            return None
        save_cell(cell)
        slot = self._free.pop(0)
        gpu = slot.gpu if takes_one_gpu(cell.train) else ""
        process = start_process(cell.folder, len(slot.cores), slot.cores, gpu=gpu)
        self._running.append(LocalCell(cell, process, slot))
        return self._running[-1]

    def stop(self) -> None:
        stop_processes(one.process for one in self._running)


def takes_one_gpu(train: TrainConfig) -> bool:
    """Whether a run uses the first GPU that it sees, and no other one."""
    return train.device in ("auto", "cuda") and train.learner.num_processes == 1


def start_process(
    folder: Path, threads: int, cores: Sequence[int] = (), where: str | None = None, gpu: str = ""
) -> subprocess.Popen[bytes]:
    """Starts the cell of a folder. Its output goes to cell.log there; InputError if that cannot be written.

    Args:
        threads: For its evaluation.
        cores: To pin it to; empty = all that this process may use.
        where: Working directory, the base of relative paths.
        gpu: The only one that it sees, as CUDA_VISIBLE_DEVICES names it; empty = all that this process sees.
    """
    command = [sys.executable, "-P", "-m", "ablation.grid.cell", os.fspath(folder), str(threads)]
    command += [",".join(map(str, cores)), str(os.getpid())]
    try:
        log = open_ordinary(folder / "cell.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise InputError(
            f"{folder / 'cell.log'} cannot be written ({error.strerror}): delete or rename it, and give the same command again."
        ) from error
    with os.fdopen(log, "ab"):
        # A separate process group: Ctrl-C reaches the grid only, which then interrupts each cell once.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=child_environment() | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
            cwd=where,
            process_group=0,
        )


def stop_processes(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Interrupts cells and waits until they have saved; kills cells that take longer than SAVE_SECONDS."""
    processes = list(processes)
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + SAVE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def split_cores(cores: Sequence[int], parallel: int) -> list[tuple[int, ...]]:
    """The cores in at most `parallel` groups whose sizes differ by at most one."""
    groups = min(parallel, len(cores))
    return [tuple(cores[number::groups]) for number in range(groups)]


def available_cores() -> set[int]:
    """Cores that this process may use.

    A container with a CPU quota gets that many consecutive cores, starting at one that depends on the process id. Several
    containers on one machine then do not all use the first cores.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    first = os.getpid() % len(cores)
    return set((cores[first:] + cores[:first])[: num_cores()])
