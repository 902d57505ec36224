"""The heartbeat of an actor: written at every step to shared memory, readable by other processes even after the actor was killed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BEATS, _STEPPING = 0, 1
_SLOTS = 2
"""First index of the slots' numbers: all episodes, then all task ids."""


class Heartbeat:
    """Views of one row of numbers, for an actor with S slots.

    Args:
        slots: S.
        row: int64 [Heartbeat.size(S)] in shared memory. None: private memory.

    Attributes:
        episodes: int64 [S], the current episode of each slot.
        tasks: int64 [S], the current task id of each slot.
        stepping: int64 [1], the slot whose environment is being stepped. -1 between steps, and if all slots are stepped together.
    """

    def __init__(self, slots: int, row: NDArray[np.int64] | None = None) -> None:
        row = np.zeros(self.size(slots), np.int64) if row is None else row
        self._beats = row[_BEATS : _BEATS + 1]
        row[_STEPPING] = -1
        self.stepping = row[_STEPPING : _STEPPING + 1]
        self.episodes, self.tasks = row[_SLOTS : _SLOTS + slots], row[_SLOTS + slots : _SLOTS + 2 * slots]

    @staticmethod
    def size(slots: int) -> int:
        """Length of a row."""
        return _SLOTS + 2 * slots

    @property
    def beats(self) -> int:
        """1 + the number of steps since the actor was built; 0 before."""
        return int(self._beats[0])

    def beat(self, episodes: NDArray[np.int64], tasks: NDArray[np.int32]) -> None:
        """Records one step. Both arguments are [S]."""
        self.episodes[:] = episodes
        self.tasks[:] = tasks
        self._beats += 1

    def task(self, names: Sequence[str]) -> str:
        """Name of the task that was played last, from `names` by id. Empty if slots with different tasks are stepped together."""
        slots = self.tasks[self.stepping[0] : self.stepping[0] + 1] if self.stepping[0] >= 0 else self.tasks
        ids = set(slots.tolist())
        return names[ids.pop()] if len(ids) == 1 else ""

    def reset(self) -> None:
        """Resets the row for a new actor."""
        self._beats[0], self.stepping[0] = 0, -1
