"""Plays runs: starts those that are not finished wherever there is room for them, and looks after them until the last one has ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from ablation.grid.grid import Cell, evaluated, frames, trained
from envs.faults import signal_name
from system.files import read_lines

_POLL_SECONDS = 0.5

_TAIL_BYTES = 2**16
"""Of cell.log, in which an error message is looked for."""


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


class End(NamedTuple):
    """How a cell has ended: its exit code, and why, where cell.log does not know."""

    code: int
    reason: str = ""


class Playing(Protocol):
    """A cell that has been given to a place."""

    cell: Cell

    def begun(self) -> bool:
        """Whether it is being played, and not waiting for a machine."""

    def ended(self) -> End | None:
        """How it has ended; None while it has not."""


class Executor(Protocol):
    """Where cells are played: the processes of this machine (ablation/grid/local_executor.py), or a cluster
    (ablation/grid/ray_executor.py)."""

    def start(self, cell: Cell) -> Playing | None:
        """Writes a cell's folder and begins to play it; None, and nothing written, where there is no room for another one now."""

    def stop(self) -> None:
        """Ends everything that is being played as Ctrl-C would, and waits until it has saved."""


@dataclass(slots=True)
class Run:
    """Cells that are being played.

    Args:
        cells: all of them; those that are finished are left as they are.
        place: where.
        changed: called after every look at the cells, with where each stands, by name.
    """

    cells: Sequence[Cell]
    place: Executor
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
        playing: list[Playing] = []
        try:
            self.changed(self.progress)
            while waiting or playing:
                while waiting and (begun := self.place.start(waiting[0])):
                    playing.append(begun)
                    del waiting[0]
                playing = [one for one in playing if not self._has_ended(one)]
                self.changed(self.progress)
                if playing:
                    time.sleep(_POLL_SECONDS)
        finally:
            self.place.stop()
        return self.progress

    def _has_ended(self, playing: Playing) -> bool:
        cell, end = playing.cell, playing.ended()
        progress = self.progress[cell.name]
        progress.frames = frames(cell)
        if end is None:
            if playing.begun():
                progress.state = State.EVALUATING if trained(cell) else State.TRAINING
            return False
        if end.code == 0 and evaluated(cell):
            progress.state = State.FINISHED
        else:
            progress.state, progress.reason = State.FAILED, end.reason or reason(cell, end.code)
        return True


def reason(cell: Cell, code: int) -> str:
    """Why a cell ended with that exit code: its error message, else the code."""
    with contextlib.suppress(OSError):
        lines = list(read_lines(cell.folder / "cell.log", last=_TAIL_BYTES))
        errors = [line for line in lines if line.startswith("error: ")]
        if errors:
            return errors[-1].removeprefix("error: ")
        if lines and code == 1:
            return lines[-1]
    return f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
