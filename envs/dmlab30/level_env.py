"""One DeepMind Lab level as a gymnasium environment.

The engine is a C module with many traps (docs/dmlab.md lists them). This adapter hides them behind gymnasium's interface.
"""

from __future__ import annotations

import os
import string
import weakref
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.dmlab30.actions import COMPONENTS
from envs.dmlab30.config import STAND_IN, DMLab30Config
from envs.dmlab30.engine_import import import_deepmind_lab
from envs.dmlab30.levels import known_level, level_path
from envs.dmlab30.map_cache import LevelCache
from envs.spec import Split
from system.errors import InputError

IMAGE, INSTRUCTION, FRAMES_LEFT = "RGB_INTERLEAVED", "INSTR", "FRAMES_REMAINING_AT_60"
RENDERERS = ("software", "hardware")
SEEDS = 1 << 31
"""Number of seeds. The engine silently truncates a seed to a C int, so that 2**32 + 7 would be 7."""
LONGEST_INSTRUCTION = 1024
FRAMES_PER_SECOND = 60
EVALUATION_SETTINGS = {"allowHoldOutLevels": "true", "mixerSeed": str(0x600D5EED)}
"""Settings of the engine for evaluation, as in scalable_agent: random draws, and random maps, that no training seed produces."""

_open: weakref.WeakKeyDictionary[DMLabEnv, str] = weakref.WeakKeyDictionary()
"""Open instances of this process -> renderer."""
_first_process: list[int] = []
"""The process id at the creation of the first instance. A forked child inherits the list and has another id."""

_STAND_STILL = np.zeros(len(COMPONENTS), np.intc)

Observation = dict[str, Any]


