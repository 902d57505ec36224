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

from envs.errors import InputError
from envs.spec import ActionKind, ArraySpec

Observation: TypeAlias = dict[str, Any]
Space: TypeAlias = "gymnasium.Space[Any]"


_WIDEST = 1e30
"""Range of a continuous action that counts as bounded."""


class UnsupportedSpaceError(ValueError):
    """A space that has no place in a suite. The message goes on from "the task ..."."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """One environment as a suite sees it.

    Attributes:
        image: shape of `image`, or None.
        vector: length of `vector`; 0 = none.
        actions: as `EnvSpec.action_kind`.
        count: number of discrete actions.
        sizes, low, high: as `EnvSpec.action_sizes`, `action_low`, `action_high`.
        mask, text: whether it shows which actions are legal, and text (envs/gymnasium_extras.py).
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


def interface(env: gymnasium.Env[Any, Any]) -> Interface:
    """What becomes of an environment's spaces.

    An image is a uint8 Box [H, W, C]: the observation itself or one entry of a Dict. Everything else is flattened into `vector`
    (`gymnasium.spaces.flatten`: discrete values one-hot, entries of a Dict by name).

    Raises:
        UnsupportedSpaceError: a space that is none of these.
    """
    image, rest = _parts(env.observation_space)
    return Interface(
        image=None if image is None else _shape(env.observation_space, image),
        vector=0 if rest is None else spaces.flatdim(rest),
        **_actions(env.action_space),
    )


def _parts(space: Space) -> tuple[str | None, Space | None]:
    """Which entry of the observation is the image (empty: all of it; None: there is none), and the space of what is flattened."""
    if _is_image(space):
        return "", None
    images = [key for key, part in space.items() if _is_image(part)] if isinstance(space, spaces.Dict) else []
    if len(images) > 1:
        raise UnsupportedSpaceError(f"observes several images ({', '.join(images)})")
    image, rest = None, space
    if images:
        assert isinstance(space, spaces.Dict)
        image, rest = images[0], spaces.Dict({key: part for key, part in space.items() if key != images[0]})
        if not rest.spaces:
            return image, None
    _check_flattens(rest)
    return image, rest


def _is_image(space: Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def _shape(space: Space, image: str) -> tuple[int, ...]:
    box: Any = space[image] if image else space  # type: ignore[index]
    return tuple(int(side) for side in box.shape)


def _check_flattens(space: Space, path: str = "") -> None:
    """Raises UnsupportedSpaceError for what is no number or choice of known size."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
        for key, part in parts:
            _check_flattens(part, f"{path}.{key}" if path else str(key))
    elif not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        where = f" in {path}" if path else ""
        raise UnsupportedSpaceError(f"observes {type(space).__name__}{where}, which is no fixed number of values")


def _actions(space: Space) -> dict[str, Any]:
    """The fields of Interface about actions."""
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
        instruction: whether the suite has instructions.

    `action_mask` and `instruction` are what `env` has in `suite_extras` (envs/gymnasium_extras.py).
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        task: str,
        observation: Mapping[str, ArraySpec],
        *,
        instruction: bool = False,
    ) -> None:
        # So that gymnasium can make another one from `spec`.
        RecordConstructorArgs.__init__(self, task=task, observation=observation, instruction=instruction)
        gymnasium.Wrapper.__init__(self, env)
        self._task = task
        self._image, self._rest = _parts(env.observation_space)
        self._length = observation["vector"].shape[0] if "vector" in observation else 0
        self._act = _act(env.action_space)
        own = interface(env)
        shown: dict[str, Space] = {}
        if own.image is not None:
            shown["image"] = spaces.Box(0, 255, own.image, np.uint8)
        if self._length:
            shown["vector"] = spaces.Box(-np.inf, np.inf, (self._length,), np.float32)
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
        seen, info = self.env.reset(seed=seed, options=options)
        return self._show(seen), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, info = self.env.step(self._act(action))
        return self._show(seen), float(reward), terminated, truncated, info

    def _show(self, seen: Any) -> Observation:
        shown: Observation = {}
        if self._image is not None:
            shown["image"] = np.asarray(seen[self._image] if self._image else seen, np.uint8)
        if self._rest is not None:
            if self._image:
                seen = {key: part for key, part in seen.items() if key != self._image}
            flat: Any = seen if isinstance(self._rest, spaces.Box) else spaces.flatten(self._rest, seen)
            flat = np.ravel(flat)
            shown["vector"] = np.zeros(self._length, np.float32)
            shown["vector"][: len(flat)] = flat
        if self._instruction:
            shown["instruction"] = ""
        shown.update(self._extras)
        return shown

    def render(self) -> Any:
        """The picture.

        Raises:
            InputError: the environment draws none, or what it draws with is not installed.
        """
        try:
            picture: Any = self.env.render()
        except (gymnasium.error.Error, ImportError) as error:
            raise InputError(f"video=true cannot draw {self._task} ({error}): install what it asks for.") from error
        except NotImplementedError:
            picture = None
        if np.ndim(picture) != 3:
            raise InputError(
                f"video=true cannot draw {self._task}, which offers no rgb_array: leave video= out, or train it with "
                "env.options={render_mode: rgb_array} if it takes that."
            )
        return picture


def _act(space: Space) -> Callable[[Any], Any]:
    """From an action of the suite to one of the environment."""
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return lambda action: int(action) + start
    shape, dtype = space.shape, space.dtype
    assert shape is not None
    if isinstance(space, spaces.Box):
        # The bounds may have more digits than the action.
        low, high = space.low, space.high
        return lambda action: np.minimum(np.maximum(np.asarray(action, dtype).reshape(shape), low), high)
    first = space.start if isinstance(space, spaces.MultiDiscrete) else np.zeros(shape, dtype)
    return lambda action: np.asarray(action, dtype).reshape(shape) + first
