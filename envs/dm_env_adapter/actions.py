"""Converts the action spec of a dm_env environment to one gymnasium space, and actions of that space back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from system.errors import InputError
from system.nested import leaves, rebuild


class DmEnvActions:
    """The space of one player's actions, and the conversion back to the environment's nested structure.

    Integers with bounds become `Discrete`, or `MultiDiscrete` if there are several, each counted from 0. Real numbers become one `Box` [D]
    of float32. Components are in the order of the spec.

    Args:
        spec: Nested specs.
        player: Prefix of the player's paths. All other components stay idle: they are 0, or the bound closest to 0.
    """

    space: spaces.Space[Any]

    def __init__(self, spec: Any, player: str) -> None:
        self._tree = spec
        self._components = [_component("/".join(map(str, keys)), leaf, player) for keys, leaf in leaves(spec)]
        ours = [component for component in self._components if component.idle is None]
        if not ours:
            names = ", ".join(component.path for component in self._components)
            raise InputError(f"player={player} is the prefix of no action: the environment has [{names}].")
        self._is_integer = _is_integer(ours[0])
        for component in ours:
            if _is_integer(component) != self._is_integer:
                raise InputError(
                    f"The actions {ours[0].path} and {component.path} are an integer and a real number: wrap the environment so "
                    "that all are of one kind."
                )
        dtype = np.int64 if self._is_integer else np.float32
        self._low = np.concatenate([component.minimum.ravel().astype(dtype) for component in ours])
        high = np.concatenate([component.maximum.ravel().astype(dtype) for component in ours])
        if not self._is_integer:
            self.space = spaces.Box(self._low, high, dtype=np.float32)
        elif len(high) == 1:
            self.space = spaces.Discrete(int(high[0] - self._low[0]) + 1)
        else:
            self.space = spaces.MultiDiscrete(high - self._low + 1)

    def decode(self, action: Any) -> Any:
        """Converts an action of `space` to the environment's structure. Clips real numbers to their bounds."""
        flat = np.asarray(action).reshape(-1)
        if self._is_integer:
            flat = flat + self._low
        place, values = 0, []
        for _, minimum, maximum, idle in self._components:
            if idle is not None:
                values.append(idle)
                continue
            chosen = flat[place : place + minimum.size].astype(minimum.dtype).reshape(minimum.shape)
            place += minimum.size
            # Clipped in their own dtype, because a bound rounded to float32 may be out of range.
            values.append(chosen[()] if self._is_integer else chosen.clip(minimum, maximum)[()])
        return rebuild(self._tree, iter(values))


class _Component(NamedTuple):
    """One leaf of the action; its bounds have its shape and dtype. `idle`: the value of a leaf of another player, None for one of ours."""

    path: str
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    idle: Any


def _is_integer(component: _Component) -> bool:
    return component.minimum.dtype.kind in "biu"


def _component(name: str, spec: Any, player: str) -> _Component:
    """The component of a spec; raises InputError unless it is of real numbers, or of integers with bounds."""
    kind = spec.dtype.kind
    if kind not in "biuf":
        raise InputError(f"The action {name or 'spec'} is of dtype {spec.dtype}: an agent can only choose numbers.")
    low, high = getattr(spec, "minimum", -np.inf), getattr(spec, "maximum", np.inf)
    if kind == "b":
        low, high = False, True
    elif kind != "f" and not hasattr(spec, "minimum"):
        raise InputError(
            f"The action {name or 'spec'} is an integer without bounds: make it a BoundedArray or a DiscreteArray."
        )
    minimum, maximum = (np.broadcast_to(np.asarray(bound, spec.dtype), spec.shape) for bound in (low, high))
    if name.startswith(player):
        return _Component(name, minimum, maximum, None)
    idle = np.minimum(np.maximum(np.zeros_like(minimum), minimum), maximum)[()]
    return _Component(name, minimum, maximum, idle)
