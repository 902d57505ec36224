"""The heartbeat of an actor: written at every step to shared memory, readable by other processes even after the actor was killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from envs.spec import ArraySpec


def heartbeat_spec(slots: int) -> dict[str, ArraySpec]:
    """The arrays of a Heartbeat."""
    shapes = {"beats": (1,), "stepping": (1,), "episodes": (slots,), "tasks": (slots,)}
    return {key: ArraySpec(shape=shape, dtype="int64") for key, shape in shapes.items()}


class Heartbeat:
    """The arrays of an actor with S slots, as NumPy arrays.

    Args:
        arrays: Of `heartbeat_spec`, in shared or private memory.

    Attributes:
        episodes: int64 [S], the current episode of each slot.
        tasks: int64 [S], the current task id of each slot.
        stepping: int64 [1], the slot whose environment is being stepped. -1 between steps, and if all slots are stepped together.
    """

    def __init__(self, arrays: Mapping[str, Tensor]) -> None:
        self._beats, self.stepping = arrays["beats"].numpy(), arrays["stepping"].numpy()
        self.episodes, self.tasks = arrays["episodes"].numpy(), arrays["tasks"].numpy()
        self.stepping[0] = -1

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
        """Resets the arrays for a new actor."""
        self._beats[0], self.stepping[0] = 0, -1
