"""Runs the cells of a study, a few at a time in processes of their own, and keeps each result: a study that was stopped goes on.

A cell is a function of plain settings. Its result depends on these alone and not on the process or the order it ran in, so a result that is
there for equal settings is as good as a new one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.files import read_json, write_json
from agents.interruption import end_with_the_parent
from agents.runtime.process import configure_process, leave_signals_to_the_learner, sigint_held_back

Settings = dict[str, Any]
Result = dict[str, Any]
"""Both plain data, as JSON has it."""


class CellError(RuntimeError):
    """A process ended before its cell did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One part of a study. name: of its file, unlike those of the others."""

    name: str
    settings: Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A cell that is done. seconds: of processor time that it took, whatever else was at work."""

    cell: Cell
    result: Result
    seconds: float


def stored(cell: Cell, folder: Path) -> Outcome | None:
    """What an earlier run has kept of the cell, if it had the same settings."""
    content = read_json(_file(cell, folder)) or {}
    if content.get("settings") != cell.settings or content.keys() != {"settings", "result", "seconds"}:
        return None
    return Outcome(cell=cell, result=content["result"], seconds=content["seconds"])


def run(
    cells: Sequence[Cell], function: Callable[[Settings], Result], folder: Path, processes: int
) -> Iterator[Outcome]:
    """Runs `function`, of a module and not nested, on the settings of each cell, and keeps the results in `folder`, as they come.

    Raises:
        CellError: a process was killed.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        for cell in cells:
            yield _keep(cell, *_timed(function, cell.settings), folder)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(processes, max(1, len(cells))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
    )
    try:
        with _signals_wait(), sigint_held_back():
            begun: dict[Future[tuple[Result, float]], Cell] = {
                pool.submit(_timed, function, cell.settings): cell for cell in cells
            }
        for future in as_completed(begun):
            yield _keep(begun[future], *future.result(), folder)
    except BrokenProcessPool as error:
        raise CellError(
            "a process of the study was killed: the same command goes on, parallel=1 needs least memory"
        ) from error
    finally:
        # On the way out after an error or Ctrl-C nobody wants the rest; the pool collects its dead.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """A signal that comes while the block runs raises KeyboardInterrupt behind it, and not between the start of a process and what it is
    told to do. To mask it is not enough: it then comes by way of a thread of the BLAS library.
    """
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, frame: came.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def _prepare() -> None:
    end_with_the_parent()
    leave_signals_to_the_learner()
    configure_process(1)


def _timed(function: Callable[[Settings], Result], settings: Settings) -> tuple[Result, float]:
    began = time.process_time()
    return function(settings), time.process_time() - began


def _keep(cell: Cell, result: Result, seconds: float, folder: Path) -> Outcome:
    write_json(_file(cell, folder), {"settings": cell.settings, "result": result, "seconds": round(seconds, 1)})
    return Outcome(cell=cell, result=result, seconds=seconds)


def _file(cell: Cell, folder: Path) -> Path:
    return folder / f"{cell.name}.json"
