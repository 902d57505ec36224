"""Any dm_env environment as a gymnasium environment.

Observations. A bare array becomes the space of that array; anything nested becomes a `Dict` with one entry per leaf, named
by its path (`position/x`, `joints/0`). Bounded or not, an array is a `Box` of its own dtype (int8 for bool); a
`DiscreteArray` is `Discrete`; text, one string or an array of them, is `Text`, its words in order.

Actions. Whole numbers with bounds become `Discrete`, or `MultiDiscrete` if there are several, each counted from 0 whatever
its lower bound is. Real numbers become one `Box` [D] of float32, and are clipped to the bounds of their own dtype. Components
stand in the order of the spec. The environment gets its own nested structure back.

Ends. The last step terminates the episode if its discount is 0 and truncates it otherwise, because a positive discount says
that the value of what would follow counts. gymnasium has no discount at other steps: `info["discount"]` tells it, nothing
else uses it, and the first that is not 1 is warned of.
"""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.errors import InputError

MakeDmEnv: TypeAlias = Callable[[int], Any]
"""Seed of an episode -> `dm_env.Environment` that plays this episode at its next reset. It may be the same object every
time, seeded anew; one that is replaced by another is closed."""

TEXT_LENGTH = 4096
"""Characters of a text observation; what follows them is cut off. Characters that ASCII cannot print become `?`."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\t-\r]")


class DmEnvAdapter(gymnasium.Env[Any, Any]):
    """A dm_env environment as a gymnasium environment; see the module for what becomes of specs, steps and discounts.

    Args:
        make: called with the seed of every episode, because dm_env environments take none at their reset; and once
            with 0 for the specs.
        player: prefix of the paths of one player's observations and actions, such as `1.`. Its names lose the prefix. Those
            of other players, which differ from it in their digits only, are not shown, and these players stay idle:
            they do 0, or what their bounds have next to it. Names without any such prefix are shown to all. Empty: everything
            belongs to the one player.
        reward: path of the observation that is the reward, for environments that reward all players together. It is not
            shown. Empty: the reward of the time step.
        draw: environment -> picture uint8 [H, W, 3] of it, for `render`.

    Raises:
        InputError: a spec that has no counterpart here, or a `player` or `reward` that does not exist.
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
        self._playing = False
        self._knows_discounts = False
        self.render_mode = "rgb_array" if draw else None
        self.metadata = {"render_modes": ["rgb_array"] if draw else []}
        self._reward_keys = _check_reward(self._environment, reward)
        self._actions = _Actions(self._environment.action_spec(), player)
        self.action_space = self._actions.space
        self._parts = [
            _Part(keys, _path(keys).removeprefix(player), _observation_space(_path(keys), spec))
            for keys, spec in _leaves(self._environment.observation_spec())
            if keys != self._reward_keys and not _is_of_another(_path(keys), player)
        ]
        self._is_bare = [part.keys for part in self._parts] == [()]
        self.observation_space = self._parts[0].space if self._is_bare else _dict_space(self._parts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts the episode of that seed; without one, that of a seed drawn from `np_random`, so no episode comes twice."""
        super().reset(seed=seed)
        environment = self._make(int(self.np_random.integers(2**31)) if seed is None else seed)
        if environment is not self._environment:
            self._environment.close()
            self._environment = environment
        timestep = environment.reset()
        self._playing = True
        return self._read(timestep.observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        # The environment itself would begin an episode here, unseeded and unnoticed.
        if not self._playing:
            raise RuntimeError("there is no episode to step: call reset")
        timestep = self._environment.step(self._actions.decode(action))
        if timestep.first():
            raise RuntimeError(f"{type(self._environment).__name__} began an episode before the one before had ended")
        over, discount = timestep.last(), float(timestep.discount)
        if not over and discount != 1 and not self._knows_discounts:
            self._knows_discounts = True
            message = (
                f"{type(self._environment).__name__} discounts a step by {discount}, which only info['discount'] tells."
            )
            warnings.warn(message, stacklevel=2)
        self._playing = not over
        reward = timestep.reward
        if self._reward_keys is not None:
            reward = _at(timestep.observation, self._reward_keys)
        terminated = over and discount == 0
        return (
            self._read(timestep.observation),
            float(reward),
            terminated,
            over and not terminated,
            {"discount": discount},
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Picture [H, W, 3], or None without `draw`."""
        return self._draw(self._environment) if self._draw else None

    def close(self) -> None:
        self._environment.close()

    def _read(self, observation: Any) -> Any:
        seen = {part.name: _value(part.space, _at(observation, part.keys)) for part in self._parts}
        return seen[self._parts[0].name] if self._is_bare else seen


class _Part(NamedTuple):
    """One leaf of the observation: where it is, what it is called, and its space."""

    keys: tuple[Any, ...]
    name: str
    space: spaces.Space[Any]


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


class _Actions:
    """The space of the actions, and the way back from it to the nested structure of a dm_env action spec."""

    def __init__(self, spec: Any, player: str) -> None:
        self._tree = spec
        self._components = [_component(_path(keys), leaf, player) for keys, leaf in _leaves(spec)]
        ours = [component for component in self._components if component.idle is None]
        if not ours:
            paths = ", ".join(component.path for component in self._components)
            raise InputError(f"player={player} has no action in this environment: its actions are [{paths}].")
        self._is_whole = ours[0].minimum.dtype.kind in "biu"
        for component in ours:
            if (component.minimum.dtype.kind in "biu") != self._is_whole:
                raise InputError(
                    f"The actions {ours[0].path} and {component.path} are whole numbers and real ones in one environment: wrap it "
                    "so that all are of one kind."
                )
        dtype = np.int64 if self._is_whole else np.float32
        low = np.concatenate([component.minimum.ravel().astype(dtype) for component in ours])
        high = np.concatenate([component.maximum.ravel().astype(dtype) for component in ours])
        self.space: spaces.Space[Any]
        if not self._is_whole:
            self.space = spaces.Box(low, high, dtype=np.float32)
        elif len(low) == 1:
            self.space = spaces.Discrete(int(high[0] - low[0]) + 1)
        else:
            self.space = spaces.MultiDiscrete(high - low + 1)

    def decode(self, action: Any) -> Any:
        """An action of `space` -> the environment's own."""
        flat, place, values = np.asarray(action).reshape(-1), 0, []
        for _, minimum, maximum, idle in self._components:
            if idle is not None:
                values.append(idle)
                continue
            chosen = flat[place : place + minimum.size].reshape(minimum.shape)
            place += minimum.size
            if self._is_whole:
                value = (chosen + minimum).astype(minimum.dtype)
            else:  # clipped in their own dtype: the nearest float32 of a bound may lie outside of it
                value = chosen.astype(minimum.dtype).clip(minimum, maximum)
            values.append(value[()])
        return _filled(self._tree, iter(values))


def _component(path: str, spec: Any, player: str) -> _Component:
    """InputError unless numbers with bounds, or real numbers without."""
    kind = spec.dtype.kind
    if kind not in "biuf":
        raise InputError(
            f"The action {path or 'of this environment'} is of dtype {spec.dtype}: only numbers can be chosen."
        )
    low, high = getattr(spec, "minimum", None), getattr(spec, "maximum", None)
    if kind == "b":
        low, high = False, True
    elif low is None or high is None:
        if kind != "f":
            raise InputError(
                f"The action {path or 'of this environment'} is a whole number without bounds: give it a BoundedArray or DiscreteArray."
            )
        low, high = -np.inf, np.inf
    minimum = np.broadcast_to(np.asarray(low, spec.dtype), spec.shape)
    maximum = np.broadcast_to(np.asarray(high, spec.dtype), spec.shape)
    ours = not player or path.startswith(player)
    return _Component(path, minimum, maximum, None if ours else np.zeros_like(minimum).clip(minimum, maximum)[()])


def _check_reward(environment: Any, reward: str) -> tuple[Any, ...] | None:
    """Keys of the observation that is the reward, or None for the time step's. InputError unless it is one number, and the
    discount too.
    """
    name = type(environment).__name__
    if [keys for keys, _ in _leaves(environment.discount_spec())] != [()] or environment.discount_spec().shape:
        raise InputError(f"{name} has several discounts: wrap it so that one says how an episode ends.")
    numbers = {
        _path(keys): keys
        for keys, spec in _leaves(environment.observation_spec())
        if spec.shape == () and spec.dtype.kind in "iuf"
    }
    if reward:
        if reward not in numbers:
            raise InputError(
                f"reward={reward} is no single number that {name} observes: choose one of [{', '.join(numbers)}]."
            )
        return numbers[reward]
    if [keys for keys, _ in _leaves(environment.reward_spec())] != [()] or environment.reward_spec().shape:
        raise InputError(f"{name} has several rewards: name the observation that is the player's with reward=.")
    return None


def _observation_space(path: str, spec: Any) -> spaces.Space[Any]:
    dtype, kind = spec.dtype, spec.dtype.kind
    if kind in "OSU":
        return spaces.Text(max_length=TEXT_LENGTH, min_length=0, charset=string.printable)
    if kind not in "biuf":
        raise InputError(
            f"The observation {path or 'of this environment'} is of dtype {dtype}: leave it out or make it numbers."
        )
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
        raise InputError("The environment observes nothing: a reward alone cannot be learned from.")
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two observations are called {name} once paths are joined by '/': rename one.")
    return spaces.Dict({part.name: part.space for part in parts})


def _value(space: spaces.Space[Any], value: Any) -> Any:
    """A leaf as its space has it; the array is never the environment's own."""
    if isinstance(space, spaces.Text):
        text = " ".join(
            part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in np.ravel(value)
        )
        return _UNPRINTABLE.sub("?", text)[:TEXT_LENGTH]
    if isinstance(space, spaces.Discrete):
        return np.int64(value)
    return np.array(value, space.dtype)


def _leaves(tree: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(keys that lead to it, leaf) of nested dicts, lists and tuples, in order; no keys for a bare leaf."""
    if isinstance(tree, Mapping):
        branches: Any = tree.items()
    elif isinstance(tree, list | tuple):
        branches = enumerate(tree)
    else:
        yield keys, tree
        return
    for key, branch in branches:
        yield from _leaves(branch, (*keys, key))


def _filled(tree: Any, values: Iterator[Any]) -> Any:
    """The structure of `tree` with the next of `values` for every leaf."""
    if isinstance(tree, Mapping):
        return {key: _filled(branch, values) for key, branch in tree.items()}
    if isinstance(tree, list | tuple):
        filled = [_filled(branch, values) for branch in tree]
        return type(tree)(*filled) if hasattr(tree, "_fields") else type(tree)(filled)
    return next(values)


def _at(tree: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def _path(keys: tuple[Any, ...]) -> str:
    return "/".join(map(str, keys))


def _is_of_another(path: str, player: str) -> bool:
    """Whether a path begins as `player` does, with other digits."""
    if not player or path.startswith(player):
        return False
    return re.match(re.sub(r"\d+", r"\\d+", re.escape(player)), path) is not None
