"""Any gymnasium environment with the observations and actions of a suite: what its spaces become, and the wrapper that makes it so."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.gymnasium_adapter.api import checked_reset, checked_step, one_line, raise_if_outdated
from envs.gymnasium_adapter.observation import Observation, Observer, parts
from envs.gymnasium_adapter.pictures import UnsupportedSpaceError, to_rgb
from envs.spec import ActionKind, ArraySpec
from system.errors import InputError

Space: TypeAlias = "gymnasium.Space[Any]"


_WIDEST = 1e30
"""Range of a continuous action that counts as bounded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """One environment as a suite sees it.

    Attributes:
        image: shape of `image`, or None.
        vector: length of `vector`; 0 = none.
        actions: as `EnvSpec.action_kind`.
        count: number of discrete actions.
        sizes, low, high: as `EnvSpec.action_sizes`, `action_low`, `action_high`.
        mask, text: whether it shows which actions are legal, and text (envs/gymnasium_adapter/extras.py).
        frame_rate: steps in a second, as it declares them (`render_fps`); 0 where it does not.
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


def interface(env: gymnasium.Env[Any, Any], pictures: str = "auto") -> Interface:
    """What becomes of an environment's spaces.

    Pictures (`envs.gymnasium_adapter.pictures.picture`, which `pictures` is for), wherever they lie, are joined to one `image`, channel
    behind
    channel. Everything else is flattened into `vector` (`gymnasium.spaces.flatten`: discrete values one-hot, entries of a Dict by name).

    Raises:
        UnsupportedSpaceError: a space that is none of these, or empty.
    """
    found = parts(env.observation_space, pictures)
    return Interface(image=found.image, vector=found.length, **_actions(env.action_space))


def _actions(space: Space) -> dict[str, Any]:
    """The fields of Interface about actions."""
    if space.shape and 0 in space.shape:
        raise UnsupportedSpaceError(f"takes no action ({space})")
    if isinstance(space, spaces.Discrete):
        return {"actions": "discrete", "count": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        nvec = space.nvec if isinstance(space, spaces.MultiDiscrete) else np.full(space.shape, 2)
        return {"actions": "multi_discrete", "sizes": tuple(int(size) for size in nvec.ravel())}
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        # Bounds at the ends of what a float can hold are none either.
        if not (space.high.astype(np.float64) - space.low < _WIDEST).all():
            raise UnsupportedSpaceError("takes continuous actions without bounds")
        low, high = (tuple(float(bound) for bound in bounds.ravel()) for bounds in (space.low, space.high))
        return {"actions": "continuous", "low": low, "high": high}
    raise UnsupportedSpaceError(
        f"takes actions of {space}, which is neither Discrete, MultiDiscrete, MultiBinary nor a Box of floats"
    )


class SuiteTask(gymnasium.Wrapper[Observation, Any, Any, Any], RecordConstructorArgs):
    """An environment whose observations and actions are those that an EnvSpec describes.

    Args:
        env: any that `interface` accepts.
        task: its name in messages.
        observation: of the suite. A shorter `vector` is filled up with zeros.
        pictures: see `interface`.
        instruction: whether the suite has instructions.

    `reset` and `step` raise InputError where what comes back is not what gymnasium's interface or the environment's space says, and
    NotFiniteError where a picture is of numbers that are not finite.

    `action_mask` and `instruction` are what `env` has in `suite_extras` (envs/gymnasium_adapter/extras.py).
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
        # So that gymnasium can make another one from `spec`.
        RecordConstructorArgs.__init__(
            self, task=task, observation=observation, pictures=pictures, instruction=instruction
        )
        gymnasium.Wrapper.__init__(self, env)
        self._task = task
        length = observation["vector"].shape[0] if "vector" in observation else 0
        self._observer = Observer(task, parts(env.observation_space, pictures), length)
        self._act = _act(env.action_space)
        own = interface(env, pictures)
        shown: dict[str, Space] = {}
        if own.image is not None:
            shown["image"] = spaces.Box(0, 255, own.image, np.uint8)
        if length:
            shown["vector"] = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        # What another wrapper has taken out of the observation; the very dict that it fills.
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
        seen, info = checked_reset(self._task, returned)
        return self._show(seen, "reset"), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        try:
            returned: Any = self.env.step(self._act(action))
        except ValueError as error:
            raise_if_outdated(self._task, self.env.unwrapped, error)
            raise
        seen, reward, terminated, truncated, info = checked_step(self._task, returned)
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
            InputError: the environment draws none, or fails to, as when what it draws with is not installed.
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
    """From an action of the suite to one of the environment."""
    if isinstance(space, spaces.Discrete):
        # A scalar of NumPy, as `space.sample()` gives it.
        start, kind = int(space.start), np.dtype(space.dtype).type
        return lambda action: kind(int(action) + start)
    shape, dtype = space.shape, space.dtype
    assert shape is not None
    if isinstance(space, spaces.Box):
        # The bounds may have more digits than the action.
        low, high = space.low, space.high
        return lambda action: np.minimum(np.maximum(np.asarray(action, dtype).reshape(shape), low), high)
    first = space.start if isinstance(space, spaces.MultiDiscrete) else np.zeros(shape, dtype)
    return lambda action: np.asarray(action, dtype).reshape(shape) + first
