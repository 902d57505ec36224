"""Plays cells on this machine: in processes of their own, a few at a time, each on cores of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablation.grid.grid import Cell, save_cell
from ablation.grid.scheduler import End
from agents.setup.machine import num_cores
from system.errors import InputError
from system.files import open_ordinary

_ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0
"""For which an interrupted cell may save."""


@dataclass(slots=True)
class Process:
    """A cell that is being played, on these cores."""

    cell: Cell
    popen: subprocess.Popen[bytes]
    cores: tuple[int, ...]

    def begun(self) -> bool:
        """There is nothing to wait for."""
        return True

    def ended(self) -> End | None:
        """See ablation/grid/scheduler.py."""
        code = self.popen.poll()
        return None if code is None else End(code)


class Processes:
    """This machine as a place for cells.

    Args:
        parallel: cells at a time, between which the cores that this process may use are divided.
    """

    def __init__(self, parallel: int) -> None:
        self._free = share(sorted(available_cores()), parallel)
        self._playing: list[Process] = []

    def start(self, cell: Cell) -> Process | None:
        """Begins to play a cell on the next cores that are free."""
        for ended in [process for process in self._playing if process.popen.poll() is not None]:
            self._playing.remove(ended)
            self._free.append(ended.cores)
        if not self._free:
            return None
        save_cell(cell)
        cores = self._free.pop(0)
        self._playing.append(Process(cell, start(cell.folder, len(cores), cores), cores))
        return self._playing[-1]

    def stop(self) -> None:
        """Ends all cells as Ctrl-C would, and waits until they have saved."""
        stop([process.popen for process in self._playing])


def start(folder: Path, threads: int, cores: Sequence[int] = (), where: str | None = None) -> subprocess.Popen[bytes]:
    """Begins to play the cell in that folder. What it prints goes to cell.log there.

    Args:
        threads: for its evaluation.
        cores: to run on; none = all that this process may use.
        where: the folder to run in, which relative paths begin at.
    """
    # -P: a folder called `envs` where the user stands is not ours.
    command = [sys.executable, "-P", "-m", "ablation.grid.cell", os.fspath(folder), str(threads)]
    command += [",".join(map(str, cores)), str(os.getpid())]
    path = os.pathsep.join([os.fspath(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        log = open_ordinary(folder / "cell.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise InputError(
            f"{folder / 'cell.log'} cannot be written ({error.strerror}): delete or rename it, and give the same command again."
        ) from error
    with os.fdopen(log, "ab"):
        # A group of its own: Ctrl-C in the terminal reaches the grid, which passes it on once.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": path},
            cwd=where,
            process_group=0,
        )


def stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ends cells as Ctrl-C would, and waits until they have saved."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    until = time.monotonic() + PATIENCE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def share(cores: Sequence[int], parallel: int) -> list[tuple[int, ...]]:
    """The cores in `parallel` parts that differ by one core at most."""
    parts = min(parallel, len(cores))
    return [tuple(cores[number::parts]) for number in range(parts)]


def available_cores() -> set[int]:
    """That this process may use. Where a container gives it the time of fewer than it may run on, it is some that follow each other, from
    one on that its number decides, so that containers do not all crowd on the first ones.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    first = os.getpid() % len(cores)
    return set((cores[first:] + cores[:first])[: num_cores()])
