"""Weights of the tasks blend-k of the suite `conditional`: their regions, which training can leave out, and their draw.

A region is named by the places of the largest and the second largest weight. All regions of a blend are equally probable.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from envs.faults import NoContextError
from envs.holdout import held_out
from envs.seeding import stream_key, uniform
from envs.spec import Slot, Split
from envs.suite import EnvConfig
from system.errors import InputError

BLEND = "blend"
MOST_MATRICES = 32
"""Matrices of a blend."""


def number_of(task: str) -> int:
    """k of blend-k, i of map-i and memory-i."""
    return int(task.split("-")[1])


def num_matrices(tasks: Sequence[str]) -> int:
    """Number of the first matrices that the tasks use."""
    return max(number_of(task) + (not task.startswith(BLEND)) for task in tasks)


def left_out(config: EnvConfig, tasks: Sequence[str], most: int) -> tuple[str, ...]:
    """The names of the regions that training leaves out: `i+j`, the two largest weights in any order, and `i`, the largest one.

    A draw is one of the pairs of the tasks' matrices. Given names may be those of the first `most` matrices, because agents are evaluated
    on smaller blends, too.
    """
    if not config.holdout and not config.holdout_fraction:
        return ()
    count = max(2, num_matrices(tasks)) if config.holdout_fraction else min(most, MOST_MATRICES)
    places = [str(place) for place in range(count)]
    return held_out(config, {f"{low}+{high}": (low, high) for low, high in combinations(places, 2)}, places)


def check_left_out(tasks: Sequence[str], names: Sequence[str]) -> None:
    """Raises InputError if training leaves regions out and no task is a blend, or nothing of a blend is left."""
    blends = [task for task in tasks if task.startswith(BLEND)]
    if names and not blends:
        raise InputError(
            f"env.holdout leaves weights of blends out of training and env.tasks={tasks[0]} has none: add blend to env.tasks, or leave the "
            "key out."
        )
    for task in blends:
        if not regions(task, names, seen=True):
            raise InputError(f"env.holdout=[{','.join(names)}] leaves training nothing of {task}: leave a name out.")


def regions(task: str, names: Sequence[str], *, seen: bool) -> list[tuple[int, int]]:
    """The regions of a task's weights that training has (`seen`), or leaves out by `names`: the places of the two largest weights.

    Of map-i and memory-i, which have one weight, both places are i.
    """
    number = number_of(task)
    places = permutations(range(number), 2) if task.startswith(BLEND) else [(number, number)]
    return [
        (largest, second)
        for largest, second in places
        if seen != bool({str(largest), f"{min(largest, second)}+{max(largest, second)}"} & set(names))
    ]


class Weights:
    """The weights of the episodes of some slots, each a function of the slot's stream key and the episode's number.

    Args:
        names: Of the regions that training leaves out.
        split: Its group of contexts is drawn from.
        size: Numbers of the result, at least as many as the tasks have matrices.

    Attributes:
        keys: Stream keys of the slots. `start` sets them.

    Raises NoContextError if a task of the slots has no weights of that group.
    """

    def __init__(
        self, tasks: Sequence[str], slots: Sequence[Slot], names: Sequence[str], split: Split, size: int
    ) -> None:
        self._tasks, self._slots, self._split, self._size = tasks, slots, split, size
        self._task_of_slot = np.array([slot.task for slot in slots], np.intp)
        self._regions = {}
        for task in dict.fromkeys(self._task_of_slot.tolist()):
            found = regions(tasks[task], names, seen=split.is_seen)
            if not found:
                group = "outside of env.holdout" if split.is_seen else "of env.holdout"
                raise NoContextError(
                    f"env.tasks={tasks[task]} has no weights {group}: leave the task out, or change env.holdout."
                )
            self._regions[task] = np.array(found, np.intp)
        self.keys = np.zeros(len(slots), np.uint64)

    def start(self, seed: int) -> None:
        self.keys[:] = [
            stream_key(seed, self._split, f"{self._tasks[slot.task]} weights", slot.index) for slot in self._slots
        ]

    def draw(self, rows: NDArray[np.intp], episodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The weights [N, size] of an episode each of the slots `rows` [N]; 0 beyond a task's matrices."""
        drawn = np.zeros((len(rows), self._size), np.float32)
        for task in np.unique(self._task_of_slot[rows]).tolist():
            chosen = self._task_of_slot[rows] == task
            if self._tasks[task].startswith(BLEND):
                count = number_of(self._tasks[task])
                drawn[chosen, :count] = self._blend(rows[chosen], episodes[chosen], count, self._regions[task])
            else:
                drawn[chosen, number_of(self._tasks[task])] = 1
        return drawn

    def _blend(
        self, rows: NDArray[np.intp], episodes: NDArray[np.int64], count: int, found: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Weights [N, count], uniform on the regions `found` of the simplex.

        The spacings of count - 1 uniform numbers are uniform on the simplex (Devroye 1986, chapter V, theorem 2.2). A further number
        draws the region. The two largest weights are swapped into its places, and the others keep their random order.
        """
        first, places = episodes.astype(np.uint64) * np.uint64(count), np.arange(count, dtype=np.uint64)
        numbers = uniform(self.keys[rows, None], first[:, None] + places)
        unit = (numbers.astype(np.float64) + 1) / 2
        weights = np.diff(np.sort(unit[:, :-1], axis=1), axis=1, prepend=0.0, append=1.0)
        wanted = found[(unit[:, -1] * len(found)).astype(np.intp)]
        every = np.arange(len(rows))
        for rank in (0, 1):
            source, target = np.argsort(-weights, axis=1, kind="stable")[:, rank], wanted[:, rank]
            weights[every, source], weights[every, target] = weights[every, target], weights[every, source]
        return weights
