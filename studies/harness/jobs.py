"""Runs the jobs of a study in a few processes and keeps each result, so that a stopped study can be resumed.

A job is a function of plain settings. Its result depends on the settings alone, not on the process or the order, so a stored result for
equal settings replaces a new one. A long job can save checkpoints.
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
from agents.runtime.processes.buffers import SharedArrays
from agents.runtime.processes.process import configure_process, leave_signals_to_the_learner, signals_blocked
from agents.storage.tensor_file import read_tensors, write_tensors
from envs.spec import ArraySpec
from system.errors import InputError
from system.files import read_json, temporary_of, write_json
from system.plain_data import COUNT, SECONDS, PlainDataError, Test, check_form, plain_copy

Settings = dict[str, Any]
Result = dict[str, Any]
"""Both are plain JSON data."""

CHECKPOINT_SECONDS = 60
"""Interval between two checkpoints of a job."""
_POLL_SECONDS = 0.5
_SCHEMA = 1
"""Version of the checkpoints; other versions are not read."""
_CHECKPOINT_FORM = {"schema": COUNT, "settings": dict, "seconds": SECONDS, "content": dict}
_RESULT_FORM = {"settings": dict, "result": dict, "seconds": SECONDS}
SIZE = Test("a count above zero", lambda value: COUNT.passes(value) and value > 0)
"""Form of sizes of networks in results."""


class JobError(RuntimeError):
    """A process was killed before its job ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One part of a study. `name` is unique in the study and names the files in `folder`."""

    name: str
    settings: Settings
    folder: Path

    @property
    def result_path(self) -> Path:
        """The file of the result."""
        return self.folder / f"{self.name}.json"

    def checkpoint(self, report: Callable[[float], object] = lambda part: None) -> Checkpoint:
        """The checkpoint of this job. `report` receives the finished part of the job, from 0 to 1."""
        return Checkpoint(self.folder / f"{self.name}.pt", self.settings, report)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A finished job with its result and its processor time in seconds."""

    job: Job
    result: Result
    seconds: float


class Checkpoint:
    """The state of an unfinished job in a file beside its result.

    Args:
        path: Of the file.
        settings: Of the job; a checkpoint with other settings is not loaded.
        report: See `reached`.

    Attributes:
        reached: Called by the job with its finished part, from 0 to 1. It is cheap enough for every step.
    """

    def __init__(self, path: Path, settings: Settings, report: Callable[[float], object] = lambda part: None) -> None:
        self._path, self._settings, self.reached = path, settings, report
        self._start, self._earlier_seconds = time.process_time(), 0.0
        self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Processor time of the job, including that before the loaded checkpoint."""
        return self._earlier_seconds + time.process_time() - self._start

    @property
    def due(self) -> bool:
        """Whether CHECKPOINT_SECONDS have passed since the last checkpoint."""
        return time.monotonic() - self._saved >= CHECKPOINT_SECONDS

    @property
    def exists(self) -> bool:
        """Whether this process or an earlier one saved a checkpoint."""
        return self._path.exists()

    def save(self, content: dict[str, Any]) -> None:
        """Replaces the checkpoint by these tensors and plain data. A full disk keeps the old checkpoint, and the job continues."""
        about = {"schema": _SCHEMA, "settings": self._settings, "seconds": self.seconds}
        with contextlib.suppress(OSError):
            write_tensors(self._path, {**about, "content": content})
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved tensors and plain data, whose form the caller checks; None without a readable checkpoint of these settings."""
        try:
            saved, sealed = read_tensors(self._path)
            check_form(saved, _CHECKPOINT_FORM)
            # `plain_copy` refuses tensors, which cannot be compared by `==`.
            if not sealed or saved["schema"] != _SCHEMA or plain_copy(saved["settings"]) != self._settings:
                return None
        except (InputError, PlainDataError):
            return None
        self._earlier_seconds = saved["seconds"]
        return saved["content"]  # type: ignore[no-any-return]

    def remove(self) -> None:
        """Deletes the checkpoint and a partly written one."""
        for path in (self._path, temporary_of(self._path)):
            path.unlink(missing_ok=True)


