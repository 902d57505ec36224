"""Actions of several parts as one multi-discrete action: integers in a Box, and nested Dict or Tuple of choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from envs.gymnasium_adapter.pictures import UnsupportedSpaceError
from system.nested import leaves, rebuild

Space: TypeAlias = "gymnasium.Space[Any]"

_MOST_CHOICES, _MOST_IN_ALL = 1024, 4096
"""Maximum number of choices of one component, and of all together. Each choice is an output of the policy head."""


def plain_actions(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """`env`, in MultiDiscreteActions if its actions have several parts.

    Raises:
        UnsupportedSpaceError: A part is no choice.
    """
    has_parts = isinstance(env.action_space, spaces.Dict | spaces.Tuple) or _is_integer_box(env.action_space)
    return MultiDiscreteActions(env) if has_parts else env


def _is_integer_box(space: Space) -> bool:
    return isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating)


class MultiDiscreteActions(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Takes int [D], one choice per component, and converts it to an action of the environment.

    Attributes:
        parts: The environment's action space; components are in the order of its parts.
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


def _sizes(space: Space) -> list[int]:
    """The number of choices of each component; raises UnsupportedSpaceError for a part that is no choice among a few."""
    sizes: list[int] = []
    for keys, leaf in leaves(space):
        where = f" in {'.'.join(map(str, keys))}" if keys else ""
        if not _is_integer_box(leaf) and not isinstance(
            leaf, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
        ):
            raise UnsupportedSpaceError(
                f"takes actions of several parts with {leaf}{where}, which is no choice among a few"
            )
        own = _leaf_sizes(leaf)
        if max(own, default=0) > _MOST_CHOICES:
            raise UnsupportedSpaceError(
                f"takes actions of {leaf}{where}, where one number has {max(own):,} choices and {_MOST_CHOICES:,} are the most"
            )
        sizes += own
    return sizes


def _leaf_sizes(space: Space) -> list[int]:
    if not isinstance(space, spaces.Box):
        return list(count_choices(space))
    # Python's integers: the range of an int64 does not fit into an int64.
    bounds = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
    return [int(high) - int(low) + 1 for low, high in bounds]


def _joiner(space: Space) -> Callable[[NDArray[Any]], Any]:
    """Converts the components of a space, int [D], to an action of that space."""
    parts = [leaf for _, leaf in leaves(space)]
    convert = [_leaf_joiner(part) for part in parts]
    ends = np.cumsum([len(_leaf_sizes(part)) for part in parts])[:-1]

    def join(action: NDArray[Any]) -> Any:
        chosen = np.split(action, ends)
        return rebuild(space, (one(part) for one, part in zip(convert, chosen, strict=True)))

    return join


def _leaf_joiner(space: Space) -> Callable[[NDArray[Any]], Any]:
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


def count_choices(space: Space) -> tuple[int, ...]:
    """Number of choices of a discrete action, or of each component of a multi-discrete one.

    Raises:
        UnsupportedSpaceError: The action is continuous.
    """
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(size) for size in space.nvec.ravel())
    if isinstance(space, spaces.MultiBinary):
        return (2,) * int(np.prod(space.shape))
    raise UnsupportedSpaceError("shows an action_mask for continuous actions, which env.action_mask=false leaves out")


def component_offsets(sizes: Sequence[int]) -> NDArray[np.int64]:
    """The index at which the choices of each component begin among all choices, [D]."""
    return np.cumsum([0, *sizes[:-1]])
