"""The parts of gymnasium environments beside numbers and pictures: action masks, text, and whether an episode succeeded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from envs.gymnasium_adapter.actions import MultiDiscreteActions, Space, component_offsets, count_choices
from system.errors import InputError
from system.nested import leaves

MASK = "action_mask"
"""Key of an `info` or of a Dict observation: 1 for legal actions, 0 for the others."""

_SUCCESS = ("is_success", "success")
_NOTHING = spaces.Box(0, 0, (1,), np.float32)
"""The space of an observation that holds only text."""


class Extras(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment without the text and the action mask of its observations, which are in `suite_extras` instead.

    An action mask is the entry `action_mask` of a Dict observation, or else `info["action_mask"]`. It holds one number per action. For
    multi-discrete actions it holds one per choice of each component, concatenated; for Dict and Tuple actions it may also be a Dict or
    Tuple of masks. Without a mask every action is legal. At the end of an episode a mask that forbids everything is ignored.

    Args:
        env: Takes discrete or multi-discrete actions if `size` is positive.
        task: Its name in messages.
        size: Length of the mask in `suite_extras`; a task with fewer actions uses the first ones. 0: masks are ignored.

    Attributes:
        suite_extras: The extras of the last observation. `action_mask`, bool [size], if `size` is positive. `instruction`, a string, if the
            observation space has text; several texts are joined in order.

    Raises:
        InputError: By `reset` or `step`, if a mask has another length than the actions, or forbids all of them.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task: str, *, size: int = 0) -> None:
        RecordConstructorArgs.__init__(self, task=task, size=size)
        gymnasium.Wrapper.__init__(self, env)
        self.suite_extras: dict[str, Any] = {}
        self._task, self._size = task, size
        self._complete: Space = env.observation_space
        self._has_key = bool(size) and has_mask_key(self._complete)
        self._has_text = has_text(self._complete)
        self._sizes = count_choices(env.action_space) if size else ()
        self._firsts = component_offsets(self._sizes)
        self._parts = env.parts if isinstance(env, MultiDiscreteActions) else env.action_space
        rest: Space | None = self._complete
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
                f"env.tasks={self._task} shows an action_mask that forbids every action although its episode continues: allow one, end the "
                "episode, or set env.action_mask=false."
            )
        return legal


def has_mask_key(space: Space) -> bool:
    """Whether observations are a Dict with an action mask."""
    return isinstance(space, spaces.Dict) and MASK in space.spaces


def has_text(space: Space) -> bool:
    """Whether an observation is text, or holds text."""
    return any(is_text(leaf) for _, leaf in leaves(space))


def is_text(space: Space) -> bool:
    """Whether a space holds texts: `Text`, or a space of another package such as minigrid's MissionSpace."""
    return isinstance(space, spaces.Text) or (space.dtype is not None and np.dtype(space.dtype).kind == "U")


def success_of(info: Mapping[str, Any]) -> float:
    """1 or 0 as the info of an episode's last step reports it; NaN if it reports nothing."""
    final = info.get("final_info")
    if isinstance(final, list | tuple | np.ndarray) and len(final) == 1:
        final = final[0]
    for reported in (final, info) if isinstance(final, dict) else (info,):
        for key in _SUCCESS:
            value = reported.get(key)
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
    """The space without text; None if nothing remains."""
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
    """The observation without text; appends its texts to `texts`."""
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
