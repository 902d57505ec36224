"""Environments with numbers that are not finite. Child processes import this module, and so can runs: env.tasks=[spoiled:Seldom-v0].

Every episode has LENGTH steps. Observations are (seed % 1000, age), where age counts the steps from 0. The reward of a step is its age.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dm_env
import gymnasium
import numpy as np
from dm_env import specs
from gymnasium import spaces

from envs.dm_env_adapter.adapter import DmEnvAdapter
from envs.faults import NotFiniteError
from envs.spec import ArraySpec, EnvSpec

LENGTH = 4
SPOILED = EnvSpec(
    suite="spoiled",
    tasks=("one", "other"),
    observation={
        "image": ArraySpec(shape=(2, 2, 1), dtype="uint8"),
        "vector": ArraySpec(shape=(2,), dtype="float32"),
    },
    instruction_length=0,
    vocabulary=(),
    num_actions=2,
    action_counts=(2, 2),
    switches_tasks=True,
)

Spoils = Mapping[int, tuple[int, str, float]]
"""Seed -> age, part (`vector`, `reward`, or `picture`, which raises) and value of the number that is not finite."""


class Counting(gymnasium.Env[Any, Any]):
    """The environment of the module docstring, with the numbers of `plan` replaced."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, plan: Spoils) -> None:
        self.plan = plan

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.seed, self.age = seed, 0
        return self.see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        age, what, number = self.plan.get(self.seed, (-1, "", 0.0))
        reward = number if (age, what) == (self.age, "reward") else float(self.age)
        return self.see(), reward, self.age == LENGTH, False, {}

    def see(self) -> Any:
        vector = np.array([self.seed % 1000, self.age], np.float32)
        age, what, number = self.plan.get(self.seed, (-1, "", 0.0))
        if (age, what) == (self.age, "vector"):
            vector[1] = number
        return vector


class Suited(Counting):
    """Counting with the observations of SPOILED."""

    def see(self) -> Any:
        if self.plan.get(self.seed, (-1, ""))[:2] == (self.age, "picture"):
            raise NotFiniteError("the picture holds a NaN")
        return {"vector": super().see(), "image": np.full((2, 2, 1), 10 * self.age, np.uint8)}


@dataclass(frozen=True)
class MakeSpoiled:
    """Environments for an engine."""

    plan: Spoils = field(default_factory=dict)

    def __call__(self, task: str) -> Suited:
        return Suited(self.plan)


class Often(Counting):
    """One episode in `every` has a number that is not finite at `age`."""

    def __init__(self, age: int = 2, what: str = "vector", number: float = math.nan, every: int = 8) -> None:
        super().__init__({})
        self.fault, self.every = (age, what, number), every

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        # The lowest bit of a seed is its split.
        self.plan = {seed: self.fault} if seed // 2 % self.every == 0 else {}
        return super().reset(seed=seed)


class Endless(Counting):
    """Episodes never end."""

    def __init__(self) -> None:
        super().__init__({})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age = 0
        seen, reward, *_ = super().step(action)
        return seen, reward, False, False, {}


class DmCounting(dm_env.Environment):
    """The same for dm_env."""

    def __init__(self, seed: int, fault: tuple[int, str, float]) -> None:
        self.env = Often(*fault)
        self.seed = seed

    def observation_spec(self) -> Any:
        return specs.Array((2,), np.float32)

    def action_spec(self) -> Any:
        return specs.DiscreteArray(2)

    def reset(self) -> dm_env.TimeStep:
        return dm_env.restart(self.env.reset(seed=self.seed)[0])

    def step(self, action: Any) -> dm_env.TimeStep:
        seen, reward, over, *_ = self.env.step(action)
        return dm_env.termination(reward, seen) if over else dm_env.transition(reward, seen)


def make_dm(age: int = 2, what: str = "vector", number: float = math.nan) -> DmEnvAdapter:
    """DmCounting as a gymnasium environment."""
    return DmEnvAdapter(lambda seed: DmCounting(seed, (age, what, number)))


for _name, (_entry, _options) in {
    "Seldom": (Often, {}),
    "Infinite": (Often, {"what": "reward", "number": math.inf}),
    "First": (Often, {"age": 0}),
    "Always": (Often, {"age": 1, "every": 1}),
    "Never": (Often, {"age": 0, "every": 1}),
    "Endless": (Endless, {}),
    "Dm": (make_dm, {"what": "reward"}),
    "Good": (Counting, {"plan": {}}),
}.items():
    if f"{_name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{_name}-v0", _entry, kwargs=_options)
