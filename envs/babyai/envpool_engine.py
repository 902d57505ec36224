"""BabyAI on envpool: one pool of C++ environments per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.babyai import levels
from envs.engines.base import Arrays, Outcome
from envs.instructions import ByteColumn, Tokenizer
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from envs.suite import explain_failed_import


def registered_levels() -> list[str]:
    """Every id of envpool, those of other families included. Imports envpool (about 2 s)."""
    with explain_failed_import("envpool"):
        import envpool

    return list(envpool.list_all_envs())


class _Pool:
    """The slots of one task; `rows` are their rows of the batch."""

    def __init__(
        self, level: str, rows: NDArray[np.intp], seeds: list[int], tokenizer: Tokenizer, threads: int
    ) -> None:
        with explain_failed_import("envpool"):
            import envpool

        self.rows = rows
        self.instruction = ByteColumn(tokenizer, len(rows))
        self._ids = np.arange(len(rows), dtype=np.int32)
        self.envs: Any = envpool.make(
            level,
            env_type="gymnasium",
            num_envs=len(rows),
            num_threads=min(threads, len(rows)),
            seed=seeds,
            render_mode="rgb_array",
        )

    def send(self, actions: NDArray[np.int32]) -> None:
        # With the ids, which envpool would otherwise compute at every step (about 20 us).
        self.envs.send({"action": actions, "env_id": self._ids, "players": {"env_id": self._ids}})

    def receive(self, observation: Arrays) -> Outcome:
        """Waits for the pool's results, writes its rows of `observation`, and returns rewards and ends in the order of `rows`."""
        seen, reward, terminated, truncated, info = self.envs.recv()
        # A pool that waits for all its environments returns them in order. Nothing else would detect a wrong order.
        if (info["env_id"] != self._ids).any():
            raise RuntimeError("envpool returned its environments out of order")
        observation["image"][self.rows] = seen["image"]
        changed = self.instruction.update(seen["mission"])
        if len(changed):
            observation["instruction"][self.rows[changed]] = self.instruction.tokens[changed]
        # envpool truncates at the time limit even if the agent succeeds in the same step. That is a termination in minigrid, and here.
        succeeded = reward > 0
        return reward, terminated | (truncated & succeeded), truncated & ~succeeded


class EnvpoolEngine:
    """All pools as one batch (see `envs.engines.base.Engine`).

    envpool seeds an environment once, when it is made, here with the seed of its slot's first episode. Later episodes continue that
    random stream. So a run that resumes at episode k starts with the seed of episode k, and plays another level than the interrupted run
    would have.
    """

    def __init__(self, spec: EnvSpec, slots: Sequence[Slot], split: Split, threads: int) -> None:
        self._tasks, self._slots, self._split = spec.tasks, tuple(slots), split
        self._tokenizer, self._threads = Tokenizer(spec.vocabulary, spec.instruction_length), threads
        size = len(self._slots)
        self.observation: Arrays = {
            "image": np.zeros((size, *levels.IMAGE_SHAPE), np.uint8),
            "instruction": np.zeros((size, spec.instruction_length), np.int32),
        }
        self._outcome: Outcome = np.zeros(size, np.float32), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        self._pools: list[_Pool] = []

    def start(self, seed: int) -> None:
        self.close()  # envpool cannot be seeded again, so the pools are rebuilt
        for task in sorted({slot.task for slot in self._slots}):
            rows = np.array([row for row, slot in enumerate(self._slots) if slot.task == task], np.intp)
            seeds = [
                episode_seed(seed, self._split, self._tasks[task], self._slots[row].index, self._slots[row].episode)
                for row in rows
            ]
            self._pools.append(_Pool(self._tasks[task], rows, seeds, self._tokenizer, self._threads))
        for pool in self._pools:
            pool.envs.async_reset()
        self._receive()

    def step(self, actions: NDArray[np.int32]) -> Outcome:
        for pool in self._pools:  # send to every pool before waiting for any, so that they work in parallel
            pool.send(actions[pool.rows])
        self._receive()
        return self._outcome

    def _receive(self) -> None:
        for pool in self._pools:
            for array, received in zip(self._outcome, pool.receive(self.observation), strict=True):
                array[pool.rows] = received

    def render(self, slot: int) -> NDArray[np.uint8]:
        for pool in self._pools:
            if slot in pool.rows:
                return np.asarray(pool.envs.render(int(np.flatnonzero(pool.rows == slot)[0]))[0], np.uint8)
        raise IndexError(f"slot {slot} of {len(self._slots)}")

    def close(self) -> None:
        for pool in self._pools:
            pool.envs.close()
        self._pools = []
