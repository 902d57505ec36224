"""The suite `vizdoom`: the classic scenarios of ViZDoom, seen in first person.

The engine plays `action_repeat` frames per agent step, sums their rewards and draws only the last one, without the status bar.
Rewards are the scenario's own, including living rewards and penalties for dying. A scenario is truncated at its own time limit; any
other end is a termination. Some tasks have no goal, so `success` is unknown.

Scenarios differ in their buttons. Unless `full_action_space` is set, an action is an index into the task's own list of actions
(`envs.vizdoom.scenarios.actions_of`), and the policy is masked to the length of that list.
"""

from __future__ import annotations

import functools
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.engines.base import Engine
from envs.engines.foreign_code import explain_failed_import
from envs.engines.process_engine import choose_engine
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suite import EnvConfig, Suite, check_installed, check_size, expand_tasks
from envs.vizdoom import launcher
from envs.vizdoom.memory import remove_abandoned
from envs.vizdoom.scenarios import ACTIONS, BUTTONS, PRESETS, SCENARIOS, actions_of
from system.descendants import temporary_folder
from system.errors import InputError, unknown_task

VARIABLES = ("HEALTH", "SELECTED_WEAPON_AMMO")
"""Game variables in `vector`, divided by 100."""


@dataclass(kw_only=True, slots=True)
class VizdoomConfig(EnvConfig):
    """Options of the suite `vizdoom`.

    Attributes:
        action_repeat: Frames played per action.
        image_size: Height and width of `image`. The default has the proportions of the engine's 120 x 160 pixels and the size of IMPALA's
            pictures of DeepMind Lab.
        full_action_space: Every task has all of ACTIONS with the same meaning; buttons that a scenario lacks do nothing.
        variables: Whether `vector` holds health and ammunition, which the picture does not show.
        processes: Whether each environment has its own process (envs/engines/process_engine.py).
    """

    name: str = "vizdoom"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    action_repeat: int = 4
    image_size: list[int] = field(default_factory=lambda: [72, 96])
    full_action_space: bool = False
    variables: bool = False
    processes: bool = False


def make_spec(config: VizdoomConfig) -> EnvSpec:
    """Describes the suite, without importing the engine."""
    tasks = expand_tasks(config.tasks, PRESETS)
    for task in tasks:
        if task not in SCENARIOS:
            raise unknown_task(task, "scenario", "vizdoom", SCENARIOS, PRESETS)
    check_size("action_repeat", config.action_repeat, 1, 1000)
    if len(config.image_size) != 2 or not all(1 <= side <= 4096 for side in config.image_size):
        raise InputError(f"env.image_size={config.image_size} is no size: give height and width, as in [72,96].")
    check_installed("vizdoom", "vizdoom", "cv2")
    height, width = config.image_size
    observation = {"image": ArraySpec(shape=(height, width, 3), dtype="uint8")}
    if config.variables:
        observation["vector"] = ArraySpec(shape=(len(VARIABLES),), dtype="float32")
    return EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation=observation,
        # The same for any list of tasks, so that an agent of several tasks can be evaluated on one of them.
        num_actions=len(ACTIONS),
        action_counts=tuple(len(ACTIONS) if config.full_action_space else len(actions_of(task)) for task in tasks),
        action_repeat=config.action_repeat,
        engine="vizdoom",
        frame_rates=dict.fromkeys(tasks, 35),
        image_kind="pixels",
        slow=True,
        has_success=False,
        switches_tasks=True,
    )


