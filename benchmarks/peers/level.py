"""A BabyAI or MiniGrid level for the drivers: the environment of `env.engine=minigrid`, with counters (bench_dir.py)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_dir import EnvironmentCounts
from envs.babyai.levels import IMAGE_SHAPE, VOCABULARY
from envs.babyai.minigrid_engine import make_level
from envs.instructions import Tokenizer

WORDS = 20
"""Words of an instruction; the rest is cut off. The longest clause of BabyAI's grammar has 17."""
NUM_DIRECTIONS = 4
NUM_WORDS = len(VOCABULARY)
Observation = dict[str, NDArray[np.uint8]]


class Level(gymnasium.Env[Observation, int]):
    """The level `task`. Counts in the folder BENCH_DIR from its first step on.

    Observations are `image` [7, 7, 3], `direction` [1] and `words` [WORDS], tokens with zeros after the last one; all uint8.

    Args:
        seed: Numbers that determine the episodes, as the run's seed and the environment's number.
    """

    render_mode = None

    def __init__(self, task: str, seed: Sequence[int]) -> None:
        self._level = make_level(task)
        self._seed: int | None = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._tokenizer = Tokenizer(VOCABULARY, WORDS)
        self._counts: EnvironmentCounts | None = None
        self.action_space = self._level.action_space
        self.observation_space: gymnasium.Space[Any] = gymnasium.spaces.Dict(
            image=gymnasium.spaces.Box(0, 255, IMAGE_SHAPE, np.uint8),
            direction=gymnasium.spaces.Box(0, NUM_DIRECTIONS - 1, (1,), np.uint8),
            words=gymnasium.spaces.Box(0, NUM_WORDS - 1, (WORDS,), np.uint8),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Ignores `seed`: sample-factory gives the environment's number, the same one in every run."""
        observation, info = self._level.reset(seed=self._seed)
        self._seed = None
        return self._observe(observation), info

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """See gymnasium.Env."""
        observation, reward, terminated, truncated, info = self._level.step(int(action))
        # Here, because torch-ac copies the environments into their processes after they are made.
        self._counts = self._counts or EnvironmentCounts(Path(os.environ["BENCH_DIR"]))
        self._counts.step()
        if terminated or truncated:
            self._counts.episode(success=float(reward) > 0)
        return self._observe(observation), float(reward), bool(terminated), bool(truncated), info

    def _observe(self, observation: dict[str, Any]) -> Observation:
        return {
            "image": observation["image"],
            "direction": np.asarray([observation["direction"]], np.uint8),
            "words": self._tokenizer.encode(observation["mission"]).astype(np.uint8),
        }
