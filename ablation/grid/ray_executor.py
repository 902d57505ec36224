"""Plays cells on the machines of a Ray cluster: each cell a task that starts the same process as on this machine, wherever there is room.

What cells read and write lies in the grid's folder, on a file system that all machines share; nothing of it goes through Ray.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.grid.grid import Cell, save_cell
from ablation.grid.local_executor import PATIENCE_SECONDS, available_cores, start, stop
from ablation.grid.scheduler import End
from ablation.load import CELL_FILE
from agents.cli.signals import INTERRUPTED, raise_at_signals
from agents.run.lock import is_locked
from agents.runtime.ray_groups.connection import check_address, joined
from conf.schema import TrainConfig
from system.errors import InputError

MOST_LOSSES = 3
"""Machines that a cell may lose before it counts as failed."""

_FAILED = 1
_ASK_AGAIN_SECONDS = 5.0
"""After which a task that was cancelled and goes on is cancelled again."""

_LATE_SECONDS = 60.0
"""After which a shared file system shows every machine what one of them has written."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Inside, Ray's functions speak with the cluster at that address; with one of this machine alone where it is empty, which ends with
    the context.

    Raises:
        InputError: Ray is not installed, or no cluster answers.
    """
    check_address(address)
    with joined(address, num_cpus=len(available_cores())):
        # Ray has put a handler of its own in place.
        raise_at_signals()
        yield


def cpus_of(config: TrainConfig) -> int:
    """That such a run takes up: one for its learner, and those of its actors."""
    if config.runtime.name == "serial":
        return 1
    return 1 + -int(-config.runtime.num_actors * config.runtime.cpus_per_actor // 1)


class Cluster:
    """The cluster that this process is connected to, as a place for cells.

    Args:
        parallel: cells at a time; 0 = all that the cluster has room for. The others wait in Ray's queue, where an autoscaler sees them.
        say: is given a sentence when a machine is lost.
    """

    def __init__(self, parallel: int, say: Callable[[str], object]) -> None:
        self._parallel, self._say = parallel, say
        self._playing: list[Task] = []

    def start(self, cell: Cell) -> Task | None:
        """Begins to play a cell on whatever machine has room for it first."""
        self._playing = [task for task in self._playing if task.ended() is None]
        if self._parallel and len(self._playing) >= self._parallel:
            return None
        save_cell(cell)
        self._playing.append(Task(cell, submit(cell), self._say))
        return self._playing[-1]

    def stop(self) -> None:
        """Ends all cells as Ctrl-C would, and waits until they have saved."""
        import ray

        references = [task.reference for task in self._playing if task.ended() is None]
        until = time.monotonic() + _LATE_SECONDS + PATIENCE_SECONDS
        while references and time.monotonic() < until:
            # Again and again: Ray interrupts the task's Python once, which may not have come to the task's own lines yet.
            for reference in references:
                ray.cancel(reference)
            _, references = ray.wait(references, num_returns=len(references), timeout=_ASK_AGAIN_SECONDS)


@dataclass(slots=True)
class Task:
    """A cell that Ray plays.

    Attributes:
        reference: to the End of its present attempt.
        losses: of machines, in earlier ones.
    """

    cell: Cell
    reference: Any
    say: Callable[[str], object]
    losses: int = 0
    _end: End | None = None

    def begun(self) -> bool:
        """Whether a machine plays it."""
        return is_locked(self.cell.folder)

    def ended(self) -> End | None:
        """See ablation/grid/scheduler.py. A cell whose machine was lost is played again on another one, from its last checkpoint."""
        import ray
        from ray.exceptions import RayError, RayTaskError, TaskCancelledError

        if self._end is None and ray.wait([self.reference], timeout=0)[0]:
            try:
                self._end = End(*ray.get(self.reference))
            except TaskCancelledError:
                self._end = End(INTERRUPTED)
            except RayTaskError as error:
                self._end = End(_FAILED, _last_line(error))
            except RayError as error:
                self._lost(error)
        return self._end

    def _lost(self, error: Exception) -> None:
        self.losses += 1
        if self.losses > MOST_LOSSES:
            self._end = End(_FAILED, f"its machine was lost {self.losses} times ({type(error).__name__})")
            return
        self.say(f"{self.cell.name}: its machine was lost ({type(error).__name__}), it goes on elsewhere")
        self.reference = submit(self.cell)


def submit(cell: Cell) -> Any:
    """Asks Ray to play a cell; a reference to its End."""
    import ray

    # A lost machine is counted and told here, so Ray is not to try again by itself.
    task = ray.remote(play).options(num_cpus=cpus_of(cell.train), scheduling_strategy="SPREAD", max_retries=0)
    folder = cell.folder.absolute()
    return task.remote(str(folder), digest(folder), cpus_of(cell.train), os.getcwd())


def play(folder: str, expected: str, threads: int, where: str, patience: float = _LATE_SECONDS) -> tuple[int, str]:
    """Plays a cell on the machine where it is called; an End.

    Args:
        folder: of the cell.
        expected: `digest` of it, where it was written.
        where: the folder in which relative paths begin.
        patience: seconds after which the cell should be seen here.
    """
    asked: list[int] = []
    # Ray interrupts with no effect where SIGINT is ignored, as by what a script's background job has started. What would be raised could
    # come between any two lines: a cell that was just being started would have nobody to stop it, and one asked twice ends unsaved.
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        until = time.monotonic() + patience
        while digest(Path(folder)) != expected:
            if asked:
                return INTERRUPTED, ""
            if time.monotonic() > until:
                name = os.uname().nodename
                return (
                    _FAILED,
                    f"machine {name} does not see {folder}: give a folder= on a file system that all machines share",
                )
            time.sleep(min(1.0, patience / 10))
        process = start(Path(folder), threads, where=where if Path(where).is_dir() else folder)
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=1), ""
            if asked:
                stop([process])
                return INTERRUPTED, ""
    finally:
        signal.signal(signal.SIGINT, before)


def digest(folder: Path) -> str:
    """Of the cell that is described in a folder; empty where there is none."""
    try:
        return hashlib.sha256((folder / CELL_FILE).read_bytes()).hexdigest()
    except OSError:
        return ""


def check_room(cells: Sequence[Cell], *, alone: bool) -> str:
    """A warning where no machine of the cluster can take some cell, which then waits until one joins; empty where all is well.

    Args:
        alone: whether no other machine can ever join.

    Raises:
        InputError: the cell would wait for ever.
    """
    import ray

    needed = max(cpus_of(cell.train) for cell in cells)
    largest = int(max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0))
    if needed <= largest:
        return ""
    found = f"a run takes {needed} CPUs (its actors' and one for its learner), and"
    if alone:
        raise InputError(f"{found} this machine has {largest}: lower runtime.num_actors, or use node_runtime=serial.")
    return f"{found} no machine of the cluster has more than {largest}: runs wait until one joins"


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
