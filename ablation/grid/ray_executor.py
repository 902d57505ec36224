"""Runs cells on a Ray cluster: each cell is a Ray task that starts the same child process as on one machine.

Cells are read from and written to the grid's folder, on a file system that all machines share. Ray transports no data.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.grid.grid import Cell, save_cell
from ablation.grid.local_executor import SAVE_SECONDS, start_process, stop_processes
from ablation.grid.scheduler import Exit
from ablation.run_files import CELL_FILE
from agents.cli.signals import INTERRUPTED
from agents.run.lock import is_locked
from conf.schema import TrainConfig
from system.errors import InputError
from system.files import read_json

MOST_LOSSES = 3
"""A cell fails when it has lost more machines than this."""

_FAILED = 1
_CANCEL_SECONDS = 5.0
"""Time between two attempts to cancel a task."""

_SYNC_SECONDS = 60.0
"""A shared file system shows a write to every machine within this time."""


def count_cpus(config: TrainConfig) -> int:
    """CPUs that Ray reserves for a run: one for the learner, and those of the actors."""
    if config.runtime.name == "serial":
        return 1
    return 1 + math.ceil(config.runtime.num_actors * config.runtime.cpus_per_actor)


class RayExecutor:
    """Runs cells on the connected cluster.

    Args:
        parallel: Cells at a time; 0 = no limit. Waiting cells are in Ray's queue, so that an autoscaler sees them.
        say: Receives a sentence when a machine is lost.
    """

    def __init__(self, parallel: int, say: Callable[[str], object]) -> None:
        self._parallel, self._say = parallel, say
        self._running: list[RayCell] = []

    def start(self, cell: Cell) -> RayCell | None:
        """Submits a cell; Ray runs it on the first machine with enough free CPUs."""
        self._running = [one for one in self._running if one.poll() is None]
        if self._parallel and len(self._running) >= self._parallel:
            return None
        save_cell(cell)
        self._running.append(RayCell(cell, submit(cell), self._say))
        return self._running[-1]

    def stop(self) -> None:
        import ray

        references = [one.reference for one in self._running if one.poll() is None]
        deadline = time.monotonic() + _SYNC_SECONDS + SAVE_SECONDS
        while references and time.monotonic() < deadline:
            # Ray raises the interrupt once, and drops it if the task's function has not started yet.
            for reference in references:
                ray.cancel(reference)
            _, references = ray.wait(references, num_returns=len(references), timeout=_CANCEL_SECONDS)


@dataclass(slots=True)
class RayCell:
    """A cell that was submitted to Ray: `reference` to the Exit of the current attempt, `losses` of machines in earlier ones."""

    cell: Cell
    reference: Any
    say: Callable[[str], object]
    losses: int = 0
    _exit: Exit | None = None

    def has_begun(self) -> bool:
        return is_locked(self.cell.folder)

    def poll(self) -> Exit | None:
        """See ablation/grid/scheduler.py. A cell whose machine is lost continues on another one from its last checkpoint."""
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        if self._exit is None and ray.wait([self.reference], timeout=0)[0]:
            try:
                self._exit = Exit(*ray.get(self.reference))
            except TaskCancelledError:
                self._exit = Exit(INTERRUPTED)
            except RayTaskError as error:
                self._exit = Exit(_FAILED, (str(error).strip().splitlines() or [type(error).__name__])[-1])
            except RayError as error:
                self.losses += 1
                lost = type(error).__name__
                if self.losses > MOST_LOSSES:
                    self._exit = Exit(_FAILED, f"its machine was lost {self.losses} times ({lost})")
                else:
                    self.say(f"{self.cell.name}: its machine was lost ({lost}), it continues on another one")
                    self.reference = submit(self.cell)
        return self._exit


def submit(cell: Cell) -> Any:
    """Submits a cell to Ray; returns a reference to its Exit."""
    import ray

    # RayCell counts and reports lost machines, so Ray must not retry by itself.
    cpus = count_cpus(cell.train)
    task = ray.remote(run_task).options(num_cpus=cpus, scheduling_strategy="SPREAD", max_retries=0)
    folder = cell.folder.absolute()
    return task.remote(str(folder), read_json(folder / CELL_FILE), cpus, os.getcwd())


def run_task(
    folder: str, expected: dict[str, Any] | None, threads: int, where: str, sync_seconds: float = _SYNC_SECONDS
) -> tuple[int, str]:
    """Runs a cell on the machine of the Ray task; returns the fields of an Exit.

    Args:
        expected: The content of cell.json on the machine that wrote it.
        where: Working directory, the base of relative paths.
        sync_seconds: Fails if the folder's content does not arrive within this time.
    """
    interrupts: list[int] = []
    # Ray's interrupt has no effect where SIGINT is ignored, as in a background job of a script. The handler only takes note: an
    # exception could arrive between start_process and its assignment and leave the cell running. A second SIGINT to the cell would end
    # it unsaved.
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        deadline = time.monotonic() + sync_seconds
        while read_json(Path(folder, CELL_FILE)) != expected:
            if interrupts:
                return INTERRUPTED, ""
            if time.monotonic() > deadline:
                return (
                    _FAILED,
                    f"machine {os.uname().nodename} does not see {folder}: give a folder= on a file system that all machines share",
                )
            time.sleep(min(1.0, sync_seconds / 10))
        process = start_process(Path(folder), threads, where=where if Path(where).is_dir() else folder)
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=1), ""
            if interrupts:
                stop_processes([process])
                return INTERRUPTED, ""
    finally:
        signal.signal(signal.SIGINT, before)


def check_room(cells: Sequence[Cell], *, alone: bool) -> str:
    """A warning if no machine of the cluster can run the largest cell until one joins; InputError if none can join; else empty."""
    import ray

    needed = max(count_cpus(cell.train) for cell in cells)
    largest = int(max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0))
    if needed <= largest:
        return ""
    found = f"a run takes {needed} CPUs (its actors' and one for its learner), and"
    if alone:
        raise InputError(f"{found} this machine has {largest}: lower runtime.num_actors, or use node_runtime=serial.")
    return f"{found} no machine of the cluster has more than {largest}: runs wait until one joins"
