"""BabyAI on the original Python package `minigrid`: one environment object per slot, stepped in a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs import babyai_levels as levels
from envs.errors import InputError
from envs.instructions import TextColumn, Tokenizer
from envs.seeding import episode_seed
from envs.spec import Slot, Split
from envs.vector import Arrays, Outcome


def registered_levels() -> list[str]:
    """Every id known to gymnasium once minigrid is imported, other packages' too."""
    import minigrid  # noqa: F401  (registers its levels)

    return list(gymnasium.registry)


def _make(level: str) -> gymnasium.Env[dict[str, Any], int]:
    """One bare environment of that level, quiet."""
    import minigrid  # noqa: F401
    from minigrid.envs.babyai.core import roomgrid_level

    # Level generation prints every rejected sample. Shadowing the name in that one module is exact; redirecting
    # stdout would also swallow whatever another thread (the progress display) writes meanwhile.
    vars(roomgrid_level)["print"] = lambda *_: None
    # Without gymnasium's wrappers: minigrid limits its own time, and a checker per step costs as much as a small step.
    env = gymnasium.make(level, disable_env_checker=True, render_mode="rgb_array").unwrapped
    image = env.observation_space["image"]  # type: ignore[index]
    if image.shape != levels.IMAGE_SHAPE:
        raise InputError(f"env.tasks={level} shows images {image.shape}, not {levels.IMAGE_SHAPE}: leave it out.")
    return env


class MinigridEngine:
    """S minigrid environments (see `envs.vector.Engine`); every episode is reset with its own seed of the seed tree."""

    def __init__(self, tasks: tuple[str, ...], slots: Sequence[Slot], split: Split, tokenizer: Tokenizer) -> None:
        self._slots, self._split = tuple(slots), split
        self._levels = [tasks[slot.task] for slot in self._slots]
        self._envs = [_make(level) for level in self._levels]
        self._instruction = TextColumn(tokenizer, len(self._slots))
        self._missions = [""] * len(self._slots)
        size = len(self._slots)
        self.observation: Arrays = {
            "image": np.zeros((size, *levels.IMAGE_SHAPE), np.uint8),
            "instruction": self._instruction.tokens,
        }
        self._reward = np.zeros(size, np.float32)
        self._terminated = np.zeros(size, np.bool_)
        self._truncated = np.zeros(size, np.bool_)
        self._seed = 0
        self._episode: list[int] = []

    def start(self, seed: int) -> None:
        self._seed = seed
        self._episode = [slot.episode for slot in self._slots]
        self._reward[:], self._terminated[:], self._truncated[:] = 0, False, False
        for row in range(len(self._slots)):
            self._begin_episode(row)
        self._instruction.update(self._missions)

    def step(self, actions: NDArray[np.int32]) -> Outcome:
        ended = (self._terminated | self._truncated).tolist()
        self._reward[:], self._terminated[:], self._truncated[:] = 0, False, False
        for row, action in enumerate(actions.tolist()):
            if ended[row]:
                self._episode[row] += 1
                self._begin_episode(row)
                continue
            seen, reward, terminated, truncated, _ = self._envs[row].step(action)
            self._show(row, seen)
            self._reward[row] = float(reward)
            self._terminated[row] = terminated
            self._truncated[row] = truncated and not terminated
        self._instruction.update(self._missions)
        return self._reward, self._terminated, self._truncated

    def _begin_episode(self, row: int) -> None:
        seed = episode_seed(self._seed, self._split, self._levels[row], self._slots[row].index, self._episode[row])
        seen, _ = self._envs[row].reset(seed=seed)
        self._show(row, seen)

    def _show(self, row: int, seen: dict[str, Any]) -> None:
        self.observation["image"][row] = seen["image"]
        self._missions[row] = seen["mission"]

    def render(self, slot: int) -> NDArray[np.uint8]:
        return np.asarray(self._envs[slot].render(), np.uint8)

    def state_dict(self) -> dict[str, Any] | None:
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError("minigrid's environments cannot be frozen; resume with Slot.episode")

    def close(self) -> None:
        for env in self._envs:
            env.close()
