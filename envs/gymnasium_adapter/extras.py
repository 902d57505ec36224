"""The parts of gymnasium environments beside numbers and pictures: action masks, and whether an episode succeeded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.gymnasium_adapter.actions import Space
from envs.gymnasium_adapter.observation import MASK
from system.errors import InputError

_SUCCESS = ("is_success", "success")


class MaskReader:
    """Reads the action masks of an environment.

    An action mask is the entry `action_mask` of a Dict observation, or else `info["action_mask"]`. It holds one number per action. For
    multi-discrete actions it holds one per choice of each component, concatenated; for Dict and Tuple actions it may also be a Dict or
    Tuple of masks. Without a mask every action is legal. At the end of an episode a mask that forbids everything is ignored.

    Args:
        task: Its name in messages.
        env: The environment.
        sizes: As `Actions.sizes`.
        length: Length of the suite's masks; a task with fewer actions uses the first ones.
    """

    def __init__(self, task: str, env: gymnasium.Env[Any, Any], sizes: tuple[int, ...], length: int) -> None:
        self._task, self._space, self._own, self._length = task, env.action_space, sum(sizes), length
        self._in_observation = has_mask_key(env.observation_space)
        self._firsts = np.cumsum([0, *sizes[:-1]])

    def read(self, seen: Any, info: Mapping[str, Any] | None, *, final: bool = False) -> NDArray[np.bool_]:
        """The mask of one observation, bool [length].

        Raises:
            InputError: It has another length than the actions, or forbids all of them although the observation is not `final`.
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
                f"env.tasks={self._task} shows an action_mask of {flat.size} numbers and takes {self._own} actions, or choices of all its "
                "components together: give one number for each, or set env.action_mask=false."
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
