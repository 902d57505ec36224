"""Any gymnasium environment with the observations and actions of a suite."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from envs.gymnasium_adapter.actions import MASK, Actions, MaskReader, Space
from envs.gymnasium_adapter.api import check_reset, check_step, one_line, raise_if_outdated
from envs.gymnasium_adapter.observation import Observation, Observer, find_parts
from envs.gymnasium_adapter.pictures import to_rgb
from envs.spec import ArraySpec
from system.errors import InputError


class SuiteTask(gymnasium.Wrapper[Observation, Any, Any, Any], RecordConstructorArgs):
    """An environment with the observations and actions of an EnvSpec. `find_parts` and `Actions` must accept its spaces.

    `reset` and `step` raise InputError if a result violates gymnasium's interface or the environment's space, or a mask its actions, and
    NotFiniteError if a picture has numbers that are not finite.

    Args:
        observation: Of the suite. A shorter `vector` is padded with zeros.
        pictures: Layout of pictures; see `envs.gymnasium_adapter.pictures.find_picture`.
        instruction: Whether the suite has instructions: the texts of the observation.
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
        self._parts = find_parts(env.observation_space, pictures, masked=MASK in observation)
        self._actions = Actions(env.action_space)
        self.action_space = self._actions.space
        length = observation["vector"].shape[0] if "vector" in observation else 0
        self._observer = Observer(task, self._parts, length)
        shown: dict[str, Space] = {}
        if self._parts.image is not None:
            shown["image"] = spaces.Box(0, 255, self._parts.image, np.uint8)
        if length:
            shown["vector"] = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        self._masks: MaskReader | None = None
        if MASK in observation:
            size = observation[MASK].shape[0]
            shown[MASK] = spaces.MultiBinary(size)
            self._masks = MaskReader(task, env, self._actions.sizes, size)
        self._instruction = instruction
        if instruction:
            shown["instruction"] = spaces.Text(2**16, min_length=0, charset=string.printable)
        self.observation_space = spaces.Dict(shown)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        try:
            returned: Any = self.env.reset(seed=seed, options=options)
        except (TypeError, ValueError) as error:
            raise_if_outdated(self._task, self.env.unwrapped, error)
            raise
        seen, info = check_reset(self._task, returned)
        return self._show(seen, info, "reset", final=False), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        try:
            returned: Any = self.env.step(self._actions.decode(action))
        except ValueError as error:
            raise_if_outdated(self._task, self.env.unwrapped, error)
            raise
        seen, reward, terminated, truncated, info = check_step(self._task, returned)
        shown = self._show(seen, info, "step", final=terminated or truncated)
        return shown, reward, terminated, truncated, info

    def _show(self, seen: Any, info: dict[str, Any], call: str, *, final: bool) -> Observation:
        shown = self._observer.show(seen, call)
        if self._instruction:
            shown["instruction"] = self._parts.text(seen)
        if self._masks:
            shown[MASK] = self._masks.read(seen, info, final=final)
        return shown

    def render(self) -> Any:
        """The picture [H, W, 3]. InputError if there is none, or drawing fails, for example because a package is missing."""
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