Play = Callable[[Settings, Checkpoint], Result]
"""Runs a job. A function of a module, because other processes unpickle it."""

CheckResult = Callable[[Settings, Result], object]
"""Raises PlainDataError for a result that a job with these settings cannot have: result files can come from other people."""


def stored(
    job: Job, check: CheckResult = lambda settings, result: None, warn: Callable[[str], object] = warn
) -> Outcome | None:
    """The stored outcome of the job; None without one for the same settings. `warn` receives a sentence about a damaged file."""
    if not os.path.lexists(job.result_path):
        return None
    try:
        content = plain_copy(read_json(job.result_path))
        check_form(content, _RESULT_FORM)
        if content["settings"] != job.settings or content.keys() != _RESULT_FORM.keys():
            return None
        check(job.settings, content["result"])
    except PlainDataError as error:
        warn(f"{job.result_path} is damaged (it holds {error}): the job runs again.")
        return None
    return Outcome(job=job, result=content["result"], seconds=content["seconds"])


def run(
    jobs: Sequence[Job],
    play: Play,
    processes: int,
    on_progress: Callable[[Job, float], object] = lambda job, part: None,
) -> Iterator[Outcome]:
    """Runs the jobs in this process or in `processes` other ones, and stores and yields each outcome as soon as it is there.

    Args:
        on_progress: Called in this process with a running job and its finished part, from 0 to 1.

    Raises:
        JobError: A process was killed.
        OSError: The folder cannot be written.
    """
    if processes == 1 or not jobs:
        for job in jobs:
            yield _store(job, *_play(play, job, partial(on_progress, job)))
        return
    earlier_children = set(multiprocessing.active_children())
    memory = SharedArrays({"parts": ArraySpec(shape=(len(jobs),), dtype="float64")})
    parts = memory[0]["parts"].numpy()
    pool = ProcessPoolExecutor(
        min(processes, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare_worker,
        initargs=(memory,),
    )
    try:
        with _deferred_signals(), signals_blocked():
            futures: dict[Future[tuple[Result, float]], int] = {
                pool.submit(_play_in_worker, play, job, index): index for index, job in enumerate(jobs)
            }
        pending = set(futures)
        while pending:
            done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
            # Failed jobs come last, so that the results of the others are stored.
            for future in sorted(done, key=lambda future: future.exception() is not None):
                yield _store(jobs[futures[future]], *future.result())
            for index in sorted(futures[future] for future in pending):
                if parts[index] > 0:
                    on_progress(jobs[index], float(parts[index]))
    except BrokenProcessPool as error:
        raise JobError(
            "a process of the study was killed: the same command resumes, and parallel=1 needs least memory"
        ) from error
    finally:
        # After an error or Ctrl-C the other jobs are not needed; the pool joins the killed workers.
        for process in set(multiprocessing.active_children()) - earlier_children:
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _deferred_signals() -> Iterator[None]:
    """Raises KeyboardInterrupt after the block for a signal during it, so that no worker is left half started.

    Masking signals is not enough, because threads of the BLAS library would receive them.
    """
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda number, frame: received.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


_parts: np.ndarray
"""In a worker: the finished part of each job, in memory shared with the main process."""


def _prepare_worker(memory: SharedArrays) -> None:
    global _parts  # noqa: PLW0603  (an initializer of a pool can pass values to its jobs by a global alone)
    _parts = memory[0]["parts"].numpy()
    end_with_the_parent()
    leave_signals_to_the_learner()
    configure_process(1)


def _play_in_worker(play: Play, job: Job, index: int) -> tuple[Result, float]:
    return _play(play, job, partial(_parts.__setitem__, index))


def _play(play: Play, job: Job, report: Callable[[float], object]) -> tuple[Result, float]:
    checkpoint = job.checkpoint(report)
    return play(job.settings, checkpoint), checkpoint.seconds


def _store(job: Job, result: Result, seconds: float) -> Outcome:
    write_json(job.result_path, {"settings": job.settings, "result": result, "seconds": round(seconds, 1)})
    job.checkpoint().remove()
    return Outcome(job=job, result=result, seconds=seconds)
