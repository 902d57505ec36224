"""The actions of an environment as a suite has them: one choice, several choices, or numbers within bounds; and action masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.gymnasium_adapter.pictures import UnsupportedSpaceError
from envs.spec import ActionKind
from system.errors import InputError
from system.nested import Keys, leaves, rebuild
from system.words import count

Space: TypeAlias = "gymnasium.Space[Any]"

MASK = "action_mask"
"""Key of an `info` or of a Dict observation: 1 for legal actions, 0 for the others."""

_MOST_CHOICES, _MOST_IN_ALL = 1024, 4096
"""Maximum number of choices of one component, and of all together. Each choice is an output of the policy head."""

_WIDEST = 1e30
"""Range of a continuous action from which on it counts as unbounded."""


class Actions:
    """The actions of an environment as a suite has them, and the conversion back to the environment's own.

    A Discrete space is one choice, and a Box of floats is continuous. A MultiDiscrete, a MultiBinary, a Box of integers, and a Dict or
    Tuple of choices are several choices, in the order of their parts.

    Raises UnsupportedSpaceError if the space has no counterpart, or is empty.

    Attributes:
        kind, low, high: As `EnvSpec.action_kind`, `action_low` and `action_high`.
        sizes: Number of choices of each component; empty for continuous actions.
        space: The suite's action space.
    """

    def __init__(self, space: Space) -> None:
        self._tree = space
        parts = list(leaves(space))
        self.kind: ActionKind = "discrete" if isinstance(space, spaces.Discrete) else "multi_discrete"
        self.sizes: tuple[int, ...] = ()
        self.low: tuple[float, ...] = ()
        self.high: tuple[float, ...] = ()
        if isinstance(space, spaces.Dict | spaces.Tuple) or _is_box(space, "iub"):
            _check_parts(parts)
        elif space.shape and 0 in space.shape:
            raise UnsupportedSpaceError(f"takes no action ({space})")
        elif isinstance(space, spaces.Box):
            # Bounds at the limits of the dtype count as no bounds.
            if not (space.high.astype(np.float64) - space.low < _WIDEST).all():
                raise UnsupportedSpaceError("takes continuous actions without bounds")
            self.kind = "continuous"
            self.low, self.high = (
                tuple(float(bound) for bound in bounds.ravel()) for bounds in (space.low, space.high)
            )
        elif not _is_choice(space):
            raise UnsupportedSpaceError(
                f"takes actions of {space}, which is neither Discrete, MultiDiscrete, MultiBinary nor a Box of floats"
            )
        if self.kind != "continuous":
            self.sizes = tuple(size for _, part in parts for size in _sizes(part))
        self.space = suite_space(self.kind, self.sizes, self.low, self.high)
        self._convert = [_converter(part) for _, part in parts]
        self._ends = np.cumsum([len(_sizes(part)) for _, part in parts if self.sizes], dtype=np.int64)[:-1]

    def decode(self, action: Any) -> Any:
        """The environment's action for one of the suite: what its space would sample, with the same types and dtypes."""
        if len(self._convert) == 1:
            return rebuild(self._tree, iter([self._convert[0](action)]))
        chosen = np.split(np.asarray(action), self._ends)
        return rebuild(self._tree, (convert(part) for convert, part in zip(self._convert, chosen, strict=True)))


def suite_space(kind: ActionKind, sizes: Sequence[int], low: Sequence[float], high: Sequence[float]) -> Space:
    """The action space of a suite; `Actions` describes the arguments."""
    if kind == "discrete":
        return spaces.Discrete(sizes[0])
    if kind == "multi_discrete":
        return spaces.MultiDiscrete(np.array(sizes), dtype=np.int32)
    return spaces.Box(np.array(low, np.float32), np.array(high, np.float32), dtype=np.float32)


def sample_legal(space: Space, legal: NDArray[np.bool_] | None) -> Any:
    """A random action of a suite's space. `legal`: one entry per choice of each component, concatenated; None if all are legal."""
    if legal is None or isinstance(space, spaces.Box):
        return space.sample()
    mask = legal.astype(np.int8)
    if isinstance(space, spaces.MultiDiscrete):
        return space.sample(tuple(np.split(mask, np.cumsum(space.nvec)[:-1])))
    return space.sample(mask)


def _is_box(space: Space, kinds: str) -> bool:
    return isinstance(space, spaces.Box) and space.dtype.kind in kinds


def _is_choice(space: Space) -> bool:
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary) or _is_box(space, "iub")


