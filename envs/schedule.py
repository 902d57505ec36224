"""Which slot plays which task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def deal(weights: Sequence[float], count: int) -> list[tuple[int, int]]:
    """Deals slots to tasks in proportion to `weights` [K], one after the other, so that every beginning of the list is, too.

    Equal weights deal in turn: 0, 1, ..., K - 1, 0, ...

    Returns:
        (task id, number among the slots of that task) of the first `count` slots.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    dealt = np.zeros(len(shares), np.int64)
    slots = []
    for number in range(1, count + 1):
        # The task that is furthest behind its share.
        task = int((shares * number - dealt).argmax())
        slots.append((task, int(dealt[task])))
        dealt[task] += 1
    return slots


class FrameBalance:
    """Chooses every slot's next task so that all tasks come to equal numbers of steps, however long their episodes and resets are.

    A task's account is the steps taken so far and those that its running episodes are expected to bring. When a slot's episode
    ends, it goes over to the task with the lowest account, if its own is more than one of its episodes ahead. It stays where
    there is less to gain, because another task may need another environment. The choices follow from the counts alone.

    Args:
        steps: taken before, of every task [K].
        tasks: that the slots begin with, [S].
    """

    def __init__(self, steps: Sequence[int], tasks: NDArray[np.int32]) -> None:
        self._steps = np.array(steps, np.float64)
        self._task = tasks.copy()
        self._age = np.zeros(len(tasks), np.int64)
        self._finished_steps = np.zeros(len(self._steps))
        self._finished = np.zeros(len(self._steps))

    def count(self, real: NDArray[np.bool_], ended: NDArray[np.bool_], interrupted: NDArray[np.bool_]) -> None:
        """One step of every slot: whether it was a step of an episode, and its last one, or whether the episode was broken off.

        An episode that was broken off says nothing of how long the others are.
        """
        np.add.at(self._steps, self._task[real], 1)
        self._age += real
        np.add.at(self._finished, self._task[ended], 1)
        np.add.at(self._finished_steps, self._task[ended], self._age[ended])
        self._age[ended | interrupted] = 0

    def choose(self, slot: int) -> int:
        """The next task of a slot whose episode has ended, or was broken off."""
        # Nothing is known of a task before its first episode ends: taken for an average one.
        average = self._finished_steps.sum() / max(self._finished.sum(), 1)
        expected = np.where(self._finished > 0, self._finished_steps / np.maximum(self._finished, 1), average)
        to_come = np.maximum(expected[self._task] - self._age, 0)
        to_come[slot] = 0
        account = self._steps + np.bincount(self._task, to_come, len(self._steps))
        own, lowest = self._task[slot], account.argmin()
        if account[own] - account[lowest] > expected[own]:
            self._task[slot] = lowest
        return int(self._task[slot])
