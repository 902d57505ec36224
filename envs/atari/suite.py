"""The suite `atari`: the 57 games of the Arcade Learning Environment with the preprocessing of the DQN and IMPALA papers.

An agent step plays `action_repeat` frames. It shows the pixel-wise maximum of the last two, grey and resized by area. The last
`frame_stack` of these pictures are the channels of `image`, the newest last. Rewards are the game's points, not clipped. Games have
no goal, so `success` is unknown. An episode is always a whole game, also with `episodic_life`: returns, lengths and scores are
comparable with the published ones.

The only engine is ale-py's emulator, one per slot, and this module does the preprocessing. The vector environments of ale-py and
envpool spend their time in the same emulator and are at most a tenth faster (32 slots, one thread). But ale-py's restarts the game at
every lost life, envpool's is seeded once for all episodes, and neither can replay a single episode.

The actions are the joystick's 18 in ALE's numbering. A game plays the nearest legal action for each one that it lacks
(`nearest_actions`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.atari.games import GAMES, PRESETS
from envs.engines.foreign_code import explain_failed_import
from envs.engines.gymnasium_engine import LIFE_LOST, GymnasiumEngine
from envs.seeding import uniform
from envs.spec import ArraySpec, EnvSpec, Score, Slot, Split
from envs.suite import EnvConfig, Suite, check_installed, check_size, expand_tasks
from system.errors import InputError, unknown_task

_SIDES = ((0, 1), (1, 0), (-1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
JOYSTICK: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (0, 0, 1),
    *((right, up, button) for button in (0, 1) for right, up in _SIDES),
)
"""How far right and up the stick is held, and whether the button is pressed. The index of an action is its number in ALE."""

NUM_ACTIONS = len(JOYSTICK)

FRAME_STACKS = (1, 2, 4, 8)
"""Numbers of pictures that fill an integer of the processor, so that one shift moves the whole stack."""


@dataclass(kw_only=True, slots=True)
class AtariConfig(EnvConfig):
    """Options of the suite `atari`. The defaults are the protocol of the published tables: no-op starts, no sticky actions.

    Attributes:
        action_repeat: Frames played per action.
        image_size: Height and width of `image`.
        frame_stack: Pictures in `image`, one of FRAME_STACKS.
        noop_max: A game begins with 1 to `noop_max` frames of no action; 0 = none.
        repeat_action_probability: Probability that a frame repeats the action of the frame before; 0.25 is the protocol of Machado et
            al. (2018), "sticky actions".
        episodic_life: In training, values are not bootstrapped across a lost life, as at the end of an episode. The game continues:
            episode, core state, return and score are those of the whole game.
        full_action_space: Every game has all 18 actions with the same meaning (`nearest_actions`); otherwise each has its minimal set.
        max_episode_frames: Number of frames, no-ops included, after which a game is truncated.
    """

    name: str = "atari"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    action_repeat: int = 4
    image_size: int = 84
    frame_stack: int = 4
    noop_max: int = 30
    repeat_action_probability: float = 0.0
    episodic_life: bool = False
    full_action_space: bool = True
    max_episode_frames: int = 108_000


def make_spec(config: AtariConfig) -> EnvSpec:
    """Describes the suite, without importing the emulator."""
    tasks = expand_tasks(config.tasks, PRESETS)
    for task in tasks:
        if task not in GAMES:
            raise unknown_task(task, "game", "atari", GAMES, PRESETS)
    _check_options(config)
    check_installed("atari", "ale_py", "cv2")
    shape = (config.image_size, config.image_size, config.frame_stack)
    return EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation={"image": ArraySpec(shape=shape, dtype="uint8")},
        # The same with minimal sets, so that an agent of several games can be evaluated on one of them.
        num_actions=NUM_ACTIONS,
        action_counts=tuple(NUM_ACTIONS if config.full_action_space else GAMES[task].minimal_actions for task in tasks),
        action_repeat=config.action_repeat,
        engine="ale",
        frame_rates=dict.fromkeys(tasks, 60),
        image_kind="pixels",
        scores=scores(config),
        slow=True,
        has_success=False,
    )


def scores(config: AtariConfig) -> dict[str, Score]:
    tasks = expand_tasks(config.tasks, PRESETS)
    return {task: Score(random=GAMES[task].random, human=GAMES[task].human) for task in tasks if task in GAMES}


def _check_options(config: AtariConfig) -> None:
    check_size("action_repeat", config.action_repeat, 1, 1000)
    check_size("image_size", config.image_size, 1, 4096)
    check_size("noop_max", config.noop_max, 0, 100_000)
    # A game must last until its first action.
    check_size("max_episode_frames", config.max_episode_frames, config.noop_max + 1, 2**31 - 1)
    if config.frame_stack not in FRAME_STACKS:
        choice = ", ".join(map(str, FRAME_STACKS))
        raise InputError(f"env.frame_stack={config.frame_stack} is not possible: choose one of {choice}.")
    if not 0 <= config.repeat_action_probability < 1:
        raise InputError(
            f"env.repeat_action_probability={config.repeat_action_probability} is out of range: give 0 or more, below 1."
        )


def make_engine(config: AtariConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> GymnasiumEngine:
    """Loads a ROM for each slot, which takes about 0.1 s."""
    make = functools.partial(AtariEnv, config, config.episodic_life and split == Split.TRAIN)
    return GymnasiumEngine(make, spec, slots, split)


class AtariEnv(gymnasium.Env[dict[str, NDArray[np.uint8]], int]):
    """One game as a gymnasium environment. Observations are a dict of `image`, always the same array.

    The emulator is deterministic. An episode's seed decides the number of no-ops and which frames repeat an action, so an episode
    is a pure function of its seed and of the actions. Every game begins with the memory of an emulator that was just
    switched on. By itself, ale-py fills that memory with other random numbers at every reset, and a few games depend on them. With
    `reports_lives` the info reports a lost life (envs/engines/gymnasium_engine.py).
    """

    def __init__(self, config: AtariConfig, reports_lives: bool, task: str) -> None:
        with explain_failed_import("cv2"):
            import cv2

        self.render_mode = "rgb_array"
        self._config, self._reports_lives = config, reports_lives
        self._emulator, self._beginning = _switch_on(GAMES[task].rom, config.max_episode_frames)
        self._actions = self._emulator.getMinimalActionSet()
        if config.full_action_space:
            legal = {action.value: action for action in self._emulator.getLegalActionSet()}
            self._actions = [legal[number] for number in nearest_actions(tuple(legal))]
        side = config.image_size
        # All channels of a pixel are one little-endian integer, the newest in its highest byte. Adding a picture is one shift and
        # one write, ten times faster than moving separate channels.
        self._stack = np.zeros((side, side), f"<u{config.frame_stack}")
        self._image = self._stack.view(np.uint8).reshape(side, side, config.frame_stack)
        self.action_space: gymnasium.spaces.Discrete[Any] = gymnasium.spaces.Discrete(len(self._actions))
        image = gymnasium.spaces.Box(0, 255, self._image.shape, np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"image": image})  # type: ignore[assignment]
        height, width = self._emulator.getScreenDims()
        self._last, self._last_but_one = np.zeros((2, height, width), np.uint8)
        self._resize = functools.partial(cv2.resize, dsize=(side, side), interpolation=cv2.INTER_AREA)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.uint8]], dict[str, Any]]:
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(2**31)) if seed is None else seed
        # Frames since the no-ops: the position in the stream of sticky actions.
        self._frame = 0
        # restoreState does not restore the position of the beam in the picture, which Qbert and Amidar show.
        self._emulator.reset_game()
        self._emulator.restoreState(self._beginning)
        self._held = self._actions[0]
        if self._config.noop_max:
            for _ in range(np.random.default_rng(self._seed).integers(self._config.noop_max) + 1):
                self._emulator.act(self._held)
        self._lives = self._emulator.lives()
        self._emulator.getScreenGrayscale(self._last)
        self._image[:] = self._resize(self._last)[..., None]
        return {"image": self._image}, {}

    def step(self, action: int) -> tuple[dict[str, NDArray[np.uint8]], float, bool, bool, dict[str, Any]]:
        emulator, repeat = self._emulator, self._config.action_repeat
        sticky, reward = self._draw_sticky(), 0
        for frame in range(repeat):
            if frame == repeat - 1:
                emulator.getScreenGrayscale(self._last_but_one)
            if not sticky[frame]:
                self._held = self._actions[action]
            # After the end of a game `act` does nothing and returns 0, so the loop need not stop early.
            reward += emulator.act(self._held)
        self._frame += repeat
        emulator.getScreenGrayscale(self._last)
        self._stack >>= 8
        self._image[..., -1] = self._resize(np.maximum(self._last, self._last_but_one, out=self._last))
        before, self._lives = self._lives, emulator.lives()
        terminated = emulator.game_over(with_truncation=False)
        truncated = emulator.game_truncated() and not terminated
        # The last life ends with game_over, which may come a few frames after the count reaches 0.
        lost = self._reports_lives and 0 < self._lives < before and not terminated
        return {"image": self._image}, reward, terminated, truncated, {LIFE_LOST: lost}

    def _draw_sticky(self) -> NDArray[np.bool_]:
        """Which frames of the next step repeat the action before, bool [action_repeat]."""
        probability, repeat = self._config.repeat_action_probability, self._config.action_repeat
        if not probability:
            return np.zeros(repeat, np.bool_)
        draws = uniform(
            np.array([self._seed], np.uint64), np.arange(self._frame, self._frame + repeat, dtype=np.uint64)
        )
        return draws < 2 * probability - 1

    def render(self) -> NDArray[np.uint8]:
        """The emulator's screen in colour, [210, 160, 3]."""
        return self._emulator.getScreenRGB()  # type: ignore[no-any-return]


