"""Any dm_env environment as a gymnasium environment.

Observations. A bare array becomes the space of that array. A nested structure becomes a `Dict` with one entry per leaf, named by its path
(`position/x`, `joints/0`). An array, bounded or not, is a `Box` with its dtype (int8 for bool). A `DiscreteArray` is `Discrete`. Text,
one string or an array of them, is one `Text`.

Actions: see `envs.dm_env_adapter.actions.DmEnvActions`.

Ends. The last step terminates the episode if its discount is 0. Otherwise it truncates it, because a positive discount means that the next
state has a value. gymnasium has no place for the discounts of other steps: `info["discount"]` holds them, nothing else uses them, and
the first one that is not 1 causes a warning.
"""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.dm_env_adapter.actions import DmEnvActions
from system.errors import InputError
from system.nested import Keys, leaf_at, leaves

MakeDmEnv: TypeAlias = Callable[[int], Any]
"""Seed of an episode -> `dm_env.Environment` whose next reset starts this episode. It may return the same object, seeded again; the
adapter closes an object that another one replaces."""

TEXT_LENGTH = 4096
"""Maximum length of a text observation; the rest is cut off. Characters that are not printable ASCII become `?`."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\t-\r]")


class DmEnvAdapter(gymnasium.Env[Any, Any]):
    """A dm_env environment as a gymnasium environment; the module docstring describes specs, steps and discounts.

    Args:
        make: Called with the seed of each episode, because a dm_env reset takes no seed; and once with 0 for the specs.
        player: Prefix of the paths of one player's observations and actions, such as `1.`. It is removed from their names. Paths with
            the same prefix but other digits belong to other players, are not shown and stay idle. Paths without such a prefix are shown
            to every player. Empty: there is one player.
        reward: Path of the observation that is this player's reward, if the environment's reward is not. It is not shown. Empty: the
            environment's reward.
        draw: Environment -> picture uint8 [H, W, 3], for `render`.

    InputError for a spec without counterpart, or a `player` or `reward` that does not exist.
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
        # The keys of each leaf of the observation with its name, which lacks the player's prefix, and its space.
        self._parts = [
            (keys, _name(keys).removeprefix(player), _space(_name(keys), spec))
            for keys, spec in leaves(self._environment.observation_spec())
            if keys != self._reward_keys and not _is_of_another(_name(keys), player)
        ]
        if not self._parts:
            raise InputError("The environment shows nothing: an agent needs an observation.")
        self._is_bare = self._parts[0][0] == ()
        names = [name for _, name, _ in self._parts]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"Two observations are called {name} once their keys are joined by '/': rename one.")
        self.observation_space = (
            self._parts[0][2] if self._is_bare else spaces.Dict({name: space for _, name, space in self._parts})
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts the episode of `seed`; without a seed, one whose seed is drawn from `np_random`."""
        super().reset(seed=seed)
        environment = self._make(int(self.np_random.integers(2**31)) if seed is None else seed)
        if environment is not self._environment:
            self._environment.close()
            self._environment = environment
        timestep = environment.reset()
        self._playing = True
        return self._read(timestep.observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # Without this check the environment would start an episode of an unknown seed.
        if not self._playing:
            raise RuntimeError("no episode is running: call reset")
        timestep = self._environment.step(self._actions.decode(action))
        if timestep.first():
            raise RuntimeError(f"{type(self._environment).__name__} started an episode before the last one had ended")
        last, discount = timestep.last(), float(timestep.discount)
        if discount != 1 and not last and not self._has_warned:
            self._has_warned = True
            name = type(self._environment).__name__
            warnings.warn(f"{name} discounts a step by {discount}, which only info['discount'] reports", stacklevel=2)
        self._playing = not last
        earned = timestep.reward if self._reward_keys is None else leaf_at(timestep.observation, self._reward_keys)
        terminated = last and discount == 0
        seen = self._read(timestep.observation)
        return seen, float(earned), terminated, last and not terminated, {"discount": discount}

    def render(self) -> NDArray[np.uint8] | None:
        return self._draw(self._environment) if self._draw else None

    def close(self) -> None:
        self._environment.close()

    def _read(self, observation: Any) -> Any:
        if self._is_bare:
            return _value(self._parts[0][2], observation)
        return {name: _value(space, leaf_at(observation, keys)) for keys, name, space in self._parts}


def _name(keys: Keys) -> str:
    """The keys as text, `position/x`; "" for a bare leaf."""
    return "/".join(map(str, keys))


def _space(name: str, spec: Any) -> spaces.Space[Any]:
    """The space of one leaf; raises InputError if no space fits."""
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


def _value(space: spaces.Space[Any], value: Any) -> Any:
    """A leaf in the form of its space. Arrays are copied."""
    if isinstance(space, spaces.Text):
        parts = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in np.ravel(value)]
        return _UNPRINTABLE.sub("?", " ".join(parts))[:TEXT_LENGTH]
    if isinstance(space, spaces.Discrete):
        return np.int64(value)
    return np.array(value, space.dtype)


def _check_reward(environment: Any, reward: str) -> Keys | None:
    """Keys of the observation that is the reward; None for the environment's. InputError unless reward and discount are one number each."""
    name = type(environment).__name__
    if not _is_number(environment.discount_spec()):
        raise InputError(f"{name} has several discounts: wrap it so that there is one.")
    if not reward:
        if not _is_number(environment.reward_spec()):
            raise InputError(f"{name} has several rewards: name an observation that is the player's with reward=.")
        return None
    numbers = {_name(keys): keys for keys, spec in leaves(environment.observation_spec()) if _is_number(spec)}
    if reward not in numbers:
        raise InputError(f"reward={reward} is no single number that {name} shows: choose one of {', '.join(numbers)}.")
    return numbers[reward]


def _is_number(spec: Any) -> bool:
    return not isinstance(spec, Mapping | list | tuple) and spec.shape == () and spec.dtype.kind in "iuf"


def _is_of_another(name: str, player: str) -> bool:
    """Whether a path has the prefix `player` but for its digits."""
    if not player or name.startswith(player):
        return False
    return re.match(re.sub(r"\d+", r"\\d+", re.escape(player)), name) is not None
