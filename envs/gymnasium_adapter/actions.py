"""Actions of several parts as one multi-discrete action: integers in a Box, and Dict or Tuple of choices, nested as they like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from envs.gymnasium_adapter.pictures import UnsupportedSpaceError
from envs.gymnasium_adapter.spaces import Space

_MOST_CHOICES, _MOST_IN_ALL = 1024, 4096
"""Of one component, and the sum over all: each choice is an output of the policy head."""


def plain_actions(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """`env` itself, or where its actions have several parts, `env` with a MultiDiscrete in their place.

    Raises:
        UnsupportedSpaceError: a part is no choice.
    """
    return MultiDiscreteActions(env) if _has_parts(env.action_space) else env


def _has_parts(space: Space) -> bool:
    return isinstance(space, spaces.Dict | spaces.Tuple) or _is_integer_box(space)


def _is_integer_box(space: Space) -> bool:
    return isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating)


class MultiDiscreteActions(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Takes int [D], one choice for each component, and passes on what `action_space.sample()` of the environment gives.

    Attributes:
        parts: the environment's own action space. Its components follow each other as its parts do.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self.parts: Space = env.action_space
        sizes = _sizes(self.parts)
        if not sizes:
            raise UnsupportedSpaceError("takes actions without any choice")
        if sum(sizes) > _MOST_IN_ALL:
            raise UnsupportedSpaceError(
                f"takes actions of {sum(sizes):,} choices in all, and {_MOST_IN_ALL:,} are the most"
            )
        self.action_space = spaces.MultiDiscrete(np.array(sizes))
        self._join = _joiner(self.parts)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self.env.step(self._join(np.asarray(action)))


def _sizes(space: Space, path: str = "") -> list[int]:
    """The choices of each component."""
    if isinstance(space, spaces.Dict):
        return [size for key, part in space.items() for size in _sizes(part, f"{path}.{key}".lstrip("."))]
    if isinstance(space, spaces.Tuple):
        return [size for key, part in enumerate(space) for size in _sizes(part, f"{path}.{key}".lstrip("."))]
    if isinstance(space, spaces.Discrete):
        sizes = [int(space.n)]
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = [int(size) for size in space.nvec.ravel()]
    elif isinstance(space, spaces.MultiBinary):
        sizes = [2] * int(np.prod(space.shape))
    elif _is_integer_box(space):
        assert isinstance(space, spaces.Box)
        # Python's integers: the range of an int64 does not fit into one.
        bounds = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
        sizes = [int(high) - int(low) + 1 for low, high in bounds]
    else:
        where = f" in {path}" if path else ""
        raise UnsupportedSpaceError(
            f"takes actions of several parts with {space}{where}, which is no choice among a few"
        )
    if max(sizes, default=0) > _MOST_CHOICES:
        where = f" in {path}" if path else ""
        raise UnsupportedSpaceError(
            f"takes actions of {space}{where}, where one number has {max(sizes):,} choices and {_MOST_CHOICES:,} are the most"
        )
    return sizes


def _joiner(space: Space) -> Callable[[NDArray[Any]], Any]:
    """From the components of a space, int [D'], to an action of that space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = list(space.values()) if isinstance(space, spaces.Dict) else list(space)
        joiners = [_joiner(part) for part in parts]
        ends = np.cumsum([0, *(len(_sizes(part)) for part in parts)]).tolist()

        def split(action: NDArray[Any]) -> list[Any]:
            return [join(action[ends[n] : ends[n + 1]]) for n, join in enumerate(joiners)]

        if isinstance(space, spaces.Dict):
            keys = list(space)
            return lambda action: dict(zip(keys, split(action), strict=True))
        return lambda action: tuple(split(action))
    dtype, shape = np.dtype(space.dtype), space.shape
    assert shape is not None
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return lambda action: dtype.type(first + int(action[0]))
    low: Any = 0
    if isinstance(space, spaces.MultiDiscrete):
        low = space.start
    elif isinstance(space, spaces.Box):
        low = space.low.astype(np.int64)
    # Samples of no dimension are scalars.
    return lambda action: np.asarray(low + action.reshape(shape)).astype(dtype)[()]


def first_components(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Where the choices of each component begin among all of them, [D]."""
    return np.cumsum([0, *sizes[:-1]])
