"""Any gymnasium environment with the observations and actions of a suite."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.gymnasium_adapter.actions import Space, count_choices
from envs.gymnasium_adapter.api import check_reset, check_step, one_line, raise_if_outdated
from envs.gymnasium_adapter.observation import Observation, Observer, find_parts
from envs.gymnasium_adapter.pictures import UnsupportedSpaceError, to_rgb
from envs.spec import ActionKind, ArraySpec
from system.errors import InputError

_WIDEST = 1e30
"""Range of a continuous action from which on it counts as unbounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """The interface of one environment in a suite.

    Attributes:
        image: Shape of `image`, or None.
        vector: Length of `vector`; 0 = none.
        actions: As `EnvSpec.action_kind`.
        count: Number of discrete actions.
        sizes, low, high: As `EnvSpec.action_sizes`, `action_low`, `action_high`.
        mask, text: Whether it has action masks, and text (envs/gymnasium_adapter/extras.py).
        frame_rate: Steps per second, as its `render_fps` declares; 0 if it declares none.
    """

    image: tuple[int, ...] | None
    vector: int
    actions: ActionKind
    count: int = 0
    sizes: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    mask: bool = False
    text: bool = False
    frame_rate: float = 0.0


def read_interface(env: gymnasium.Env[Any, Any], pictures: str = "auto") -> Interface:
    """The interface that an environment's spaces give.

    All pictures are joined to one `image` along the channels (`pictures` is the layout of `envs.gymnasium_adapter.pictures.find_picture`).
    Everything else is flattened into `vector` (`gymnasium.spaces.flatten`: discrete values one-hot, entries of a Dict by name).

    Raises:
        UnsupportedSpaceError: A space has no counterpart, or is empty.
    """
    found = find_parts(env.observation_space, pictures)
    return Interface(image=found.image, vector=found.length, **_actions(env.action_space))


def _actions(space: Space) -> dict[str, Any]:
    """The fields of Interface about actions."""
    if space.shape and 0 in space.shape:
        raise UnsupportedSpaceError(f"takes no action ({space})")
    if isinstance(space, spaces.Discrete):
        return {"actions": "discrete", "count": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return {"actions": "multi_discrete", "sizes": count_choices(space)}
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        # Bounds at the limits of the dtype count as no bounds.
        if not (space.high.astype(np.float64) - space.low < _WIDEST).all():
            raise UnsupportedSpaceError("takes continuous actions without bounds")
        low, high = (tuple(float(bound) for bound in bounds.ravel()) for bounds in (space.low, space.high))
        return {"actions": "continuous", "low": low, "high": high}
    raise UnsupportedSpaceError(
        f"takes actions of {space}, which is neither Discrete, MultiDiscrete, MultiBinary nor a Box of floats"
    )


class SuiteTask(gymnasium.Wrapper[Observation, Any, Any, Any], RecordConstructorArgs):
    """An environment with the observations and actions of an EnvSpec.

    Args:
        env: Any that `read_interface` accepts. `action_mask` and `instruction` are taken from its `suite_extras`
            (envs/gymnasium_adapter/extras.py).
        task: Its name in messages.
        observation: Of the suite. A shorter `vector` is padded with zeros.
        pictures: See `read_interface`.
        instruction: Whether the suite has instructions.

    Raises:
        InputError: By `reset` and `step`, if a result violates gymnasium's interface or the environment's space.
        NotFiniteError: By `reset` and `step`, if a picture has numbers that are not finite.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        task: str,
        observation: Mapping[str, ArraySpec],
        pictures: str = "auto",
        *,
        instruction: bool = False,
    ) -> None:
        # Lets gymnasium make the environment again from its `spec`.
        RecordConstructorArgs.__init__(
            self, task=task, observation=observation, pictures=pictures, instruction=instruction
        )
        gymnasium.Wrapper.__init__(self, env)
        self._task = task
        length = observation["vector"].shape[0] if "vector" in observation else 0
        self._observer = Observer(task, find_parts(env.observation_space, pictures), length)
        self._act = _act(env.action_space)
        own = read_interface(env, pictures)
        shown: dict[str, Space] = {}
        if own.image is not None:
            shown["image"] = spaces.Box(0, 255, own.image, np.uint8)
        if length:
            shown["vector"] = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        # The dict that the wrapper Extras fills at every step.
        self._extras: Mapping[str, Any] = getattr(env, "suite_extras", {})
        if "action_mask" in observation:
            shown["action_mask"] = spaces.MultiBinary(observation["action_mask"].shape[0])
        self._instruction = instruction
        if instruction:
            shown["instruction"] = spaces.Text(2**16, min_length=0, charset=string.printable)
        self.observation_space = spaces.Dict(shown)
        if own.actions == "continuous":
            low, high = np.array(own.low, np.float32), np.array(own.high, np.float32)
            self.action_space = spaces.Box(low, high, dtype=np.float32)
        elif own.actions == "multi_discrete":
            self.action_space = spaces.MultiDiscrete(np.array(own.sizes), dtype=np.int32)
        else:
            self.action_space = spaces.Discrete(own.count)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        try:
            returned: Any = self.env.reset(seed=seed, options=options)
        except (TypeError, ValueError) as error:
            raise_if_outdated(self._task, self.env.unwrapped, error)
            raise
        seen, info = check_reset(self._task, returned)
        return self._show(seen, "reset"), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        try:
            returned: Any = self.env.step(self._act(action))
        except ValueError as error:
            raise_if_outdated(self._task, self.env.unwrapped, error)
            raise
        seen, reward, terminated, truncated, info = check_step(self._task, returned)
        return self._show(seen, "step"), reward, terminated, truncated, info

    def _show(self, seen: Any, call: str) -> Observation:
        shown = self._observer.show(seen, call)
        if self._instruction:
            shown["instruction"] = ""
        shown.update(self._extras)
        return shown

    def render(self) -> Any:
        """The picture [H, W, 3].

        Raises:
            InputError: The environment draws none, or drawing fails, for example because a package is missing.
        """
        try:
            picture = to_rgb(self.env.render())
        except NotImplementedError:
            picture = None
        except Exception as error:
            raise InputError(
                f"video=true cannot draw {self._task} ({one_line(error)}): install what it asks for, or leave video= out."
            ) from error
        if picture is None:
            raise InputError(
                f"video=true cannot draw {self._task}, which offers no rgb_array: leave video= out, or train it with "
                "env.options={render_mode: rgb_array} if it takes that."
            )
        return picture


def _act(space: Space) -> Callable[[Any], Any]:
    """Converts an action of the suite to one of the environment."""
    if isinstance(space, spaces.Discrete):
        # A NumPy scalar, as `space.sample()` returns.
        start, kind = int(space.start), np.dtype(space.dtype).type
        return lambda action: kind(int(action) + start)
    shape, dtype = space.shape, space.dtype
    assert shape is not None
    if isinstance(space, spaces.Box):
        # Clipped, because float32 may round an action past a bound of higher precision.
        low, high = space.low, space.high
        return lambda action: np.minimum(np.maximum(np.asarray(action, dtype).reshape(shape), low), high)
    first = space.start if isinstance(space, spaces.MultiDiscrete) else np.zeros(shape, dtype)
    return lambda action: np.asarray(action, dtype).reshape(shape) + first
