"""Runs the cells of a study, a few at a time in processes of their own, and keeps each result: a study that was stopped goes on.

A cell is a function of plain settings. Its result depends on these alone and not on the process or the order it ran in, so a result that is
there for equal settings is as good as a new one. A cell that takes long may keep what it has come to in a checkpoint of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.cli.signals import end_with_the_parent
from agents.cli.terminal import warn
from agents.runtime.processes.process import configure_process, leave_signals_to_the_learner, signals_blocked
from agents.runtime.processes.shared_memory import SharedMemory
from agents.storage.tensor_file import read_tensors, write_tensors
from system.errors import InputError
from system.files import read_json, temporary_of, write_json
from system.plain_data import COUNT, SECONDS, PlainDataError, Test, check_form, plain_copy

Settings = dict[str, Any]
Result = dict[str, Any]
"""Both plain data, as JSON has it."""

CHECKPOINT_SECONDS = 60
"""Between two checkpoints of a cell."""
_LOOK_SECONDS = 0.5
"""Between two looks at how far the cells of other processes have come."""
_SCHEMA = 1
"""Of these checkpoints; those of another are not read."""
_FORM = {"schema": COUNT, "settings": dict, "seconds": SECONDS, "content": dict}
_KEPT = {"settings": dict, "result": dict, "seconds": SECONDS}
"""Of the file of a cell."""
SIZE = Test("a count above zero", lambda value: COUNT.passes(value) and value > 0)
"""Of networks, in results."""


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


def _to_nobody(*told: object) -> None:
    """For those whom nobody looks at."""


class Checkpoint:
    """How far a cell has come, in a file beside its result, so that a study that was killed goes on from there.

    Args:
        path: of the file.
        settings: of the cell; what was kept for other ones is not taken.
        tell: hears what part of the cell is done, as `reached` does.
    """

    def __init__(self, path: Path, settings: Settings, tell: Callable[[float], None] = _to_nobody) -> None:
        self._path, self._settings, self._tell = path, settings, tell
        self._began, self._before = time.process_time(), 0.0
        self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of processor time that the cell has taken, those before it was stopped included."""
        return self._before + time.process_time() - self._began

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is so long ago that it is time for another."""
        return time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    @property
    def exists(self) -> bool:
        """Whether something was saved, by this process or the one before."""
        return self._path.exists()

    def reached(self, part: float) -> None:
        """Says what part of the cell is done, from 0 to 1, to whoever looks on. It costs next to nothing: any step may say it."""
        self._tell(part)

    def save(self, content: dict[str, Any]) -> None:
        """Keeps tensors and plain data in place of what was saved before. That stays where the disk refuses, which is no reason to stop:
        the next one may be written.
        """
        about = {"schema": _SCHEMA, "settings": self._settings, "seconds": self.seconds}
        with contextlib.suppress(OSError):
            write_tensors(self._path, {**about, "content": content})
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved last, tensors and plain data of whatever form; None where there is nothing for these settings that can be read."""
        try:
            kept, sealed = read_tensors(self._path)
            check_form(kept, _FORM)
            # Settings have no tensors, and with some of them there would be no answer whether they are equal.
            fits = sealed and kept["schema"] == _SCHEMA and plain_copy(kept["settings"]) == self._settings
        except (InputError, PlainDataError):
            return None
        if not fits:
            return None
        self._before = kept["seconds"]
        return kept["content"]  # type: ignore[no-any-return]

    def remove(self) -> None:
        """What was saved, and what a kill has left of it."""
        for path in (self._path, temporary_of(self._path)):
            path.unlink(missing_ok=True)


Play = Callable[[Settings, Checkpoint], Result]
"""Runs a cell; a function of a module and not nested, for it goes to another process."""


def begun_anew(play: Callable[[Settings], Result]) -> Play:
    """For cells that have no checkpoint: one that was stopped begins again."""
    return partial(_begun_anew, play)


def _begun_anew(play: Callable[[Settings], Result], settings: Settings, checkpoint: Checkpoint) -> Result:
    return play(settings)


Check = Callable[[Settings, Result], object]
"""Raises PlainDataError for a result that a cell of such settings does not have: files may come from somebody else."""