def nearest_actions(legal: Sequence[int]) -> tuple[int, ...]:
    """For each of the 18 actions, the action out of `legal` (numbers in ALE) that is played for it.

    An illegal action becomes the legal one with the least squared distance of the stick, then the same button, then the lowest number.
    A game without a button plays the same direction.
    """

    def distance(wanted: int, other: int) -> tuple[int, bool, int]:
        (right, up, button), (its_right, its_up, its_button) = JOYSTICK[wanted], JOYSTICK[other]
        return (right - its_right) ** 2 + (up - its_up) ** 2, button != its_button, other

    return tuple(min(legal, key=functools.partial(distance, wanted)) for wanted in range(NUM_ACTIONS))


def _switch_on(rom: str, max_episode_frames: int) -> tuple[Any, Any]:
    """An emulator with this ROM, and the state in which its games begin."""
    with explain_failed_import("ale_py"):
        from ale_py import ALEInterface, LoggerMode
        from ale_py.roms import get_rom_path

    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    emulator.setInt("random_seed", 0)  # unused: AtariEnv draws sticky actions
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.setInt("max_num_frames_per_episode", max_episode_frames)
    emulator.loadROM(get_rom_path(rom))
    emulator.reset_game()
    return emulator, emulator.cloneState(include_rng=True)


ATARI = Suite(AtariConfig, PRESETS, make_spec, make_engine, scores=scores, memory=lambda config: 3)