class DMLabEnv(gymnasium.Env[Observation, Any]):
    """One DeepMind Lab level.

    With `fresh_engine` an episode is a pure function of the seed of its `reset` and of the actions, otherwise only on most levels
    (docs/dmlab.md).

    Observations: `image` uint8 [height, width, 3], and `instruction`, the text of this step ('' in levels without instructions). The engine
    has no observation after the end of an episode, so the last step repeats the observation before it. `info` of `reset` has the episode's
    `seed`, and with a cache `level_cache_hits` and `level_cache_misses` since the start.

    A reset without a seed draws one from `np_random`. A reset is possible within an episode.

    `actions` are vectors intc [A, 7] (envs.dmlab30.actions), `task` a name, or the path of a level in the engine. InputError if engine or
    level cannot be loaded, or for a second instance with the hardware renderer. RuntimeError in a process that was forked after an
    instance had been made: the engine would hang.
    """

    def __init__(self, config: DMLab30Config, actions: NDArray[np.intc], split: Split, task: str) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FRAMES_PER_SECOND / config.action_repeat}
        self.render_mode = "rgb_array"
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (config.height, config.width, 3), np.uint8),
                "instruction": spaces.Text(LONGEST_INSTRUCTION, min_length=0, charset=string.printable),
            }
        )
        self.action_space = spaces.Discrete(len(actions))
        self._level = level_path(task, evaluation=split == Split.EVALUATION)
        self._repeat, self._renderer = config.action_repeat, config.renderer
        # The engine reads the raw memory.
        self._actions = np.ascontiguousarray(actions, np.intc)
        self._truncate_at_time_limit, self._fresh_engine = config.truncate_at_time_limit, config.fresh_engine
        self._cache: LevelCache | None = None
        if config.level_cache:
            self._cache = LevelCache(config.level_cache, int(config.level_cache_gigabytes * 1e9))
        self._has_played = False
        self._has_time_limit = False
        self._frames_left = 0.0
        self._seen: Observation = {}
        _check_process(self._renderer)
        # Without logLevel, levels print to stdout.
        self._config = {"width": str(config.width), "height": str(config.height), "logLevel": "WARN"}
        if split == Split.EVALUATION:
            self._config |= EVALUATION_SETTINGS
        level, path = known_level(task), config.dataset_path
        # A level may refuse an unknown setting, so only levels that may need the pictures get it.
        if path and (level is None or level.needs_dataset):
            self._config["datasetPath"] = path if path == STAND_IN else str(Path(path).expanduser().absolute())
        self._lab, self._shown = self._load_available()
        _check_actions(self._lab, self._level)
        _first_process[:] = [os.getpid()]
        _open[self] = self._renderer

    def _load(self, observations: list[str]) -> Any:
        return import_deepmind_lab().Lab(
            self._level, observations, config=self._config, renderer=self._renderer, level_cache=self._cache
        )

    def _load_available(self) -> tuple[Any, list[str]]:
        """An instance, and the names of the observations that the level offers, out of three."""

        def offers(name: str) -> bool:
            try:
                self._load([IMAGE, name]).close()
            except ValueError:
                return False
            return True

        names = [IMAGE, INSTRUCTION, FRAMES_LEFT]
        try:
            try:
                return self._load(names), names
            except ValueError:  # some levels, such as the engine's tests, have only pictures
                # Tried one by one, because the engine prints to stdout when it lists its observations.
                names = [IMAGE, *(name for name in (INSTRUCTION, FRAMES_LEFT) if offers(name))]
                return self._load(names), names
        except RuntimeError as error:
            raise InputError(_explain(self._level, self._renderer, str(error))) from error

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an episode. InputError if the level cannot start its first one, RuntimeError if the engine fails at a later one."""
        if seed is not None and not 0 <= seed < SEEDS:
            raise ValueError(f"seed {seed} is out of range: DeepMind Lab has seeds from 0 to {SEEDS - 1}")
        super().reset(seed=seed)
        # The engine accepts only Python integers. Without a seed it would use the time of its import.
        number = int(self.np_random.integers(SEEDS)) if seed is None else int(seed)
        try:
            self._begin(number)
        except RuntimeError as error:
            if self._has_played:
                raise
            raise InputError(_explain(self._level, "", str(error))) from error
        self._has_played = True
        self._look()
        self._has_time_limit = self._frames_left > 0
        info: dict[str, Any] = {"seed": number}
        if self._cache is not None:
            info |= {"level_cache_hits": self._cache.hits, "level_cache_misses": self._cache.misses}
        return dict(self._seen), info

    def _begin(self, seed: int) -> None:
        """Starts an episode in the engine, whose episode number is always 0.

        The engine plays its first episode slightly differently from later ones of the same seed, so the first reset is made twice.
        """
        if self._fresh_engine:
            # One reset suffices, because every episode is the first one of its instance.
            if self._has_played:
                # Closed first: the hardware renderer allows one instance.
                self._lab.close()
                self._lab = self._load(self._shown)
        elif not self._has_played:
            self._lab.reset(episode=0, seed=seed)
        elif self._lab.is_running():
            # A reset directly after reading a running episode's observation would return that picture again instead of the new episode's
            # first one. An unobserved step in between prevents this.
            self._lab.step(_STAND_STILL, num_steps=1)
        self._lab.reset(episode=0, seed=seed)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        reward = self._lab.step(self._actions[action], num_steps=self._repeat)
        if self._lab.is_running():
            self._look()
            return dict(self._seen), reward, False, False, {}
        # Half a frame of tolerance for the rounding of the level's clock.
        in_time = self._has_time_limit and self._frames_left <= self._repeat + 0.5
        truncated = self._truncate_at_time_limit and in_time
        return dict(self._seen), reward, not truncated, truncated, {}

    def _look(self) -> None:
        """Reads the observation. The engine returns new arrays, so nothing is copied."""
        seen = self._lab.observations()
        self._seen = {"image": seen[IMAGE], "instruction": seen.get(INSTRUCTION, "")[:LONGEST_INSTRUCTION]}
        self._frames_left = float(seen[FRAMES_LEFT][0]) if FRAMES_LEFT in seen else 0.0

    def render(self) -> NDArray[np.uint8]:
        return self._seen["image"]  # type: ignore[no-any-return]

    def close(self) -> None:
        _open.pop(self, None)
        if hasattr(self, "_lab"):
            self._lab.close()


def _check_process(renderer: str) -> None:
    """Raises unless another instance may be made in this process."""
    if _first_process and _first_process[0] != os.getpid():
        raise RuntimeError(
            "DeepMind Lab hangs in a process that was forked after an instance had been made: start processes with spawn"
        )
    if _open and "hardware" in (renderer, *_open.values()):
        raise InputError(
            "env.renderer=hardware allows one DeepMind Lab in a process, and this process has one already: use "
            "env.renderer=software, or one slot per process."
        )


def _check_actions(lab: Any, level: str) -> None:
    """Raises InputError unless the level has exactly the actions of DMLab-30; a level may define others."""
    offered = {part["name"]: (part["min"], part["max"]) for part in lab.action_spec()}
    if offered != COMPONENTS:
        lab.close()
        raise InputError(
            f"env.tasks={level} has the actions {offered}, which no action set here fits: leave it out of env.tasks."
        )


def _explain(level: str, renderer: str, message: str) -> str:
    """The meaning of a RuntimeError of the engine, in one sentence."""
    plain = " ".join(message.split())
    if "connect" in plain:
        needed = "a graphics driver" if renderer == "hardware" else "OSMesa (apt install libosmesa6)"
        return f"env.renderer={renderer}: DeepMind Lab could not load its library ({plain}), which needs {needed}."
    if "dataset" in plain or ".png" in plain:
        return (
            f"env.tasks={level} needs the pictures of Brady, Konkle and Oliva (2008): set env.dataset_path ({plain})."
        )
    return f"env.tasks={level} cannot be played by the installed DeepMind Lab: {plain}."
