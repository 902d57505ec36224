"""Runs the unfinished cells of a grid on an executor until all have ended. A cell is one run of the grid (grid.py)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from ablation.grid.grid import Cell, is_evaluated, is_trained
from ablation.run_files import newest_log_step
from envs.faults import signal_name
from system.files import read_lines

POLL_SECONDS = 0.5

_TAIL_BYTES = 2**16
"""Size of the end of cell.log that is searched for an error message."""


class State(StrEnum):
    """State of a cell."""

    WAITING = "waiting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(slots=True)
class CellStatus:
    """State of a cell.

    Attributes:
        frames: Trained so far.
        reason: Of a failed cell, in one line.
        measure, value: See LogStep.
        seconds_left: Of the training, at the speed of its newest log step; NaN if unknown.
    """

    state: State = State.WAITING
    frames: int = 0
    reason: str = ""
    measure: str = ""
    value: float = math.nan
    seconds_left: float = math.nan

    def read_log(self, cell: Cell) -> None:
        """Takes the newest log step of the cell."""
        step = newest_log_step(cell.folder)
        self.frames, self.measure, self.value = step.frames, step.measure, step.value
        left, speed = max(0, (cell.pause_at or cell.train.total_frames) - step.frames), step.frames_per_second
        self.seconds_left = left / speed if speed > 0 else math.nan


class Exit(NamedTuple):
    """Exit code of a cell. The executor adds a reason if it knows one that is not in cell.log."""

    code: int
    reason: str = ""


class RunningCell(Protocol):
    """A cell that an executor has started."""

    cell: Cell

    def has_begun(self) -> bool:
        """Whether a process runs the cell; False while it waits for a machine."""

    def poll(self) -> Exit | None:
        """How the cell ended; None while it runs or waits."""


class Executor(Protocol):
    """Runs cells as processes of this machine (local_executor.py) or on a Ray cluster (ray_executor.py)."""

    def start(self, cell: Cell) -> RunningCell | None:
        """Writes cell.json and starts the cell; None, with nothing written, if there is no room now."""

    def stop(self) -> None:
        """Interrupts all cells and waits until they have saved."""


def run_cells(
    cells: Sequence[Cell], executor: Executor, on_change: Callable[[Mapping[str, CellStatus]], object]
) -> dict[str, CellStatus]:
    """Runs the cells that are not finished, in order. A failed cell does not stop the others.

    `on_change` is called after every poll with the status of every cell by name. A KeyboardInterrupt propagates after every cell has
    saved and ended.
    """
    status = {cell.name: CellStatus(State.FINISHED if is_evaluated(cell) else State.WAITING) for cell in cells}
    for cell in cells:
        status[cell.name].read_log(cell)
    waiting = [cell for cell in cells if status[cell.name].state is State.WAITING]
    running: list[RunningCell] = []
    try:
        on_change(status)
        while waiting or running:
            while waiting and (started := executor.start(waiting[0])):
                running.append(started)
                del waiting[0]
            running = [run for run in running if not _update(status[run.cell.name], run)]
            on_change(status)
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        executor.stop()
    return status


def _update(status: CellStatus, running: RunningCell) -> bool:
    """Updates the status of a cell; returns whether the cell has ended."""
    # Poll first, so that the frames of an ended cell are its last ones.
    cell, end = running.cell, running.poll()
    status.read_log(cell)
    if end is None:
        if running.has_begun():
            status.state = State.EVALUATING if cell.evaluate and is_trained(cell) else State.TRAINING
        return False
    if end.code == 0 and is_evaluated(cell):
        status.state = State.FINISHED
    else:
        status.state, status.reason = State.FAILED, end.reason or exit_reason(cell, end.code)
    return True


def exit_reason(cell: Cell, code: int) -> str:
    """Why a cell exited with this code: the last error in cell.log, else the code or signal. A negative code is that of a signal."""
    with contextlib.suppress(OSError):
        lines = list(read_lines(cell.folder / "cell.log", last=_TAIL_BYTES))
        errors = [line for line in lines if line.startswith("error: ")]
        if errors:
            return errors[-1].removeprefix("error: ")
        # Python exits with 1 after an uncaught exception, whose message is the last line.
        if lines and code == 1:
            return lines[-1]
    return f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