def make_engine(config: VizdoomConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> Engine:
    """Starts a game for each slot, which takes about 0.5 s."""
    remove_abandoned()
    return choose_engine(functools.partial(VizdoomEnv, config), spec, slots, split, processes=config.processes)


class VizdoomEnv(gymnasium.Env[dict[str, NDArray[Any]], int]):
    """One scenario as a gymnasium environment. An episode is a pure function of its seed and of the actions.

    Observations are a dict of `image` uint8 [H, W, 3] and, with `variables`, `vector` float32 [2]. The last one of an episode repeats
    the one before, because the engine draws nothing after the end.

    The game runs in its own process until `close`. Every method raises RuntimeError with the task's name if the game fails.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(self, config: VizdoomConfig, task: str) -> None:
        with explain_failed_import("vizdoom"):
            import cv2
            import vizdoom  # noqa: F401  (_start uses it, where failures are the game's)

        height, width = config.image_size
        self._resize = functools.partial(cv2.resize, dsize=(width, height), interpolation=cv2.INTER_AREA)
        self.render_mode = "rgb_array"
        self._task, self._action_repeat, self._variables = task, config.action_repeat, config.variables
        actions = ACTIONS if config.full_action_space else actions_of(task)
        buttons = [button for button in BUTTONS if button in SCENARIOS[task]]
        self._pressed = [[button in action for button in buttons] for action in actions]
        self.action_space: gymnasium.spaces.Discrete[Any] = gymnasium.spaces.Discrete(len(actions))
        spaces: dict[str, gymnasium.Space[Any]] = {"image": gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)}
        if self._variables:
            spaces["vector"] = gymnasium.spaces.Box(-np.inf, np.inf, (len(VARIABLES),), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]
        self._folder = tempfile.TemporaryDirectory(prefix="vizdoom-", dir=temporary_folder())
        with self._name_failures():
            self._game = _start(task, buttons, Path(self._folder.name))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Starts the episode of `seed`, which is below 2**32. Without a seed, the next one follows from the last one."""
        super().reset(seed=seed)
        with self._name_failures():
            self._game.set_seed(int(self.np_random.integers(2**31)) if seed is None else seed)
            self._game.new_episode()
            self._look()
        return self._seen, {}

    def step(self, action: int) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Holds the action's buttons for `action_repeat` frames, or until the end; returns the sum of their rewards."""
        with self._name_failures():
            reward = self._game.make_action(self._pressed[action], self._action_repeat)
            over = self._game.is_episode_finished()
            truncated = over and self._game.is_episode_timeout_reached() and not self._game.is_player_dead()
            if not over:
                self._look()
        return self._seen, reward, over and not truncated, truncated, {}

    def render(self) -> NDArray[np.uint8]:
        """The engine's picture before it is resized, [120, 160, 3]."""
        return self._screen

    def close(self) -> None:
        self._game.close()
        self._folder.cleanup()

    def _look(self) -> None:
        state = self._game.get_state()
        self._screen: NDArray[np.uint8] = state.screen_buffer
        self._seen = {"image": self._resize(self._screen)}
        if self._variables:
            self._seen["vector"] = state.game_variables.astype(np.float32) / 100

    @contextmanager
    def _name_failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            kind = type(error).__name__
            raise RuntimeError(f"the game of env.tasks={self._task} (vizdoom) failed: {kind}: {error}") from error


def _start(task: str, buttons: list[str], folder: Path) -> Any:
    """A running `vizdoom.DoomGame` whose engine works in `folder`."""
    import vizdoom

    package = Path(vizdoom.__file__).parent
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{task}.cfg"))
    # Set explicitly: otherwise a doom2.wad of the user would change the pictures.
    game.set_doom_game_path(str(package / "freedoom2.wad"))
    game.set_vizdoom_path(_launcher(folder, package / "vizdoom"))
    # The swing of the weapon while walking continues from one episode to the next, which would prevent exact replay.
    game.add_game_args("+movebob 0")
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_available_buttons([getattr(vizdoom.Button, button) for button in buttons])
    game.set_available_game_variables([getattr(vizdoom.GameVariable, variable) for variable in VARIABLES])
    game.init()
    return game


def _launcher(folder: Path, engine: Path) -> str:
    """Path of a script that starts the engine through envs/vizdoom/launcher.py. DoomGame takes a path without arguments."""
    arguments = [str(os.getpid()), str(folder), str(engine)]
    command = shlex.join([sys.executable, "-I", "-S", launcher.__file__, *arguments])
    program = folder / "launch"
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    return str(program)


VIZDOOM = Suite(VizdoomConfig, PRESETS, make_spec, make_engine, memory=lambda config: 20)