def stored(cell: Cell, folder: Path, check: Check = _to_nobody, tell: Callable[[str], object] = warn) -> Outcome | None:
    """What an earlier run has kept of the cell, if it had the same settings.

    Args:
        check: of the result.
        tell: is given a sentence about a file that is none of ours, or damaged. Its cell runs again.
    """
    path = _file(cell, folder)
    if not os.path.lexists(path):
        return None
    try:
        content = plain_copy(read_json(path))
        check_form(content, _KEPT)
        if content["settings"] != cell.settings or content.keys() != _KEPT.keys():
            return None
        check(cell.settings, content["result"])
    except PlainDataError as error:
        tell(f"{path} is damaged (it holds {error}): the cell runs again.")
        return None
    return Outcome(cell=cell, result=content["result"], seconds=content["seconds"])


OnProgress = Callable[[Cell, float], None]
"""Hears again and again of a cell that is under way what part of it is done, from 0 to 1."""


def run(
    cells: Sequence[Cell], play: Play, folder: Path, processes: int, progress: OnProgress = _to_nobody
) -> Iterator[Outcome]:
    """Runs the cells and keeps the results in `folder`, as they come. `progress` is called in this process.

    Raises:
        CellError: a process was killed.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        for cell in cells:
            yield _keep(cell, *_timed(play, cell, folder, partial(progress, cell)), folder)
        return
    others = set(multiprocessing.active_children())
    memory = SharedMemory(8 * len(cells))
    pool = ProcessPoolExecutor(
        min(processes, max(1, len(cells))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
        initargs=(memory,),
    )
    try:
        with _signals_wait(), signals_blocked():
            begun: dict[Future[tuple[Result, float]], int] = {
                pool.submit(_timed_elsewhere, play, cell, folder, number): number for number, cell in enumerate(cells)
            }
        parts, pending = _numbers(memory), set(begun)
        while pending:
            done, pending = wait(pending, _LOOK_SECONDS, FIRST_COMPLETED)
            # Those that failed come last: what is done is kept.
            for future in sorted(done, key=lambda future: future.exception() is not None):
                yield _keep(cells[begun[future]], *future.result(), folder)
            for number in sorted(begun[future] for future in pending):
                if parts[number] > 0:
                    progress(cells[number], float(parts[number]))
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


_parts: np.ndarray
"""In a process of a study: what part of each cell is done, in memory that it shares with the one that began it."""


def _numbers(memory: SharedMemory) -> np.ndarray:
    """One for each cell."""
    return memory.bytes.numpy().view(np.float64)


def _prepare(memory: SharedMemory) -> None:
    global _parts  # noqa: PLW0603  (what a pool's initialiser is given has no other way to the cells)
    _parts = _numbers(memory)
    end_with_the_parent()
    leave_signals_to_the_learner()
    configure_process(1)


def _timed_elsewhere(play: Play, cell: Cell, folder: Path, number: int) -> tuple[Result, float]:
    return _timed(play, cell, folder, partial(_parts.__setitem__, number))


def _timed(play: Play, cell: Cell, folder: Path, tell: Callable[[float], None]) -> tuple[Result, float]:
    checkpoint = _checkpoint(cell, folder, tell)
    return play(cell.settings, checkpoint), checkpoint.seconds


def tidy(cell: Cell, folder: Path) -> None:
    """Removes the checkpoint of a cell that is done, which is left over when the study is killed right then."""
    _checkpoint(cell, folder).remove()


def _keep(cell: Cell, result: Result, seconds: float, folder: Path) -> Outcome:
    write_json(_file(cell, folder), {"settings": cell.settings, "result": result, "seconds": round(seconds, 1)})
    tidy(cell, folder)
    return Outcome(cell=cell, result=result, seconds=seconds)


def _file(cell: Cell, folder: Path) -> Path:
    return folder / f"{cell.name}.json"


def _checkpoint(cell: Cell, folder: Path, tell: Callable[[float], None] = _to_nobody) -> Checkpoint:
    return Checkpoint(folder / f"{cell.name}.pt", cell.settings, tell)
