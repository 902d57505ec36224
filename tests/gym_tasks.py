"""Small gymnasium environments with every kind of actions, registered as a package of a user does: `gym_tasks:Match-v0`."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

CHOICES = (3, 4)


class Match(gymnasium.Env[Any, Any]):
    """Every step shows a new target. The reward is 1 for the action closest to it and 0 for the farthest.

    Args:
        action_space: Discrete(3), MultiDiscrete(CHOICES) or a Box of two numbers, with any offset.
        padding: Number of zeros that are observed beside the target.
        end: Probability that a step ends the episode.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, action_space: Any, padding: int = 0, end: float = 0.1, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = action_space
        self.padding, self.end = padding, end
        self.observation_space = spaces.Box(-1, 1, (len(self._code(action_space.sample())) + padding,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        earned = 1 - float(np.abs(self._code(action) - self._target).mean()) / self._worst
        return self._show(), earned, bool(self.np_random.random() < self.end), False, {}

    def render(self) -> Any:
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[: 8 + int(8 * self._target[0])] = 255
        return picture

    def _show(self) -> Any:
        space, random = self.action_space, self.np_random
        if isinstance(space, spaces.Box):
            best: Any = random.uniform(space.low, space.high).astype(np.float32)
        else:
            best = space.start + random.integers(space.n if isinstance(space, spaces.Discrete) else space.nvec)
        self._target = self._code(best)
        return np.concatenate([self._target, np.zeros(self.padding, np.float32)])

    @property
    def _worst(self) -> float:
        """The largest distance: a wrong choice has two wrong numbers in its one-hot code, and the ends of a Box are 2 apart."""
        if isinstance(self.action_space, spaces.Box):
            return 2
        return 2 * np.size(self.action_space.sample()) / len(self._target)

    def _code(self, action: Any) -> Any:
        space = self.action_space
        if isinstance(space, spaces.Box):
            return (2 * (action - space.low) / (space.high - space.low) - 1).astype(np.float32)
        return spaces.flatten(space, action).astype(np.float32)


class Odd(gymnasium.Env[Any, Any]):
    """Any spaces; observations are sampled from them. It renders nothing."""

    def __init__(self, observation_space: Any, action_space: Any = spaces.Discrete(2)) -> None:  # noqa: B008
        self.observation_space, self.action_space = observation_space, action_space
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


class Negate(gymnasium.RewardWrapper[Any, Any]):
    """A user's wrapper."""

    def reward(self, reward: Any) -> Any:
        return -reward


class Masked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A user's wrapper with a mask that allows everything."""

    def reset(self, **options: Any) -> Any:
        seen, info = self.env.reset(**options)
        return seen, {**info, "action_mask": np.ones(2)}


class Loud(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A user's wrapper that prints."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        print("hello")


class NeedsMore(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that cannot be named, because it takes an argument."""

    def __init__(self, env: Any, *, size: int) -> None:
        super().__init__(env)


class Adapting(gymnasium.wrappers.NormalizeObservation[Any, Any, Any]):
    """A subclass of a refused wrapper."""


class Around(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that first adds another one."""

    def __init__(self, env: Any) -> None:
        super().__init__(gymnasium.wrappers.NormalizeReward(env))


class Holding(Match):
    """An environment that plays another one in its own wrapper."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = gymnasium.wrappers.TimeLimit(Adapting(Match(**options)), 10)


def _adapting_match(**options: Any) -> Any:
    return Adapting(Match(**options))


def _register(name: str, limit: int | None = None, entry: Any = Match, **options: Any) -> None:
    if name not in gymnasium.registry:
        gymnasium.register(name, entry, kwargs=options, max_episode_steps=limit)


class Forbidden(gymnasium.Env[Any, Any]):
    """Every step changes the legal choices. The reward is 1 for a legal action and -1 for any other.

    Args:
        sizes: Number of choices of each component; with one component the action is a Discrete.
        where: `info`, or `observation` for an entry `action_mask` of a Dict; empty for no mask.
        nothing: The step at which nothing is legal.
        end: The step that ends the episode, after which nothing is legal.
    """

    def __init__(self, sizes: Any = (4,), where: str = "info", nothing: int = -1, end: int = 7) -> None:
        self.sizes, self.where, self.nothing, self.end = sizes, where, nothing, end
        self.action_space = spaces.Discrete(sizes[0], start=3) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)
        self.observation_space: Any = spaces.Box(-1, 1, (3,), np.float32)
        if where == "observation":
            mask = spaces.Box(0, 1, (sum(sizes),), np.int8)
            self.observation_space = spaces.Dict({"x": self.observation_space, "action_mask": mask})
        self.legal = np.zeros(sum(sizes), np.int8)
        self.illegal, self.taken = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._show()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        first = np.cumsum([0, *self.sizes[:-1]])
        chosen = np.atleast_1d(action) - (3 if len(self.sizes) == 1 else 0)
        legal = bool(self.legal[first + chosen].all())
        self.taken, self.illegal = self.taken + 1, self.illegal + (not legal)
        self.t += 1
        seen, info = self._show()
        return seen, 1.0 if legal else -1.0, self.t == self.end, False, info

    def _show(self) -> tuple[Any, dict[str, Any]]:
        parts = [(self.np_random.random(size) < 0.4).astype(np.int8) for size in self.sizes]
        for part in parts:
            part[self.np_random.integers(len(part))] = 1
        self.legal = np.concatenate(parts) * (self.t not in (self.nothing, self.end))
        seen: Any = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        if self.where == "observation":
            seen = {"x": seen, "action_mask": self.legal}
        return seen, {"action_mask": self.legal} if self.where == "info" else {}


class Told(Odd):
    """Episodes of three steps with reward 1. Every other episode is reported as a success, starting with the second.

    Args:
        key: Key of the success in `info`.
        final: Whether it is in `final_info`.
        truncate: Whether episodes are truncated.
    """

    def __init__(self, key: str = "is_success", final: bool = False, truncate: bool = False) -> None:
        super().__init__(spaces.Box(-1, 1, (2,)))
        self.key, self.final, self.truncate, self.episode = key, final, truncate, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.t, self.episode = 0, self.episode + 1
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        ended, reported = self.t == 3, {self.key: np.array([self.episode % 2 == 1])} if self.key else {}
        info = {"final_info": reported, "success": True} if self.final and ended else reported
        return super().step(action)[0], 1.0, ended and not self.truncate, ended and self.truncate, info


class Spoken(gymnasium.Env[Any, Any]):
    """A sentence names the one of two actions that is rewarded.

    Args:
        alone: Whether the observation holds only the sentence.
        words: Another sentence, which is irrelevant.
    """

    def __init__(self, alone: bool = False, words: str = "") -> None:
        self.alone, self.words = alone, words
        self.action_space, text = spaces.Discrete(2), spaces.Text(64)
        self.observation_space: Any = spaces.Dict({"x": spaces.Box(-1, 1, (2,)), "text": spaces.Tuple((text,))})
        if alone:
            self.observation_space = text

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.right, self.t = int(self.np_random.integers(2)), 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._show(), float(action == self.right), self.t == 5, False, {}

    def _show(self) -> Any:
        text = self.words or f"Press the {('left', 'right')[self.right]} key."
        return text if self.alone else {"x": np.zeros(2, np.float32), "text": (text,)}


class Level(Odd):
    """The reward of every step is the level's number."""

    def __init__(self, level: int = 0, name: str = "", end: int = 3) -> None:
        super().__init__(spaces.Box(-1, 1, (2,)))
        self.level, self.name, self.end, self.t = level, name, end, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return super().step(action)[0], float(self.level), self.t == self.end, False, {}


_SWITCH = {"b": spaces.Discrete(3, start=5), "a": spaces.MultiBinary(2)}
for _name, _entry, _options in (
    ("Forbidden", Forbidden, {}),
    ("ForbiddenFew", Forbidden, {"sizes": (3,)}),
    ("ForbiddenKey", Forbidden, {"where": "observation"}),
    ("ForbiddenPairs", Forbidden, {"sizes": (3, 2)}),
    ("ForbiddenAll", Forbidden, {"nothing": 3}),
    ("ForbiddenNothing", Forbidden, {"where": ""}),
    ("Told", Told, {}),
    ("Spoken", Spoken, {}),
    ("Level", Level, {}),
):
    _register(f"{_name}-v0", entry=_entry, **_options)
for _name, _action in {
    "Whole": spaces.Box(np.array([[-1, 2]]), np.array([[1, 5]]), dtype=np.int16),
    "WholeNumber": spaces.Box(3, 4, (), np.uint8),
    "Parts": spaces.Dict(
        {"deep": spaces.Tuple((spaces.Dict(_SWITCH), spaces.MultiDiscrete([2, 3]))), "top": spaces.Discrete(2)}
    ),
    "WithFloats": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,)))),
    "TooWhole": spaces.Box(0, 10**6, (2,), np.int64),
    "TooMany": spaces.Box(0, 255, (64, 64), np.uint8),
    "NoParts": spaces.Dict({}),
}.items():
    _register(f"{_name}-v0", entry=Odd, observation_space=spaces.Box(-1, 1, (2,)), action_space=_action)


