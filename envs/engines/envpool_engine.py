"""Environments of envpool as an engine: one pool of C++ environments per task. A `Family` describes what differs between its families."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.engines.base import Arrays, Outcome
from envs.engines.foreign_code import explain_failed_import
from envs.instructions import ByteColumn, Tokenizer
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from system.errors import InputError


def registered_ids() -> list[str]:
    """The ids of all families. Imports envpool (about 2 s)."""
    with explain_failed_import("envpool"):
        import envpool

    return list(envpool.list_all_envs())


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """How the engine makes the environments of one family, and reads what they return.

    Attributes:
        env_id: Task -> id of envpool.
        options: Arguments of `envpool.make`.
        show: An observation of envpool -> the arrays of `EnvSpec.observation` [n, ...], of the same numbers.
        text: Key of the instruction in an observation; empty without instructions.
        success: Key of `info` that is positive at a step that reaches the goal; empty if there is none. An episode is a success if any of
            its steps reaches the goal.
        goal_ends: Whether a positive reward ends the episode. envpool then reports a goal that is reached at the time limit as a
            truncation, and the engine as a termination.
    """

    env_id: Callable[[str], str] = str
    options: Mapping[str, Any] = field(default_factory=dict)
    show: Callable[[Any], Arrays]
    text: str = ""
    success: str = ""
    goal_ends: bool = False


@functools.cache
def _share_opengl(package: ModuleType) -> None:
    """Makes the OpenGL libraries that envpool 1.2.5 brings visible to MuJoCo, which otherwise ends the process at the first picture.

    Args:
        package: envpool.
    """
    folder = Path(str(package.__file__)).parent
    for name in ("GLdispatch", "OpenGL", "EGL"):
        for library in folder.with_name("envpool.libs").glob(f"lib{name}-*"):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


class Pool:
    """The slots of one task; `rows` are their rows of the batch."""

    def __init__(
        self, family: Family, task: str, rows: NDArray[np.intp], seeds: list[int], tokenizer: Tokenizer, threads: int
    ) -> None:
        with explain_failed_import("envpool"):
            import envpool

        self.rows, self._family = rows, family
        self._instruction = ByteColumn(tokenizer, len(rows)) if family.text else None
        self._ids = np.arange(len(rows), dtype=np.int32)
        self._reached = np.zeros(len(rows), np.bool_)
        # The first results are those of a reset, as after an episode's end.
        self._ended = np.ones(len(rows), np.bool_)
        self.envs: Any = envpool.make(
            family.env_id(task),
            env_type="gymnasium",
            num_envs=len(rows),
            num_threads=min(threads, len(rows)),
            seed=seeds,
            render_mode="rgb_array",
            **family.options,
        )

    def send(self, actions: NDArray[Any]) -> None:
        # With the ids, which envpool would otherwise compute at every step (about 20 us).
        self.envs.send({"action": actions, "env_id": self._ids, "players": {"env_id": self._ids}})

    def receive(self, observation: Arrays, success: NDArray[np.float32]) -> Outcome:
        """Waits for the pool's results, writes its rows of `observation` and `success`, and returns rewards and ends in the order of
        `rows`.
        """
        family = self._family
        seen, reward, terminated, truncated, info = self.envs.recv()
        # A pool that waits for all its environments returns them in order. Nothing else would detect a wrong order.
        if (info["env_id"] != self._ids).any():
            raise RuntimeError("envpool returned its environments out of order")
        for key, array in family.show(seen).items():
            observation[key][self.rows] = array
        if self._instruction is not None:
            changed = self._instruction.update(seen[family.text])
            if len(changed):
                observation["instruction"][self.rows[changed]] = self._instruction.tokens[changed]
        if family.goal_ends:
            reached = truncated & (reward > 0)
            terminated, truncated = terminated | reached, truncated & ~reached
        if family.success:
            # The first observation of an episode is no step of it.
            self._reached = (self._reached | (info[family.success] > 0)) & ~self._ended
            success[self.rows] = self._reached
        # Meta-World rewards the state after a reset, too.
        reward = np.where(self._ended, np.float32(0), reward)
        self._ended = terminated | truncated
        return reward, terminated, truncated


class EnvpoolEngine:
    """All pools as one batch (see `envs.engines.base.Engine` and `SuccessEngine`).

    Attributes:
        pools: One per task that a slot has, in the order of the task ids. New ones at every `start`.

    envpool seeds an environment once, when it is made, here with the seed of its slot's first episode. Later episodes continue that
    random stream. So a run that resumes at episode k starts with the seed of episode k, and plays another level than the interrupted run
    would have.
    """

    def __init__(self, family: Family, spec: EnvSpec, slots: Sequence[Slot], split: Split, threads: int) -> None:
        self._family, self._tasks, self._slots, self._split = family, spec.tasks, tuple(slots), split
        self._tokenizer, self._threads = Tokenizer(spec.vocabulary, spec.instruction_length), threads
        size = len(self._slots)
        self.observation: Arrays = {
            key: np.zeros((size, *array.shape), array.dtype) for key, array in spec.observation.items()
        }
        if spec.instruction_length:
            self.observation["instruction"] = np.zeros((size, spec.instruction_length), np.int32)
        self.success = np.full(size, np.nan, np.float32)
        self._outcome: Outcome = np.zeros(size, np.float32), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        self.pools: list[Pool] = []

    def start(self, seed: int) -> None:
        self.close()  # envpool cannot be seeded again, so the pools are rebuilt
        for task in sorted({slot.task for slot in self._slots}):
            rows = np.array([row for row, slot in enumerate(self._slots) if slot.task == task], np.intp)
            name = self._tasks[task]
            seeds = [
                episode_seed(seed, self._split, name, self._slots[row].index, self._slots[row].episode) for row in rows
            ]
            self.pools.append(Pool(self._family, name, rows, seeds, self._tokenizer, self._threads))
        for pool in self.pools:
            pool.envs.async_reset()
        self._receive()

    def step(self, actions: NDArray[Any]) -> Outcome:
        for pool in self.pools:  # send to every pool before waiting for any, so that they work in parallel
            pool.send(actions[pool.rows])
        self._receive()
        return self._outcome

    def _receive(self) -> None:
        for pool in self.pools:
            for array, received in zip(self._outcome, pool.receive(self.observation, self.success), strict=True):
                array[pool.rows] = received

    def render(self, slot: int) -> NDArray[np.uint8]:
        import envpool

        _share_opengl(envpool)
        pool = next(pool for pool in self.pools if slot in pool.rows)
        try:
            return np.asarray(pool.envs.render(int(np.flatnonzero(pool.rows == slot)[0]))[0], np.uint8)
        except RuntimeError as error:
            raise InputError(
                f"video=true cannot draw {self._tasks[self._slots[slot].task]} ({error}): install OpenGL with a driver, as "
                "libegl1 and libgl1-mesa-dri, or leave video= out."
            ) from error

    def close(self) -> None:
        for pool in self.pools:
            pool.envs.close()
        self.pools = []
