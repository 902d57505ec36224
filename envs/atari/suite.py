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

import numpy as np
from numpy.typing import NDArray

from envs.atari.games import GAMES, PRESETS
from envs.engines.base import Arrays, Outcome
from envs.seeding import episode_seed, uniform
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


class AleEngine:
    """One emulator per slot, stepped in sequence in one thread (see `envs.engines.base.Engine`).

    The emulator is deterministic. An episode's seed decides the number of no-ops and which frames repeat an action, so an episode
    is a pure function of its place in the seed tree and of the actions. Every game begins with the memory of an emulator that was just
    switched on. ale-py itself fills that memory with other random numbers at every reset, and a few games depend on them.

    Attributes:
        life_lost: See `envs.engines.base.LivesEngine`; always False without `episodic_life`.
    """

    def __init__(self, config: AtariConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> None:
        import cv2

        self._resize = cv2.resize
        self._area = cv2.INTER_AREA
        self._config, self._tasks, self._slots, self._split = config, spec.tasks, tuple(slots), split
        self._episodic_life = config.episodic_life and split == Split.TRAIN
        size, side = len(self._slots), config.image_size
        switched_on = [_switch_on(GAMES[spec.tasks[slot.task]].rom, config.max_episode_frames) for slot in slots]
        self._emulators, self._beginnings = map(list, zip(*switched_on, strict=True))
        self._actions = [emulator.getMinimalActionSet() for emulator in self._emulators]
        if config.full_action_space:
            for slot, emulator in enumerate(self._emulators):
                legal = {action.value: action for action in emulator.getLegalActionSet()}
                self._actions[slot] = [legal[number] for number in nearest_actions(tuple(legal))]
        # All channels of a pixel are one little-endian integer, the newest in its highest byte. Adding a picture is one shift and
        # one write, ten times faster than moving separate channels.
        self._stack = np.zeros((size, side, side), f"<u{config.frame_stack}")
        self._image = self._stack.view(np.uint8).reshape(size, side, side, config.frame_stack)
        self.observation: Arrays = {"image": self._image.copy()}
        height, width = self._emulators[0].getScreenDims()
        self._last, self._last_but_one = np.zeros((2, height, width), np.uint8)
        self._picture = np.zeros((size, side, side), np.uint8)
        self._run_seed = 0
        self._episode = np.zeros(size, np.int64)
        self._seed = np.zeros(size, np.uint64)
        # Frames since the no-ops: the position in the stream of sticky actions.
        self._frame = np.zeros(size, np.uint64)
        self._held = [self._actions[slot][0] for slot in range(size)]
        self._lives = np.zeros(size, np.int64)
        self._outcome: Outcome = np.zeros(size, np.float32), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
        self._reward, self._terminated, self._truncated = self._outcome
        self.life_lost = np.zeros(size, np.bool_)

    def start(self, seed: int) -> None:
        self._run_seed = seed
        self._episode[:] = [slot.episode for slot in self._slots]
        self._terminated[:] = self._truncated[:] = self.life_lost[:] = False
        for slot in range(len(self._slots)):
            self._begin_game(slot)
        self._image[:] = self._picture[..., None]
        self.observation["image"][:] = self._image

    def step(self, actions: NDArray[np.int32]) -> Outcome:
        ended = self._terminated | self._truncated
        sticky = self._draw_sticky()
        for slot, action in enumerate(actions):
            if ended[slot]:
                self._episode[slot] += 1
                self._begin_game(slot)
            else:
                self._advance(slot, self._actions[slot][action], sticky[slot])
        self._stack >>= 8
        self._image[..., -1] = self._picture
        self._image[ended] = self._picture[ended, ..., None]
        # Copied, because the next step continues the stack and the observation may be another array then.
        self.observation["image"][:] = self._image
        return self._outcome

    def _draw_sticky(self) -> NDArray[np.bool_]:
        """Which frames of the next step repeat the action before, bool [S, action_repeat]."""
        probability, repeat = self._config.repeat_action_probability, self._config.action_repeat
        if not probability:
            return np.zeros((len(self._slots), repeat), np.bool_)
        draws = uniform(self._seed[:, None], self._frame[:, None] + np.arange(repeat).astype(np.uint64))
        return draws < 2 * probability - 1

    def _advance(self, slot: int, action: Any, sticky: NDArray[np.bool_]) -> None:
        emulator, repeat = self._emulators[slot], self._config.action_repeat
        reward = 0
        for frame in range(repeat):
            if frame == repeat - 1:
                emulator.getScreenGrayscale(self._last_but_one)
            if not sticky[frame]:
                self._held[slot] = action
            # After the end of a game `act` does nothing and returns 0, so the loop need not stop early.
            reward += emulator.act(self._held[slot])
        emulator.getScreenGrayscale(self._last)
        self._show(slot, np.maximum(self._last, self._last_but_one, out=self._last))
        self._frame[slot] += repeat
        lives = emulator.lives()
        self._reward[slot] = reward
        self._terminated[slot] = emulator.game_over(with_truncation=False)
        self._truncated[slot] = emulator.game_truncated() and not self._terminated[slot]
        # The last life ends with game_over, which may come a few frames after the count reaches 0.
        self.life_lost[slot] = self._episodic_life and 0 < lives < self._lives[slot] and not self._terminated[slot]
        self._lives[slot] = lives

    def _begin_game(self, slot: int) -> None:
        emulator, seat = self._emulators[slot], self._slots[slot]
        seed = episode_seed(self._run_seed, self._split, self._tasks[seat.task], seat.index, int(self._episode[slot]))
        # restoreState does not restore the position of the beam in the picture, which Qbert and Amidar show.
        emulator.reset_game()
        emulator.restoreState(self._beginnings[slot])
        no_action = self._actions[slot][0]
        if self._config.noop_max:
            for _ in range(np.random.default_rng(seed).integers(self._config.noop_max) + 1):
                emulator.act(no_action)
        emulator.getScreenGrayscale(self._last)
        self._show(slot, self._last)
        self._seed[slot], self._frame[slot] = seed, 0
        self._held[slot], self._lives[slot] = no_action, emulator.lives()
        self._reward[slot] = 0
        self._terminated[slot] = self._truncated[slot] = self.life_lost[slot] = False

    def _show(self, slot: int, screen: NDArray[np.uint8]) -> None:
        picture = self._picture[slot]
        self._resize(screen, picture.shape, dst=picture, interpolation=self._area)

    def render(self, slot: int) -> NDArray[np.uint8]:
        """The emulator's screen in colour, [210, 160, 3]."""
        return self._emulators[slot].getScreenRGB()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._emulators, self._beginnings = [], []


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
    from ale_py import ALEInterface, LoggerMode
    from ale_py.roms import get_rom_path

    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    emulator.setInt("random_seed", 0)  # unused: AleEngine draws sticky actions
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.setInt("max_num_frames_per_episode", max_episode_frames)
    emulator.loadROM(get_rom_path(rom))
    emulator.reset_game()
    return emulator, emulator.cloneState(include_rng=True)


ATARI = Suite(AtariConfig, PRESETS, make_spec, AleEngine, scores=scores, memory=lambda config: 3)