_BOX = spaces.Box(np.array([-2, 10], np.float32), np.array([2, 11], np.float32))
_UINT8 = {"low": 0, "high": 255, "dtype": np.uint8}
for _suffix, _limit in (("", 8), ("Short", 5), ("Long", 20)):
    _register(f"Pair{_suffix}-v0", _limit, action_space=spaces.MultiDiscrete(np.array(CHOICES), start=np.array([0, 7])))
    _register(f"Point{_suffix}-v0", _limit, action_space=_BOX)
_register("Match-v0", 8, action_space=spaces.Discrete(3))
_register("MatchShifted-v0", 5, action_space=spaces.Discrete(4, start=-2), padding=3)
_register("Holding-v0", entry=Holding, action_space=spaces.Discrete(3))
_register("Adapting-v0", entry=_adapting_match, action_space=spaces.Discrete(3))
if "AdaptingSpec-v0" not in gymnasium.registry:
    gymnasium.register(
        "AdaptingSpec-v0",
        Match,
        kwargs={"action_space": spaces.Discrete(3)},
        additional_wrappers=(gymnasium.wrappers.NormalizeReward.wrapper_spec(),),
    )
_register("MatchFew-v0", 20, action_space=spaces.Discrete(2))
for _name, _observation in {
    "Image": spaces.Box(shape=(24, 30, 3), **_UINT8),  # type: ignore[arg-type]
    "SmallImage": spaces.Box(shape=(24, 24, 3), **_UINT8),  # type: ignore[arg-type]
    "ImageAndMore": spaces.Dict(
        {"b": spaces.Discrete(3), "look": spaces.Box(shape=(24, 30, 3), **_UINT8), "a": spaces.Box(-1, 1, (2, 2))}  # type: ignore[arg-type]
    ),
    "TwoImages": spaces.Dict({key: spaces.Box(shape=(24, 30, 3), **_UINT8) for key in "ab"}),  # type: ignore[arg-type]
    "Choice": spaces.Discrete(5, start=2),
    "Choices": spaces.MultiDiscrete(np.array([2, 3])),
    "Nested": spaces.Tuple(
        (spaces.Dict({"x": spaces.MultiBinary(2)}), spaces.Box(-np.inf, np.inf, (2, 3), np.float64))
    ),
    "Memory": spaces.Box(shape=(6,), **_UINT8),  # type: ignore[arg-type]
    "Text": spaces.Dict({"mission": spaces.Text(8), "x": spaces.Box(-1, 1, (2,))}),
}.items():
    _register(f"{_name}-v0", entry=Odd, observation_space=_observation)
