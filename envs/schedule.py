"""Assigns tasks to slots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def deal(weights: Sequence[float], count: int) -> list[tuple[int, int]]:
    """Assigns `count` slots to tasks in proportion to `weights` [K]: (task id, index among the slots of that task) of each slot.

    Every prefix of the result is in proportion, too. With equal weights the tasks alternate: 0, 1, ..., K - 1, 0, ...
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    dealt = np.zeros(len(shares), np.int64)
    slots = []
    for number in range(1, count + 1):
        # The task that lacks most slots.
        task = int((shares * number - dealt).argmax())
        slots.append((task, int(dealt[task])))
        dealt[task] += 1
    return slots


class FrameBalance:
    """Chooses every slot's next task so that all tasks get equal numbers of steps, whatever the lengths of their episodes and resets.

    The account of a task is the number of its steps so far plus the expected remaining steps of its running episodes. When an episode
    ends, its slot changes to the task with the lowest account, if its own task is ahead of it by more than the length of one of its
    episodes. Otherwise it stays, because a change may require another environment. The choices follow from the counts alone.

    `steps` [K] is the number of steps of every task before, `tasks` [S] the first task of every slot.
    """

    def __init__(self, steps: Sequence[int], tasks: NDArray[np.int32]) -> None:
        self._steps = np.array(steps, np.float64)
        self._task = tasks.copy()
        self._age = np.zeros(len(tasks), np.int64)
        self._finished_steps = np.zeros(len(self._steps))
        self._finished = np.zeros(len(self._steps))

    def count(self, real: NDArray[np.bool_], ended: NDArray[np.bool_], interrupted: NDArray[np.bool_]) -> None:
        """Counts one step of every slot: whether it belongs to an episode, ends the episode, or the episode was broken off.

        Episodes that were broken off do not count for the expected length.
        """
        np.add.at(self._steps, self._task[real], 1)
        self._age += real
        np.add.at(self._finished, self._task[ended], 1)
        np.add.at(self._finished_steps, self._task[ended], self._age[ended])
        self._age[ended | interrupted] = 0

    def choose(self, slot: int) -> int:
        """Chooses the next task of a slot whose episode has ended, or was broken off."""
        # Before its first episode ends, a task gets the average length of all episodes.
        average = self._finished_steps.sum() / max(self._finished.sum(), 1)
        expected = np.where(self._finished > 0, self._finished_steps / np.maximum(self._finished, 1), average)
        to_come = np.maximum(expected[self._task] - self._age, 0)
        to_come[slot] = 0
        account = self._steps + np.bincount(self._task, to_come, len(self._steps))
        own, lowest = self._task[slot], account.argmin()
        if account[own] - account[lowest] > expected[own]:
            self._task[slot] = lowest
        return int(self._task[slot])
