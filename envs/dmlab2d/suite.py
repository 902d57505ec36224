"""The suite `dmlab2d`: the levels that come with DeepMind Lab2D, played by one player.

`image` is the player's view: the whole map in `chase_eat` and `pushbox`, the cells around and ahead of the player in all others, 5x5 to
11x11 cells. Each cell is `cell_size` pixels wide in every level. Views below 11x11 cells are centred on black, so nothing is resized.
Rewards are the level's, of this player alone.

The player is alone in `clean_up` and `commons_harvest`. `running_with_scissors` needs an opponent and has one of the level's bots, which
acts at random. The picture does not show what the player carries there, so the agent has to remember it.

An episode terminates if the level ends by itself. The time limit, by default the level's, truncates it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.dm_env_adapter.adapter import DmEnvAdapter
from envs.engines.base import Engine
from envs.engines.foreign_code import explain_failed_import
from envs.engines.process_engine import choose_engine
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suite import EnvConfig, Suite, check_installed, check_size, expand_tasks
from system.errors import unknown_name, unknown_task

CELLS = 11
"""Cells in height and width of `image`."""


class Level(NamedTuple):
    """One task.

    Attributes:
        script: The engine's `levelName`.
        frames: Number of frames after which the level itself ends the episode.
        actions: The level's names of the components of its actions; the level has the first ones of COMPONENTS.
        player: Prefix of the player's actions and observations; empty in levels for one player.
        settings: Settings of the engine for this level alone.
        has_goal: Whether the level ends by itself exactly when it is solved, which earns a positive reward.
    """

    script: str
    frames: int
    actions: tuple[str, ...]
    player: str = ""
    settings: Mapping[str, str] = {}
    has_goal: bool = False

    @property
    def picture(self) -> str:
        """Name of the observation that the agent sees."""
        return f"{self.player}RGB" if self.player else WHOLE_MAP


WHOLE_MAP = "WORLD.RGB"
_MAP, _BOT = "simulation.mapName", {"avatars.bots": "1"}
_CLEANER = ("move", "turn", "fireClean", "fireFine")
_HARVESTER, _ZAPPER = ("move", "turn", "zap"), ("move", "turn", "fireZap")

LEVELS: dict[str, Level] = {
    "chase_eat": Level("chase_eat", 3000, ("MOVE",)),
    "pushbox": Level("pushbox", 120, ("MOVE",), has_goal=True),
    "clean_up": Level("clean_up", 3600, _CLEANER, "1."),
    "commons_harvest": Level("commons_harvest", 1000, _HARVESTER, "1."),
    "commons_harvest_probabilistic_apples": Level(
        "commons_harvest", 1000, _HARVESTER, "1.", {_MAP: "probabilistic_apples"}
    ),
    "running_with_scissors": Level("running_with_scissors", 1000, _ZAPPER, "1.", _BOT),
    "running_with_scissors_no_rock": Level("running_with_scissors", 1000, _ZAPPER, "1.", {**_BOT, _MAP: "no_rock"}),
    "running_with_scissors_no_paper": Level("running_with_scissors", 1000, _ZAPPER, "1.", {**_BOT, _MAP: "no_paper"}),
    "running_with_scissors_no_scissors": Level(
        "running_with_scissors", 1000, _ZAPPER, "1.", {**_BOT, _MAP: "no_scissors"}
    ),
}

PRESETS: dict[str, tuple[str, ...]] = {
    # Both give rewards from the first steps on.
    "starter": ("chase_eat", "commons_harvest"),
    # One of each script.
    "levels": ("chase_eat", "pushbox", "clean_up", "commons_harvest", "running_with_scissors"),
    "all": tuple(LEVELS),
}

COMPONENTS = (5, 3, 2, 2)
"""Number of choices of each component of an action: stay or move to one of four sides; turn left, not, or right; the level's first and
second ability. Most levels have only the first or the first three components."""

_NOTHING = (0, 1, 0, 0)
_ONE_AT_A_TIME: list[tuple[int, ...]] = [
    *((move, 1, 0, 0) for move in range(5)),
    *((0, turn, 0, 0) for turn in (0, 2)),
    (0, 1, 1, 0),
    (0, 1, 0, 1),
]
# Every combination; combinations that use fewer components come first.
_PRODUCT: list[tuple[int, ...]] = [
    (move, turn, first, second)
    for second, first, turn, move in itertools.product(range(2), range(2), (1, 0, 2), range(5))
]
ACTION_SETS: dict[str, list[tuple[int, ...]]] = {"single": _ONE_AT_A_TIME, "product": _PRODUCT, "multi_discrete": []}
"""Discrete actions, as one choice per component; empty if the agent chooses each component."""


@dataclass(kw_only=True, slots=True)
class DMLab2DConfig(EnvConfig):
    """Options of the suite `dmlab2d`.

    Attributes:
        actions: `single`: one move, turn or ability per step, or nothing (9 actions); `product`: all combinations (60);
            `multi_discrete`: one choice for each of COMPONENTS. Actions that a level lacks are masked, or have no effect with
            `multi_discrete`.
        cell_size: Width and height of a cell in pixels; `image` is 11 cells wide and high.
        max_episode_frames: Number of frames after which an episode is truncated; 0 = the level's own limit.
        processes: Whether each environment has its own process (envs/engines/process_engine.py).
    """

    name: str = "dmlab2d"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    actions: str = "single"
    cell_size: int = 8
    max_episode_frames: int = 0
    processes: bool = False


def make_spec(config: DMLab2DConfig) -> EnvSpec:
    """Describes the suite, without importing the engine."""
    tasks = expand_tasks(config.tasks, PRESETS)
    for task in tasks:
        if task not in LEVELS:
            raise unknown_task(task, "level", "dmlab2d", LEVELS, PRESETS)
    if config.actions not in ACTION_SETS:
        raise unknown_name("env.actions", config.actions, ACTION_SETS)
    check_size("cell_size", config.cell_size, 1, 256)
    check_size("max_episode_frames", config.max_episode_frames, 0, 2**31 - 1)
    check_installed("dmlab2d", "dmlab2d")
    actions, side = ACTION_SETS[config.actions], CELLS * config.cell_size
    size = len(actions) or sum(COMPONENTS)
    return EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation={"image": ArraySpec(shape=(side, side, 3), dtype="uint8")},
        num_actions=size,
        action_counts=tuple(_action_count(LEVELS[task], actions) or size for task in tasks),
        action_sizes=() if actions else COMPONENTS,
        engine="dmlab2d",
        image_kind="pixels",
        has_success=all(LEVELS[task].has_goal for task in tasks),
        switches_tasks=True,
    )


def _action_count(level: Level, actions: Sequence[tuple[int, ...]]) -> int:
    """Number of actions, counted from the first one, that use only components of the level."""
    known = len(level.actions)
    return sum(action[known:] == _NOTHING[known:] for action in actions)


def make_engine(config: DMLab2DConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> Engine:
    """Loads a level for each slot, which takes a few ms."""
    return choose_engine(functools.partial(make_level, config), spec, slots, split, processes=config.processes)


def make_level(config: DMLab2DConfig, task: str) -> gymnasium.Env[dict[str, Any], Any]:
    """One level with the observations and actions of the suite."""
    with explain_failed_import("dmlab2d"):
        import dmlab2d
        from dmlab2d import runfiles_helper

    level = LEVELS[task]
    limit = config.max_episode_frames or level.frames
    settings = {
        "levelName": level.script,
        "spriteSize": str(config.cell_size),
        # The engine reports its own time limit as a terminal state, so the wrapper below truncates one frame earlier.
        "episodeLengthFrames": str(limit + 1),
        **level.settings,
    }
    engine = dmlab2d.Lab2d(runfiles_helper.find(), settings)
    reward = f"{level.player}REWARD" if level.player else ""
    observed = [level.picture, *([reward] if reward else [])]

    def seeded(seed: int) -> Any:
        return dmlab2d.Environment(_Seeded(engine, seed), observed)

    adapter = DmEnvAdapter(
        seeded, player=level.player, reward=reward, draw=lambda _: np.array(engine.observation(WHOLE_MAP))
    )
    actions, side = ACTION_SETS[config.actions], CELLS * config.cell_size
    known, key = len(level.actions), level.picture.removeprefix(level.player)

    def component_choices(action: Any) -> NDArray[Any]:
        return np.asarray(actions[action] if actions else action)[:known]

    def show(seen: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        height, width, _ = seen[key].shape
        image = np.zeros((side, side, 3), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        image[top : top + height, left : left + width] = seen[key]
        return {"image": image}

    action_space: gymnasium.Space[Any] = gymnasium.spaces.MultiDiscrete(np.array(COMPONENTS))
    if actions:
        action_space = gymnasium.spaces.Discrete(_action_count(level, actions))
    observation_space = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (side, side, 3), np.uint8)})
    env = gymnasium.wrappers.TransformAction(adapter, component_choices, action_space)
    shown = gymnasium.wrappers.TransformObservation(env, show, observation_space)
    return gymnasium.wrappers.TimeLimit(shown, limit)


class _Seeded:
    """The engine with a given seed. `dmlab2d.Environment` draws its own seeds, and training and evaluation could share them."""

    def __init__(self, engine: Any, seed: int) -> None:
        self._engine, self._seed = engine, seed

    def start(self, episode: int, seed: int) -> None:
        self._engine.start(episode, seed=self._seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


DMLAB2D = Suite(DMLab2DConfig, PRESETS, make_spec, make_engine, memory=lambda config: 2)
