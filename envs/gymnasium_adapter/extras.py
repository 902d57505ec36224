"""What gymnasium environments show beside numbers and pictures: which actions are legal, text, and whether an episode succeeded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from envs.gymnasium_adapter.actions import MultiDiscreteActions, first_components
from envs.gymnasium_adapter.pictures import UnsupportedSpaceError
from envs.gymnasium_adapter.spaces import Space
from system.errors import InputError

MASK = "action_mask"
"""Key of an `info` or of a Dict observation: 1 for an action that is legal, 0 for one that is not."""

_SUCCESS = ("is_success", "success")
_NOTHING = spaces.Box(0, 0, (1,), np.float32)
"""Observed where text is all that there is to see."""


class Extras(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment whose observations are without text and action mask, which lie in `suite_extras`.

    An action mask is `info["action_mask"]`, or the entry `action_mask` of a Dict observation, which has precedence. It holds one number
    for each action, and for multi-discrete actions one for each choice of each component, one component after the other; for Dict and Tuple
    actions it may be a Dict or Tuple of masks, too. Where there is none, every action is legal. Where nothing is legal at the end of an
    episode, no action is taken, so that the mask does not matter.

    Args:
        env: takes discrete or multi-discrete actions, if `size` is given.
        task: its name in messages.
        size: length of the mask in `suite_extras`; a task with fewer actions has the first ones. 0: masks are not looked for.

    Attributes:
        suite_extras: of the last observation: `action_mask`, bool [size], where there is a size, and `instruction`, a string, where the
            observation space has text; several texts are joined in their order.

    Raises:
        InputError: at a reset or step, a mask that has another length than the actions, or that forbids all of them.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task: str, *, size: int = 0) -> None:
        RecordConstructorArgs.__init__(self, task=task, size=size)
        gymnasium.Wrapper.__init__(self, env)
        self.suite_extras: dict[str, Any] = {}
        self._task, self._size = task, size
        self._whole: Space = env.observation_space
        self._has_key = bool(size) and has_mask_key(self._whole)
        self._has_text = has_text(self._whole)
        self._sizes = choices(env.action_space) if size else ()
        self._firsts = first_components(self._sizes)
        self._parts = env.parts if isinstance(env, MultiDiscreteActions) else env.action_space
        rest: Space | None = self._whole
        if self._has_key:
            assert isinstance(rest, spaces.Dict)
            rest = spaces.Dict({key: part for key, part in rest.items() if key != MASK})
        self._unmasked = rest
        if self._has_text and rest is not None:
            rest = _without_text(rest)
        self._empty = rest is None
        self.observation_space = _NOTHING if rest is None else rest

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        seen, info = self.env.reset(seed=seed, options=options)
        return self._take(seen, info, final=False), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = self.env.step(action)
        return self._take(seen, info, final=bool(terminated or truncated)), reward, terminated, truncated, info

    def _take(self, seen: Any, info: Mapping[str, Any] | None, *, final: bool) -> Any:
        if self._size:
            mask = seen[MASK] if self._has_key else (info or {}).get(MASK)
            self.suite_extras[MASK] = self._legal(mask, final=final)
            if self._has_key:
                seen = {key: part for key, part in seen.items() if key != MASK}
        if self._has_text:
            assert self._unmasked is not None
            texts: list[str] = []
            seen = _take_text(self._unmasked, seen, texts)
            self.suite_extras["instruction"] = " ".join(texts)
        return np.zeros(1, np.float32) if self._empty else seen

    def _legal(self, mask: Any, *, final: bool) -> NDArray[np.bool_]:
        own, legal = sum(self._sizes), np.zeros(self._size, np.bool_)
        legal[:own] = True
        if mask is None:
            return legal
        try:
            flat = _flat(mask, self._parts) != 0
        except (KeyError, TypeError, ValueError):
            flat = np.zeros(0, np.bool_)
        if flat.size != own:
            raise InputError(
                f"env.tasks={self._task} shows an action_mask of {flat.size} numbers and takes {own} actions, or choices of all its "
                "components together: give one number for each, or set env.action_mask=false."
            )
        if np.add.reduceat(flat, self._firsts, dtype=np.int64).all():
            legal[:own] = flat
        elif not final:
            raise InputError(
                f"env.tasks={self._task} shows an action_mask that forbids every action where its episode goes on: allow one, end the "
                "episode, or set env.action_mask=false."
            )
        return legal


def choices(space: Space) -> tuple[int, ...]:
    """Of a discrete action, or of each component of a multi-discrete one.

    Raises:
        UnsupportedSpaceError: the action is continuous.
    """
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(size) for size in space.nvec.ravel())
    if isinstance(space, spaces.MultiBinary):
        return (2,) * int(np.prod(space.shape))
    raise UnsupportedSpaceError("shows an action_mask for continuous actions, which env.action_mask=false leaves out")


def has_mask_key(space: Space) -> bool:
    """Whether observations are a Dict with an action mask."""
    return isinstance(space, spaces.Dict) and MASK in space.spaces


def has_text(space: Space) -> bool:
    """Whether an observation is text, or has some."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return any(has_text(part) for part in (space.values() if isinstance(space, spaces.Dict) else space))
    # Also spaces of other packages, as minigrid's MissionSpace.
    return isinstance(space, spaces.Text) or (space.dtype is not None and np.dtype(space.dtype).kind == "U")


def success_of(info: Mapping[str, Any]) -> float:
    """1 or 0, as the info of an episode's last step tells of the episode; NaN where it does not."""
    final = info.get("final_info")
    if isinstance(final, list | tuple | np.ndarray) and len(final) == 1:
        final = final[0]
    for told in (final, info) if isinstance(final, dict) else (info,):
        for key in _SUCCESS:
            value = told.get(key)
            if value is not None and np.size(value) == 1:
                number = float(np.ravel(value)[0])
                return math.nan if math.isnan(number) else float(number >= 0.5)
    return math.nan


def _flat(mask: Any, space: Space | None) -> NDArray[Any]:
    """The numbers of a mask, in the order of the components of `space`."""
    if isinstance(mask, dict):
        assert isinstance(space, spaces.Dict)
        return np.concatenate([_flat(mask[key], part) for key, part in space.items()])
    if isinstance(mask, tuple | list):
        parts = list(space) if isinstance(space, spaces.Tuple) else [None] * len(mask)
        return np.concatenate([_flat(one, part) for one, part in zip(mask, parts, strict=True)])
    return np.ravel(np.asarray(mask))


def _without_text(space: Space) -> Space | None:
    """What is left of a space; None where nothing is."""
    if not has_text(space):
        return space
    if isinstance(space, spaces.Dict):
        entries = {key: rest for key, part in space.items() if (rest := _without_text(part)) is not None}
        return spaces.Dict(entries) if entries else None
    if isinstance(space, spaces.Tuple):
        kept = [rest for part in space if (rest := _without_text(part)) is not None]
        return spaces.Tuple(kept) if kept else None
    return None


def _take_text(space: Space, seen: Any, texts: list[str]) -> Any:
    """What is left of an observation; appends its texts to `texts`."""
    if not has_text(space):
        return seen
    if isinstance(space, spaces.Dict):
        entries = {key: _take_text(part, seen[key], texts) for key, part in space.items()}
        return {key: rest for key, rest in entries.items() if rest is not None}
    if isinstance(space, spaces.Tuple):
        kept = [_take_text(part, one, texts) for part, one in zip(space, seen, strict=True)]
        return tuple(rest for rest in kept if rest is not None)
    texts.append(seen.decode(errors="replace") if isinstance(seen, bytes) else str(seen))
    return None
