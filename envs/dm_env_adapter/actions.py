"""The action spec of a dm_env environment as one gymnasium space."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.dm_env_adapter.trees import filled, leaves, path
from system.errors import InputError


class DmEnvActions:
    """The space of one player's actions, and the way from it back to the environment's nested structure.

    Whole numbers with bounds become `Discrete`, or `MultiDiscrete` where there are several, each counted from 0 whatever its
    lower bound is. Real numbers become one `Box` [D] of float32. Components stand in the order of the spec.

    Args:
        spec: nested specs.
        player: prefix of the player's paths; all others stay idle: they do 0, or what their bounds have next to it.
    """

    space: spaces.Space[Any]

    def __init__(self, spec: Any, player: str) -> None:
        self._tree = spec
        self._components = [_component(path(keys), leaf, player) for keys, leaf in leaves(spec)]
        ours = [component for component in self._components if component.idle is None]
        if not ours:
            names = ", ".join(component.path for component in self._components)
            raise InputError(f"player={player} is the prefix of no action: the environment has [{names}].")
        self._is_whole = _is_whole(ours[0])
        for component in ours:
            if _is_whole(component) != self._is_whole:
                raise InputError(
                    f"The actions {ours[0].path} and {component.path} are a whole number and a real one: wrap the environment so "
                    "that all are of one kind."
                )
        dtype = np.int64 if self._is_whole else np.float32
        self._low = np.concatenate([component.minimum.ravel().astype(dtype) for component in ours])
        high = np.concatenate([component.maximum.ravel().astype(dtype) for component in ours])
        if not self._is_whole:
            self.space = spaces.Box(self._low, high, dtype=np.float32)
        elif len(high) == 1:
            self.space = spaces.Discrete(int(high[0] - self._low[0]) + 1)
        else:
            self.space = spaces.MultiDiscrete(high - self._low + 1)

    def decode(self, action: Any) -> Any:
        """An action of `space` -> the environment's own. Real numbers are clipped to their bounds."""
        flat = np.asarray(action).reshape(-1)
        if self._is_whole:
            flat = flat + self._low
        place, values = 0, []
        for _, minimum, maximum, idle in self._components:
            if idle is not None:
                values.append(idle)
                continue
            chosen = flat[place : place + minimum.size].astype(minimum.dtype).reshape(minimum.shape)
            place += minimum.size
            # In their own dtype, because the nearest float32 of a bound may lie outside of it.
            values.append(chosen[()] if self._is_whole else chosen.clip(minimum, maximum)[()])
        return filled(self._tree, iter(values))


class _Component(NamedTuple):
    """One leaf of the action.

    Attributes:
        minimum, maximum: arrays of the leaf's shape and dtype.
        idle: what another player does; None for a leaf that is ours.
    """

    path: str
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    idle: Any


def _is_whole(component: _Component) -> bool:
    return component.minimum.dtype.kind in "biu"


def _component(name: str, spec: Any, player: str) -> _Component:
    """InputError unless numbers with bounds, or real numbers without."""
    kind = spec.dtype.kind
    if kind not in "biuf":
        raise InputError(f"The action {name or 'spec'} is of dtype {spec.dtype}: an agent can only choose numbers.")
    low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
    if kind == "b":
        low, high = False, True
    elif kind != "f" and not hasattr(spec, "minimum"):
        raise InputError(
            f"The action {name or 'spec'} is a whole number without bounds: make it a BoundedArray or a DiscreteArray."
        )
    minimum, maximum = (np.broadcast_to(np.asarray(bound, spec.dtype), spec.shape) for bound in (low, high))
    if name.startswith(player):
        return _Component(name, minimum, maximum, None)
    idle = np.minimum(np.maximum(np.zeros_like(minimum), minimum), maximum)[()]
    return _Component(name, minimum, maximum, idle)
