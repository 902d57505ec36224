"""Compares the observations of a gymnasium environment with the space that it declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.gymnasium_adapter.api import as_array
from system.words import count


class SpaceChecker(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that calls `report` with a sentence for each observation outside its observation space."""

    def __init__(self, env: gymnasium.Env[Any, Any], report: Callable[[str], object]) -> None:
        super().__init__(env)
        self._report = report

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        returned = self.env.reset(seed=seed, options=options)
        self._compare("reset", returned)
        return returned

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        returned = self.env.step(action)
        self._compare("step", returned)
        return returned

    def _compare(self, name: str, returned: Any) -> None:
        # SuiteTask reports results that are no tuple.
        if isinstance(returned, tuple) and (found := describe_misfit(self.observation_space, returned[0])):
            self._report(f"{name} returns {found}")


def describe_misfit(space: gymnasium.Space[Any], value: Any, path: str = "") -> str:
    """The first violation of a space by a value, as text; "" if the value lies in the space."""
    where = f" in {path}" if path else ""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or set(value) != set(space.keys()):
            keys = f"the entries {', '.join(map(str, value))}" if isinstance(value, dict) else type(value).__name__
            return f"{keys}{where} where the space has {', '.join(map(str, space.keys()))}"
        parts = [describe_misfit(part, value[key], f"{path}.{key}".lstrip(".")) for key, part in space.items()]
        return next(filter(None, parts), "")
    if isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space):
            found = count(len(value), "part") if isinstance(value, tuple | list) else type(value).__name__
            return f"{found}{where} where the space has {count(len(space), 'part')}"
        parts = [describe_misfit(part, value[n], f"{path}.{n}".lstrip(".")) for n, part in enumerate(space)]
        return next(filter(None, parts), "")
    if isinstance(space, spaces.Box):
        return _outside(space, value, where)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        array = np.asarray(value)
        # Any integer dtype: environments seldom return the dtype of the space.
        fits = (
            array.dtype.kind in "iub" and array.shape == space.shape and space.contains(array.astype(space.dtype)[()])
        )
        return "" if fits else f"{value!r}{where}, which is not in {space}"
    if isinstance(space, spaces.Text):
        # The charset is not checked: by default it lacks the blank, and nothing depends on it.
        if isinstance(value, str):
            longer = len(value) > space.max_length
            return (
                f"{count(len(value), 'letter')}{where} where the space has {space.max_length} at most" if longer else ""
            )
        return f"{type(value).__name__}{where} where the space has a text"
    return "" if space.contains(value) else f"{value!r}{where}, which is not in {space}"


def _outside(space: spaces.Box, value: Any, where: str) -> str:
    array = as_array(value)
    if array.dtype.kind not in "iubf":
        return f"{type(value).__name__}{where} where the space has numbers {list(space.shape)}"
    if array.shape != space.shape:
        return f"the shape {list(array.shape)}{where} where the space has {list(space.shape)}"
    if array.dtype.kind == "f" and space.dtype.kind != "f":
        return f"{array.dtype}{where} where the space has {space.dtype}"
    if broken := int((~np.isfinite(array)).sum()):
        return f"{count(broken, 'number')} that {'is' if broken == 1 else 'are'} not finite{where}"
    # A small excess is rounding.
    slack = 1e-5 * np.maximum(1.0, np.abs(array.astype(np.float64)))
    if ((array < space.low.astype(np.float64) - slack) | (array > space.high.astype(np.float64) + slack)).any():
        return f"numbers from {array.min():g} to {array.max():g}{where} where the space has {space.low.min():g} to {space.high.max():g}"
    return ""
