"""Any dm_env environment as a gymnasium environment.

Observations. A bare array becomes the space of that array; anything nested becomes a `Dict` with one entry per leaf, named
by its path (`position/x`, `joints/0`). Bounded or not, an array is a `Box` of its own dtype (int8 for bool); a
`DiscreteArray` is `Discrete`; text, one string or an array of them, is one `Text`.

Actions: see `envs.dm_env_adapter.actions.DmEnvActions`.

Ends. The last step terminates the episode if its discount is 0, and truncates it otherwise, because a positive discount says
that what would follow has a value. For the discounts of other steps gymnasium has no place: `info["discount"]` tells them,
nothing else uses them, and the first that is not 1 is warned of.
"""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.dm_env_adapter.actions import DmEnvActions
from envs.dm_env_adapter.trees import Keys, leaf_at, leaves, path
from system.errors import InputError

MakeDmEnv: TypeAlias = Callable[[int], Any]
"""Seed of an episode -> `dm_env.Environment` that plays this episode from its next reset on. It may be the same object every
time, seeded anew; one that another replaces is closed."""

TEXT_LENGTH = 4096
"""Characters of a text observation; what follows them is cut off. What ASCII cannot print becomes `?`."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\t-\r]")


class DmEnvAdapter(gymnasium.Env[Any, Any]):
    """A dm_env environment as a gymnasium environment; see the module for what becomes of specs, steps and discounts.

    Args:
        make: called with the seed of every episode, because dm_env environments take none at their reset; and once
            with 0 for the specs.
        player: prefix of the paths of one player's observations and actions, such as `1.`, which they are then called
            without. Paths that differ from it in its digits only are other players': these are not shown and stay idle.
            What has no such prefix is shown to everybody. Empty: there is one player.
        reward: path of the observation that is the reward, where the environment's own is not this player's. It is not
            shown. Empty: the environment's own.
        draw: environment -> picture uint8 [H, W, 3] of it, for `render`.

    Raises:
        InputError: a spec that has no counterpart, or a `player` or `reward` that does not exist.
    """

    def __init__(
        self,
        make: MakeDmEnv,
        *,
        player: str = "",
        reward: str = "",
        draw: Callable[[Any], NDArray[np.uint8]] | None = None,
    ) -> None:
        self._make, self._draw = make, draw
        self._environment = make(0)
        self._playing = self._has_warned = False
        self.render_mode = "rgb_array" if draw else None
        self.metadata = {"render_modes": ["rgb_array"] if draw else []}
        self._reward_keys = _check_reward(self._environment, reward)
        self._actions = DmEnvActions(self._environment.action_spec(), player)
        self.action_space = self._actions.space
        self._parts = [
            _Part(keys, path(keys).removeprefix(player), _space(path(keys), spec))
            for keys, spec in leaves(self._environment.observation_spec())
            if keys != self._reward_keys and not _is_of_another(path(keys), player)
        ]
        self._is_bare = [part.keys for part in self._parts] == [()]
        self.observation_space = self._parts[0].space if self._is_bare else _dict_space(self._parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts the episode of that seed; without one, that of a seed drawn from `np_random`: the next episode, not the same."""
        super().reset(seed=seed)
        environment = self._make(int(self.np_random.integers(2**31)) if seed is None else seed)
        if environment is not self._environment:
            self._environment.close()
            self._environment = environment
        timestep = environment.reset()
        self._playing = True
        return self._read(timestep.observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # The environment itself would begin an episode here, of no known seed.
        if not self._playing:
            raise RuntimeError("there is no episode to step in: call reset")
        timestep = self._environment.step(self._actions.decode(action))
        if timestep.first():
            raise RuntimeError(f"{type(self._environment).__name__} began an episode before the last one had ended")
        over, discount = timestep.last(), float(timestep.discount)
        if discount != 1 and not over and not self._has_warned:
            self._has_warned = True
            told = (
                f"{type(self._environment).__name__} discounts a step by {discount}, which only info['discount'] tells"
            )
            warnings.warn(told, stacklevel=2)
        self._playing = not over
        earned = timestep.reward if self._reward_keys is None else leaf_at(timestep.observation, self._reward_keys)
        terminated = over and discount == 0
        seen = self._read(timestep.observation)
        return seen, float(earned), terminated, over and not terminated, {"discount": discount}

    def render(self) -> NDArray[np.uint8] | None:
        """Picture [H, W, 3], or None without `draw`."""
        return self._draw(self._environment) if self._draw else None

    def close(self) -> None:
        self._environment.close()

    def _read(self, observation: Any) -> Any:
        if self._is_bare:
            return _value(self._parts[0].space, observation)
        return {part.name: _value(part.space, leaf_at(observation, part.keys)) for part in self._parts}


class _Part(NamedTuple):
    """One leaf of the observation: where it is, what it is called here, and its space."""

    keys: Keys
    name: str
    space: spaces.Space[Any]


def _space(name: str, spec: Any) -> spaces.Space[Any]:
    """The space of one leaf; InputError where there is none."""
    dtype, kind = spec.dtype, spec.dtype.kind
    if kind in "OSU":
        return spaces.Text(max_length=TEXT_LENGTH, min_length=0, charset=string.printable)
    if kind not in "biuf":
        raise InputError(f"The observation {name or 'spec'} is of dtype {dtype}: turn it into numbers or leave it out.")
    if hasattr(spec, "num_values"):
        return spaces.Discrete(spec.num_values)
    if kind == "b":
        return spaces.Box(0, 1, spec.shape, np.int8)
    if hasattr(spec, "minimum"):
        low, high = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
        return spaces.Box(low, high, spec.shape, dtype.type)
    least, most = (0 if kind == "u" else -np.inf), (255 if dtype == np.uint8 else np.inf)
    return spaces.Box(least, most, spec.shape, dtype.type)


def _dict_space(parts: list[_Part]) -> spaces.Dict:
    if not parts:
        raise InputError("The environment shows nothing: an agent needs an observation.")
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two observations are called {name} once their keys are joined by '/': rename one.")
    return spaces.Dict({part.name: part.space for part in parts})


def _value(space: spaces.Space[Any], value: Any) -> Any:
    """A leaf as its space has it; an array is never the environment's own."""
    if isinstance(space, spaces.Text):
        parts = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in np.ravel(value)]
        return _UNPRINTABLE.sub("?", " ".join(parts))[:TEXT_LENGTH]
    if isinstance(space, spaces.Discrete):
        return np.int64(value)
    return np.array(value, space.dtype)


def _check_reward(environment: Any, reward: str) -> Keys | None:
    """Keys of the observation that is the reward; None for the environment's own.

    Raises:
        InputError: it is not one number, or the discount is not.
    """
    name = type(environment).__name__
    if not _is_number(environment.discount_spec()):
        raise InputError(f"{name} has several discounts: wrap it so that one says how an episode ends.")
    if not reward:
        if not _is_number(environment.reward_spec()):
            raise InputError(f"{name} has several rewards: name an observation that is the player's with reward=.")
        return None
    numbers = {path(keys): keys for keys, spec in leaves(environment.observation_spec()) if _is_number(spec)}
    if reward not in numbers:
        raise InputError(f"reward={reward} is no single number that {name} shows: choose one of {', '.join(numbers)}.")
    return numbers[reward]


def _is_number(spec: Any) -> bool:
    return not isinstance(spec, Mapping | list | tuple) and spec.shape == () and spec.dtype.kind in "iuf"


def _is_of_another(name: str, player: str) -> bool:
    """Whether a path begins as `player` does, but with other digits."""
    if not player or name.startswith(player):
        return False
    return re.match(re.sub(r"\d+", r"\\d+", re.escape(player)), name) is not None
