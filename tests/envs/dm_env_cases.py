"""Shared by the tests of dm_env: a scripted environment that checks its actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

from system.nested import leaves

dm_env = pytest.importorskip("dm_env")
specs = dm_env.specs
FIRST, MID, LAST = dm_env.StepType

Step = tuple[Any, float]
"""Type and discount of a step."""


class Steering(NamedTuple):
    wheel: Any
    gears: Any


OBSERVATIONS = {
    "position": {"x": specs.Array((2,), np.float64), "y": specs.BoundedArray((), np.float32, 0, 1)},
    "joints": [specs.Array((3,), np.float32), (specs.DiscreteArray(4), specs.BoundedArray((2,), np.int32, -3, [3, 4]))],
    "lit": specs.Array((), bool),
    "picture": specs.Array((2, 2, 3), np.uint8),
    "steps": specs.Array((), np.int64),
    "name": specs.StringArray(()),
    "words": specs.StringArray((2,), bytes),
    "object": specs.Array((), object),
}
ACTIONS = Steering(
    wheel={"turn": specs.BoundedArray((), np.int32, -1, 1), "horn": specs.Array((), bool)},
    gears=[specs.DiscreteArray(3), specs.BoundedArray((2,), np.uint8, [2, 5], [3, 9])],
)


class Scripted(dm_env.Environment):
    """An environment with scripted ends. It asserts that actions conform to its spec and structure.

    Attributes:
        unasked: Number of episodes that started in `step`.
        actions: The actions it received.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        script: Sequence[Step] = ((MID, 1.0), (MID, 1.0), (LAST, 0.0)),
        observations: Any = OBSERVATIONS,
        actions: Any = ACTIONS,
    ) -> None:
        self.seed, self.script = seed, script
        self._observations, self._actions = observations, actions
        self.unasked, self.closed, self.actions = 0, 0, []
        self._place = len(script)

    def observation_spec(self) -> Any:
        return self._observations

    def action_spec(self) -> Any:
        return self._actions

    def reset(self) -> Any:
        self._place = 0
        self._random = np.random.default_rng(self.seed)
        return dm_env.restart(self._observe(self._observations))

    def step(self, action: Any) -> Any:
        if self._place >= len(self.script):
            self.unasked += 1
            return self.reset()
        conforms(action, self._actions)
        self.actions.append(action)
        step_type, discount = self.script[self._place]
        self._place += 1
        reward = None if step_type == FIRST else 0.25 * self._place
        return dm_env.TimeStep(step_type, reward, discount, self._observe(self._observations))

    def close(self) -> None:
        self.closed += 1

    def _observe(self, spec: Any) -> Any:
        if isinstance(spec, dict):
            return {key: self._observe(branch) for key, branch in spec.items()}
        if isinstance(spec, list | tuple):
            return type(spec)(self._observe(branch) for branch in spec)
        if spec.dtype == object:
            text = f"Grüß {self.seed}\x01" if getattr(spec, "string_type", bytes) is str else b"go \xff"
            return np.full(spec.shape, text, object)
        low, high = getattr(spec, "minimum", 0), getattr(spec, "maximum", 1)
        value = self._random.integers(low, high, spec.shape, endpoint=True)
        if spec.dtype.kind == "f":
            value = np.clip(value + self._random.random(spec.shape), low, high)
        return np.asarray(value, spec.dtype)


def conforms(value: Any, spec: Any) -> None:
    """The value has the structure, dtypes and bounds of the spec."""
    found, wanted = list(leaves(value)), list(leaves(spec))
    assert [keys for keys, _ in found] == [keys for keys, _ in wanted]
    for (_, leaf), (_, leaf_spec) in zip(found, wanted, strict=True):
        leaf_spec.validate(leaf)