def _sizes(space: Space) -> list[int]:
    """The number of choices of each component of a space that is a choice."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(size) for size in space.nvec.ravel()]
    if isinstance(space, spaces.MultiBinary):
        return [2] * int(np.prod(space.shape))
    assert isinstance(space, spaces.Box)
    # Python's integers: the range of an int64 does not fit into an int64.
    bounds = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
    return [int(high) - int(low) + 1 for low, high in bounds]


def _check_parts(parts: list[tuple[Keys, Space]]) -> None:
    """Raises UnsupportedSpaceError unless each of several parts is a choice among a few."""
    total = 0
    for keys, part in parts:
        where = f" in {'.'.join(map(str, keys))}" if keys else ""
        if not _is_choice(part):
            raise UnsupportedSpaceError(
                f"takes actions of several parts with {part}{where}, which is no choice among a few"
            )
        sizes = _sizes(part)
        if max(sizes, default=0) > _MOST_CHOICES:
            raise UnsupportedSpaceError(
                f"takes actions of {part}{where}, where one number has {max(sizes):,} choices and {_MOST_CHOICES:,} are the most"
            )
        total += sum(sizes)
    if not total:
        raise UnsupportedSpaceError("takes actions without any choice")
    if total > _MOST_IN_ALL:
        raise UnsupportedSpaceError(f"takes actions of {total:,} choices in all, and {_MOST_IN_ALL:,} are the most")


def _converter(space: Space) -> Callable[[Any], Any]:
    """Converts the components of one part to an action of its space."""
    dtype, shape = np.dtype(space.dtype), space.shape
    assert shape is not None
    if isinstance(space, spaces.Discrete):
        # A NumPy scalar, as `space.sample()` returns.
        first = int(space.start)
        return lambda action: dtype.type(first + np.asarray(action).item())
    low: Any = 0
    if isinstance(space, spaces.Box):
        low, high = space.low, space.high
        if dtype.kind == "f":
            # Clipped, because float32 may round an action past a bound of higher precision.
            return lambda action: np.minimum(np.maximum(np.asarray(action, dtype).reshape(shape), low), high)
        low = low.astype(np.int64)
    elif isinstance(space, spaces.MultiDiscrete):
        low = space.start
    # Samples of no dimension are scalars.
    return lambda action: np.asarray(low + np.reshape(action, shape)).astype(dtype)[()]


class MaskReader:
    """Reads the action masks of an environment.

    An action mask is the entry `action_mask` of a Dict observation, or else `info["action_mask"]`. It holds one number per action. For
    multi-discrete actions it holds one per choice of each component, concatenated; for Dict and Tuple actions it may also be a Dict or
    Tuple of masks. Without a mask every action is legal. At the end of an episode a mask that forbids everything is ignored.

    `sizes` are those of `Actions`. The suite's masks have the length `length`; a task with fewer actions uses the first ones.
    """

    def __init__(self, task: str, env: gymnasium.Env[Any, Any], sizes: Sequence[int], length: int) -> None:
        self._task, self._space, self._own, self._length = task, env.action_space, sum(sizes), length
        self._in_observation = has_mask_key(env.observation_space)
        self._firsts = np.cumsum([0, *sizes[:-1]])

    def read(self, seen: Any, info: Mapping[str, Any] | None, *, final: bool = False) -> NDArray[np.bool_]:
        """The mask of one observation, bool [length].

        InputError if it has another length than the actions, or forbids all of them although the observation is not `final`.
        """
        legal = np.arange(self._length) < self._own
        mask = seen[MASK] if self._in_observation else (info or {}).get(MASK)
        if mask is None:
            return legal
        try:
            flat = _flat(mask, self._space) != 0
        except (KeyError, TypeError, ValueError):
            flat = np.zeros(0, np.bool_)
        if flat.size != self._own:
            raise InputError(
                f"env.tasks={self._task} shows an action_mask of {count(flat.size, 'number')} and takes "
                f"{count(self._own, 'action')}, or choices of all its components together: "
                "give one number for each, or set env.action_mask=false."
            )
        if np.add.reduceat(flat, self._firsts, dtype=np.int64).all():
            legal[: self._own] = flat
        elif not final:
            raise InputError(
                f"env.tasks={self._task} shows an action_mask that forbids every action although its episode continues: allow one, end the "
                "episode, or set env.action_mask=false."
            )
        return legal


def has_mask_key(space: Space) -> bool:
    """Whether observations are a Dict with an action mask."""
    return isinstance(space, spaces.Dict) and MASK in space.spaces


def _flat(mask: Any, space: Space | None) -> NDArray[Any]:
    """The numbers of a mask, in the order of the components of `space`."""
    if isinstance(mask, dict):
        assert isinstance(space, spaces.Dict)
        return np.concatenate([_flat(mask[key], part) for key, part in space.items()])
    if isinstance(mask, tuple | list):
        parts = list(space) if isinstance(space, spaces.Tuple) else [None] * len(mask)
        return np.concatenate([_flat(one, part) for one, part in zip(mask, parts, strict=True)])
    return np.ravel(np.asarray(mask))
