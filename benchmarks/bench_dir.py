"""The folder in which another program counts. The environment variable BENCH_DIR names it. Its files are:

    - steps_<anything>: The steps of one environment so far, one int64 in the machine's byte order.
    - updates: The steps of the optimiser so far, one int64. It may be missing.
    - episodes: One byte for each finished episode of all environments, in the order of their ends: `1` for a success, `0` otherwise.

Drivers import this module in the Python of the other program, so it needs NumPy only.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LAST_EPISODES = 100
"""Episodes over which a success is measured, as in train.py."""


@contextlib.contextmanager
def counting_folder() -> Iterator[Path]:
    """The folder BENCH_DIR. If the variable is not set, sets it to a temporary folder for the block, also for child processes."""
    with contextlib.ExitStack() as stack:
        if "BENCH_DIR" not in os.environ:
            os.environ["BENCH_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
            stack.callback(os.environ.pop, "BENCH_DIR")
        yield Path(os.environ["BENCH_DIR"])


class Count:
    """A number in a file, from 0, which other processes read."""

    def __init__(self, path: Path) -> None:
        self._value = np.memmap(path, np.int64, "w+", shape=(1,))

    def add(self, number: int = 1) -> None:
        """Adds `number`."""
        self._value[0] += number


class EnvironmentCounts:
    """Counts the steps and the episodes of one environment. Made in the process that steps it."""

    def __init__(self, folder: Path) -> None:
        # Several environments of one process differ in their identity, and so do copies of it in forked processes in their process.
        self._steps = Count(folder / f"steps_{os.getpid()}_{id(self)}")
        # O_APPEND: processes write to the same file, and no byte is lost.
        self._episodes = os.open(folder / "episodes", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)

    def step(self) -> None:
        """Counts one step."""
        self._steps.add()

    def episode(self, success: bool) -> None:
        """Counts one finished episode, after its last step."""
        os.write(self._episodes, b"1" if success else b"0")


def read_steps(folder: Path) -> int:
    """The steps of all environments."""
    return sum(_read_count(path) for path in folder.glob("steps_*"))


def read_updates(folder: Path) -> int | None:
    """The steps of the optimiser; None if the program does not count them."""
    path = folder / "updates"
    return _read_count(path) if path.exists() else None


def read_success(folder: Path) -> float | None:
    """Share of successes among the last LAST_EPISODES episodes; None before as many."""
    try:
        last = (folder / "episodes").read_bytes()[-LAST_EPISODES:]
    except FileNotFoundError:
        return None
    return last.count(b"1") / LAST_EPISODES if len(last) == LAST_EPISODES else None


def progress_line(folder: Path) -> str:
    """The state of a run as one line; a success of nan is one before LAST_EPISODES episodes."""
    success = read_success(folder)
    return f"{read_steps(folder)} frames, {read_updates(folder)} updates, success {float('nan') if success is None else success:.2f}"


def _read_count(path: Path) -> int:
    return int(np.fromfile(path, np.int64, 1).sum())
