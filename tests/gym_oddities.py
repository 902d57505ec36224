"""Environments with unusual behaviour and with faults of real ones: `gym_oddities:RewardArray-v0`."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces


class Plain(gymnasium.Env[Any, Any]):
    """Episodes of five steps, observations of three numbers, two actions; `render` returns `drawn`."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    observation_space: Any = spaces.Box(-1, 1, (3,), np.float32)
    action_space: Any = spaces.Discrete(2)
    drawn: Any = np.full((20, 20, 3), 128, np.uint8)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.taken = render_mode, None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def see(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.t, self.taken = self.t + 1, action
        return self.see(), float(action == 1), self.t == 5, False, {}

    def render(self) -> Any:
        return self.drawn


class Unusual(Plain):
    """Combines all unusual but harmless behaviour."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    action_space = spaces.Discrete(3, start=5)

    def __init__(self, size: int = 5) -> None:
        super().__init__()

    def see(self) -> Any:
        return list(super().see().astype(np.float64))

    def step(self, action: Any) -> Any:
        self.taken = action
        assert type(action) is type(self.action_space.sample()) and action.item() >= 5
        self.t += 1
        return self.see(), np.array([1.5]), np.array([self.t == 5]), np.bool_(False), None

    def close(self) -> None:
        raise RuntimeError("closed already")


class Same(Plain):
    """Returns the same array every time and changes it later."""

    def see(self) -> Any:
        self.array = getattr(self, "array", np.zeros(3, np.float32))
        self.array += 1
        return self.array


class NeverCloses(Plain):
    def close(self) -> None:
        time.sleep(3600)


class Moves(Plain):
    """Changes the working directory."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.folder = tempfile.mkdtemp()
        os.chdir(self.folder)
        return super().reset(seed=seed)


class Stays(Moves):
    """Relies on the working directory."""

    def see(self) -> Any:
        assert os.path.samefile(os.getcwd(), self.folder)
        return super().see()


class Removes(Moves):
    """Changes the working directory and removes the folder."""

    def step(self, action: Any) -> Any:
        returned = super().step(action)
        if returned[2]:
            os.rmdir(self.folder)
        return returned


class Late(Plain):
    """Returns fewer numbers from its third step on."""

    def see(self) -> Any:
        return super().see()[: 2 if self.t > 2 else 3]


class Fails(Plain):
    """Always fails in its third step."""

    def step(self, action: Any) -> Any:
        if self.t == 2:
            raise KeyError("a missing thing")
        return super().step(action)


class FailsAtOnce(Plain):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        raise KeyError("a missing thing")


class OldReset(Plain):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed)[0]


class OldSeed(Plain):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class NoOptions(Plain):
    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return super().reset(seed=seed)


class OldStep(Plain):
    def step(self, action: Any) -> Any:
        seen, reward, ended, _, info = super().step(action)
        return seen, reward, ended, info


class OwnUnpacking(Plain):
    """Raises an own error whose message equals that of a wrapper that unpacks too few values."""

    def step(self, action: Any) -> Any:
        _, _, _, _, _ = (1, 2, 3, 4)  # type: ignore[misc]


class Returns(Plain):
    """Returns `seen` from `at`, reset or step, instead of a value of `space`."""

    def __init__(
        self, space: Any, seen: Any, at: str = "reset", reward: Any = 0.0, render_mode: str | None = None
    ) -> None:
        super().__init__()
        self.observation_space, self.seen, self.at, self.reward = space, seen, at, reward

    def see(self) -> Any:
        return self.seen if self.t or self.at == "reset" else self.observation_space.sample()

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.see(), self.reward, False, False, {}


class Takes(Plain):
    """Takes any actions."""

    def __init__(self, space: Any, render_mode: str | None = None) -> None:
        super().__init__()
        self.action_space = space

    def step(self, action: Any) -> Any:
        self.taken = action
        return self.see(), 0.0, False, False, {}


class Draws(Plain):
    def __init__(self, drawn: Any, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.drawn = drawn


class DrawsBadly(Plain):
    def render(self) -> Any:
        raise OSError("no display")


for _name, _class in list(globals().items()):
    if isinstance(_class, type) and issubclass(_class, Plain) and f"{_name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{_name}-v0", _class, max_episode_steps=50)