for _name, _action in {
    "Switches": spaces.MultiBinary((2, 2)),
    "Digits": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [0, -3]])),
    "Fine": spaces.Box(np.full((2, 1), 0.1), np.full((2, 1), 0.3), dtype=np.float64),
    "Unbounded": spaces.Box(-np.inf, np.inf, (2,)),
    "HalfBounded": spaces.Box(np.zeros(2, np.float32), np.full(2, np.inf, np.float32)),
    "Huge": spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,)),
    "Integers": spaces.Box(0, 3, (2,), np.int64),
    "Several": spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))),
}.items():
    _register(f"{_name}-v0", entry=Odd, observation_space=spaces.Box(-1, 1, (2,)), action_space=_action)


class Strays(Odd):
    """Observes a value outside its space in its third step."""

    def __init__(self, shown: Any, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.shown, self.t = shown, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        seen, *rest = super().step(action)
        return (self.shown if self.t == 3 else seen, *rest)  # type: ignore[return-value]


class Leaves(Odd):
    """Changes the working directory."""

    def __init__(self) -> None:
        super().__init__(spaces.Dict({"x": spaces.Box(-1, 1, (2,)), "text": spaces.Text(3)}))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        print("gone")
        os.chdir("/")
        return super().reset(seed=seed)


class Breaks(Odd):
    """Raises in its third step."""

    def __init__(self) -> None:
        super().__init__(spaces.Box(-1, 1, (2,)))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if len(self.taken) == 2:
            raise RuntimeError("the wheel came off")
        return super().step(action)


for _name, _shown in {
    "Far": np.full(2, 7, np.float32),
    "Broken": np.array([np.nan, 0], np.float32),
}.items():
    _register(f"Strays{_name}-v0", entry=Strays, shown=_shown, observation_space=spaces.Box(-1, 1, (2,)))
_register(
    "StraysChoice-v0",
    entry=Strays,
    shown={"a": np.int64(3)},
    observation_space=spaces.Dict({"a": spaces.MultiBinary(1)}),
)
_register("Breaks-v0", entry=Breaks)
_register("Leaves-v0", entry=Leaves)
