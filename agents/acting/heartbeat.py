"""Signs of life of an actor, written at every step, and readable by whoever watches it even after it was killed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BEATS, _STEPPING = 0, 1
_SLOTS = 2
"""Where the slots' numbers begin: first all episodes, then all task ids."""


class Heartbeat:
    """Of an actor with S slots, as views of one row of numbers.

    Args:
        slots: S.
        row: int64 [Heartbeat.size(S)] to read or to write, in memory that processes share; memory of its own by default.

    Attributes:
        episodes: int64 [S], the episode that each slot is in.
        tasks: int64 [S], the id of the task that it plays.
        stepping: int64 [1], the slot whose environment is being stepped; -1 between steps, and where they are stepped together.
    """

    def __init__(self, slots: int, row: NDArray[np.int64] | None = None) -> None:
        row = np.zeros(self.size(slots), np.int64) if row is None else row
        self._beats = row[_BEATS : _BEATS + 1]
        row[_STEPPING] = -1
        self.stepping = row[_STEPPING : _STEPPING + 1]
        self.episodes, self.tasks = row[_SLOTS : _SLOTS + slots], row[_SLOTS + slots : _SLOTS + 2 * slots]

    @staticmethod
    def size(slots: int) -> int:
        """Numbers in a row."""
        return _SLOTS + 2 * slots

    @property
    def beats(self) -> int:
        """Steps made since the actor was built, and one for that; 0 before."""
        return int(self._beats[0])

    def beat(self, episodes: NDArray[np.int64], tasks: NDArray[np.int32]) -> None:
        """One step was made; both [S]."""
        self.episodes[:] = episodes
        self.tasks[:] = tasks
        self._beats += 1

    def task(self, names: Sequence[str]) -> str:
        """Which task was played last, of `names` by id; empty where the slots play different ones and step together."""
        slots = self.tasks[self.stepping[0] : self.stepping[0] + 1] if self.stepping[0] >= 0 else self.tasks
        ids = set(slots.tolist())
        return names[ids.pop()] if len(ids) == 1 else ""

    def still(self) -> None:
        """Another actor takes over the row and has not begun."""
        self._beats[0], self.stepping[0] = 0, -1
