"""Plays a grid: cells in processes of their own, a few at a time, each on cores of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ablation.grid import Cell, evaluated, frames, save_cell, trained
from agents.files import check_links
from conf.ablate_schema import AblateConfig
from envs.errors import InputError

_ROOT = Path(__file__).parent.parent
_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0
"""For which an interrupted cell may save."""


class State(StrEnum):
    """Of a cell."""

    WAITING = "waiting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(slots=True)
class Progress:
    """Where a cell stands. frames: trained so far; reason: why it failed, one line."""

    state: State = State.WAITING
    frames: int = 0
    reason: str = ""


@dataclass(slots=True)
class Process:
    """A cell that is being played, on these cores."""

    cell: Cell
    popen: subprocess.Popen[bytes]
    cores: tuple[int, ...]


@dataclass(slots=True)
class Run:
    """A grid that is being played.

    Args:
        cells: all of them; those that are finished are left as they are.
        parallel: cells at a time.
        changed: called after every look at the cells, with where each stands, by name.
    """

    cells: Sequence[Cell]
    parallel: int
    changed: Callable[[Mapping[str, Progress]], object]
    progress: dict[str, Progress] = field(init=False)

    def __post_init__(self) -> None:
        self.progress = {
            cell.name: Progress(State.FINISHED if evaluated(cell) else State.WAITING, frames(cell))
            for cell in self.cells
        }

    def play(self) -> dict[str, Progress]:
        """Plays what is not finished, in order. A cell that fails does not stop the others.

        Raises:
            KeyboardInterrupt: after every cell has ended, saved.
        """
        waiting = [cell for cell in self.cells if self.progress[cell.name].state is State.WAITING]
        free = share(sorted(available_cores()), self.parallel)
        playing: list[Process] = []
        try:
            self.changed(self.progress)
            while waiting or playing:
                while waiting and free:
                    playing.append(start(waiting.pop(0), free.pop(0)))
                self._look(playing)
                for process in [process for process in playing if process.popen.poll() is not None]:
                    playing.remove(process)
                    free.append(process.cores)
                self.changed(self.progress)
                if playing:
                    time.sleep(_POLL_SECONDS)
        finally:
            stop(playing)
        return self.progress

    def _look(self, playing: Sequence[Process]) -> None:
        for process in playing:
            progress, code = self.progress[process.cell.name], process.popen.poll()
            progress.frames = frames(process.cell)
            if code is None:
                progress.state = State.EVALUATING if trained(process.cell) else State.TRAINING
            elif code == 0 and evaluated(process.cell):
                progress.state = State.FINISHED
            else:
                progress.state, progress.reason = State.FAILED, reason(process.cell, code)


def start(cell: Cell, cores: tuple[int, ...]) -> Process:
    """Begins to play a cell. What it prints goes to cell.log in its folder."""
    save_cell(cell)
    # -P: a folder called `envs` where the user stands is not ours.
    command = [sys.executable, "-P", "-m", "ablation.cell", os.fspath(cell.folder), ",".join(map(str, cores))]
    command.append(str(os.getpid()))
    path = os.pathsep.join([os.fspath(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (cell.folder / "cell.log").open("ab") as log:
        # A group of its own: Ctrl-C in the terminal reaches the grid, which passes it on once.
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,
        )
    return Process(cell, popen, cores)


def stop(playing: Sequence[Process]) -> None:
    """Ends cells as Ctrl-C would, and waits until they have saved."""
    for process in playing:
        with contextlib.suppress(ProcessLookupError):
            process.popen.send_signal(signal.SIGINT)
    until = time.monotonic() + _PATIENCE_SECONDS
    for process in playing:
        try:
            process.popen.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()


def reason(cell: Cell, code: int) -> str:
    """Why a cell ended with that exit code: its error message, else the code."""
    with contextlib.suppress(OSError):
        lines = (cell.folder / "cell.log").read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        if errors:
            return errors[-1].removeprefix("error: ")
        if lines and code == 1:
            return lines[-1]
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def share(cores: Sequence[int], parallel: int) -> list[tuple[int, ...]]:
    """The cores in `parallel` parts that differ by one core at most."""
    parts = min(parallel, len(cores))
    return [tuple(cores[number::parts]) for number in range(parts)]


def available_cores() -> set[int]:
    """That this process may use."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def cells_at_a_time(config: AblateConfig) -> int:
    """`parallel`, or as many as there are cores where each run takes one."""
    if config.parallel:
        return config.parallel
    return len(available_cores()) if config.runtime.name == "serial" else 1


@contextlib.contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Keeps a second ablate.py out of the folder.

    Raises:
        InputError: one is at work there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_links(folder)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise InputError(f"folder={folder} cannot be written ({error.strerror}): give another folder=.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"folder={folder} is being filled by another ablate.py: wait for it, or give another folder=."
            ) from error
        yield
