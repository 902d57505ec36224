"""Shared by the tests of `dmlab30`: small environments on the fake engine, and an engine that records its calls."""

from __future__ import annotations

from typing import Any

import deepmind_lab
import numpy as np

from envs.dmlab30.actions import action_vectors
from envs.dmlab30.config import DMLab30Config
from envs.dmlab30.level_env import DMLabEnv
from envs.spec import Split

NONMATCHING = "contributed/dmlab30/rooms_select_nonmatching_object"
DESCRIBED = "contributed/dmlab30/language_select_described_object"
SMALL: dict[str, Any] = {"width": 32, "height": 24}
HERE: dict[str, Any] = {**SMALL, "processes": False}
"""Options of the suite: small pictures, played in the tests' process."""
IMPALA = action_vectors("impala", ())


def environment(level: str = NONMATCHING, **options: Any) -> DMLabEnv:
    return DMLabEnv(DMLab30Config(**SMALL, **options), IMPALA, Split.TRAIN, level)


def played(env: DMLabEnv, seed: int | None, steps: int = 12) -> list[Any]:
    """The first observation of an episode, and the seed in its info."""
    observation, info = env.reset(seed=seed)
    found = [observation["image"].tobytes(), observation["instruction"], info["seed"]]
    for number in range(steps):
        observation, *rest = env.step(number % 9)
        found += [observation["image"].tobytes(), observation["instruction"], rest]
    return found


class Spy(deepmind_lab.Lab):
    """Records the calls of the adapter to the engine."""

    made: list[Spy] = []  # noqa: RUF012  (one list for all)

    def __init__(self, level: str, observations: list[str], **options: Any) -> None:
        super().__init__(level, observations, **options)
        self.level, self.options = level, options
        self.resets: list[tuple[int, int | None]] = []
        self.actions: list[tuple[list[int], np.dtype, bool, int]] = []
        Spy.made.append(self)

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        self.resets.append((episode, seed))
        return super().reset(episode, seed)

    def step(self, action: np.ndarray, num_steps: int = 1) -> float:
        self.actions.append((action.tolist(), action.dtype, action.flags.c_contiguous, num_steps))
        return super().step(action, num_steps)
