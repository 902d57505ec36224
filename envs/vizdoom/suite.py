"""The suite `vizdoom`: the classic scenarios of ViZDoom, seen in first person.

The engine plays `action_repeat` frames per agent step, sums their rewards and draws the last one only, without the status
bar. Rewards are the scenario's own, living rewards and penalties for dying included. A scenario that is over at its own
time limit is truncated, any other end is a termination. Some tasks have no goal, so `success` is unknown.

Scenarios differ in their buttons. Unless `full_action_space` is set, an action of a task is a number in the task's own list
of actions (`envs.vizdoom.scenarios.actions_of`), and the policy is masked to the length of that list.
"""

from __future__ import annotations

import functools
import importlib.util
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

from envs.engines.gymnasium_engine import GymnasiumEngine
from envs.engines.process_engine import ProcessEngine
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suite import EnvConfig, Suite, check_size, expand_tasks
from envs.vector import MultitaskVectorEnv
from envs.vizdoom import launcher
from envs.vizdoom.memory import remove_abandoned
from envs.vizdoom.scenarios import ACTIONS, BUTTONS, PRESETS, SCENARIOS, actions_of
from system.descendants import temporary_folder
from system.errors import InputError, unknown_task

VARIABLES = ("HEALTH", "SELECTED_WEAPON_AMMO")
"""What `vector` shows, in hundreds."""


@dataclass(kw_only=True, slots=True)
class VizdoomConfig(EnvConfig):
    """Options of the suite `vizdoom`.

    Attributes:
        action_repeat: frames played per action.
        image_size: height and width of `image`; the default has the proportions of the engine's 120 x 160 pixels and is
            the size of the pictures that IMPALA saw of DeepMind Lab.
        full_action_space: every task has all of ACTIONS, which mean the same everywhere; buttons that a scenario does
            not have do nothing.
        variables: whether health and ammunition are shown as `vector`; the picture does not tell them.
        processes: whether each environment has a process of its own (envs/engines/process_engine.py).
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
    for module in ("vizdoom", "cv2"):
        if importlib.util.find_spec(module) is None:
            raise InputError(f'env=vizdoom needs {module}, which is not installed: pip install "mimpala[vizdoom]".')
    height, width = config.image_size
    observation = {"image": ArraySpec(shape=(height, width, 3), dtype="uint8")}
    if config.variables:
        observation["vector"] = ArraySpec(shape=(len(VARIABLES),), dtype="float32")
    return EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation=observation,
        instruction_length=0,
        vocabulary=(),
        # The same size for any list of tasks, so that an agent of several can be evaluated on one of them.
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


def make_env(
    config: VizdoomConfig, spec: EnvSpec, slots: Sequence[Slot], seed: int, split: Split
) -> MultitaskVectorEnv:
    """The vector environment over those slots. Starts a process for each, in half a second or so."""
    remove_abandoned()
    make = functools.partial(
        VizdoomEnv,
        action_repeat=config.action_repeat,
        image_size=(config.image_size[0], config.image_size[1]),
        full_action_space=config.full_action_space,
        variables=config.variables,
    )
    engine = ProcessEngine if config.processes else GymnasiumEngine
    return MultitaskVectorEnv(engine(make, spec, slots, split), spec, slots, seed)


class VizdoomEnv(gymnasium.Env[dict[str, NDArray[Any]], int]):
    """One scenario as a gymnasium environment. An episode is a pure function of its seed and of the actions.

    Observations are a dict of `image` uint8 [H, W, 3] and, with `variables`, `vector` float32 [2]; the last one of an
    episode repeats the one before, because the engine shows nothing after the end.

    The game runs in a process of its own from the construction to `close`. RuntimeError, with the task's name, says that
    it failed.

    Args:
        task: a key of SCENARIOS. See VizdoomConfig for the others.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        task: str,
        *,
        action_repeat: int = 4,
        image_size: tuple[int, int] = (72, 96),
        full_action_space: bool = False,
        variables: bool = False,
        render_mode: str = "rgb_array",
    ) -> None:
        import cv2

        self._resize = functools.partial(cv2.resize, dsize=image_size[::-1], interpolation=cv2.INTER_AREA)
        self.render_mode = render_mode
        self._task, self._action_repeat, self._variables = task, action_repeat, variables
        actions = ACTIONS if full_action_space else actions_of(task)
        buttons = [button for button in BUTTONS if button in SCENARIOS[task]]
        self._pressed = [[button in action for button in buttons] for action in actions]
        self.action_space: gymnasium.spaces.Discrete[Any] = gymnasium.spaces.Discrete(len(actions))
        spaces: dict[str, gymnasium.Space[Any]] = {"image": gymnasium.spaces.Box(0, 255, (*image_size, 3), np.uint8)}
        if variables:
            spaces["vector"] = gymnasium.spaces.Box(-np.inf, np.inf, (len(VARIABLES),), np.float32)
        self.observation_space = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]
        self._folder = tempfile.TemporaryDirectory(prefix="vizdoom-", dir=temporary_folder())
        with self._failures_named():
            self._game = _start(task, buttons, Path(self._folder.name))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Begins the episode of `seed`, a number below 2**32; without one, of a number that follows from the seed before."""
        super().reset(seed=seed)
        with self._failures_named():
            self._game.set_seed(int(self.np_random.integers(2**31)) if seed is None else seed)
            self._game.new_episode()
            self._look()
        return self._seen, {}

    def step(self, action: int) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        """Holds the action's buttons for `action_repeat` frames, or until the end; the reward is the sum over them."""
        with self._failures_named():
            reward = self._game.make_action(self._pressed[action], self._action_repeat)
            over = self._game.is_episode_finished()
            truncated = over and self._game.is_episode_timeout_reached() and not self._game.is_player_dead()
            if not over:
                self._look()
        return self._seen, reward, over and not truncated, truncated, {}

    def render(self) -> NDArray[np.uint8]:
        """The engine's whole picture, [120, 160, 3]."""
        return self._screen

    def close(self) -> None:
        """Ends the game's process; may be repeated."""
        self._game.close()
        self._folder.cleanup()

    def _look(self) -> None:
        state = self._game.get_state()
        self._screen: NDArray[np.uint8] = state.screen_buffer
        self._seen = {"image": self._resize(self._screen)}
        if self._variables:
            self._seen["vector"] = state.game_variables.astype(np.float32) / 100

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
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
    # Named outright: a doom2.wad that the user has would otherwise change the pictures.
    game.set_doom_game_path(str(package / "freedoom2.wad"))
    game.set_vizdoom_path(_launcher(folder, package / "vizdoom"))
    # The swing of the weapon in walking is carried over from one episode to the next, so no episode could be replayed.
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
    """A program that starts the engine by way of envs/vizdoom/launcher.py: DoomGame takes a path, but no arguments before its own."""
    arguments = [str(os.getpid()), str(folder), str(engine)]
    command = shlex.join([sys.executable, "-I", "-S", launcher.__file__, *arguments])
    program = folder / "launch"
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    return str(program)


VIZDOOM = Suite(
    name="vizdoom",
    config=VizdoomConfig,
    presets=PRESETS,
    make_spec=make_spec,
    make_env=make_env,
    memory=lambda config: 20,
)
