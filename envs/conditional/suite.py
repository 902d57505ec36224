"""The suite `conditional`: tiny tasks whose right action depends on what the context selects and rescales.

Task i has a hidden matrix M_i = P_i D_i with a permutation P_i and gains D_i of either sign. The vector x is uniform on [-1, 1)^d. The
right action is argmax_a (M_i x)_a. It is a function of x and i, but no sum of a function of x and a function of i gives it.

    - map-i     x is shown, one decision is made, the episode ends. With more steps a recurrent agent could infer the task from its rewards.
    - memory-i  x is shown at the first step and hidden for `delay` steps; the decision is made at the last of them.
    - blend-k   as map, with the matrix w_0 M_0 + ... + w_{k-1} M_{k-1}. The weights w are uniform on the simplex, new in each episode,
                and are the context (`context=vector`). Training can leave regions of them out (envs/conditional/blend.py).

With a blend among the tasks, every observation has the weights of the episode's matrix as `context`; map-i and memory-i have the weight 1
at i.

The right action earns 1, so the optimal return is exactly 1 on every task. x is shown as numbers, or as a picture for agents with a
convolutional torso. All slots are computed together as arrays.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.conditional.blend import BLEND, MOST_MATRICES, Weights, check_left_out, left_out, num_matrices, number_of
from envs.engines.base import Arrays, Outcome
from envs.seeding import stream_key, uniform
from envs.spec import ArraySpec, EnvSpec, Score, Slot, Split
from envs.suite import EnvConfig, Suite, check_size, expand_tasks
from system.errors import InputError, unknown_name

_TASK = re.compile(r"(map|memory|blend)-(0|[1-9]\d{0,8})")

OBSERVATIONS = ("vector", "image")
LEVELS = 4
"""Number of values that an entry of x has in a picture: the centres of LEVELS equal parts of [-1, 1)."""

# Side of the square of cells of one entry, and distance between the squares.
_SQUARE, _SPACING = 3, 4


@dataclass(kw_only=True, slots=True)
class ConditionalConfig(EnvConfig):
    """Options of the suite `conditional`.

    Attributes:
        dimension: d, the length of x and the number of actions.
        num_tasks: Number of matrices; the presets `map` and `memory` name the tasks of all of them, and `blend` is blend-4.
        delay: Steps between the cue and the decision of the memory tasks.
        map_seed: Seed of the matrices. They define the tasks, so they do not depend on the run's seed.
        observation: One of OBSERVATIONS. `vector`: the entries of x, then 1 if a decision is due, else 0. `image`: symbolic cells of two
            codes: the level of the entry at this cell, counted from 1 (0 between entries), and whether a decision is due. Entries are
            so far apart that each position of the torso's feature map sees only one. They are rounded to LEVELS values, and the right
            action follows from these.
    """

    name: str = "conditional"
    tasks: list[str] = field(default_factory=lambda: ["map"])
    dimension: int = 4
    num_tasks: int = 8
    delay: int = 3
    map_seed: int = 0
    observation: str = "vector"


def presets(num_tasks: int) -> dict[str, tuple[str, ...]]:
    """The presets of a suite with that many matrices."""
    named = {kind: tuple(f"{kind}-{number}" for number in range(num_tasks)) for kind in ("map", "memory")}
    return named | {BLEND: (f"{BLEND}-{min(4, num_tasks)}",)}


def make_spec(config: ConditionalConfig) -> EnvSpec:
    tasks = _checked_tasks(config)
    check_left_out(tasks, left_out(config, tasks, config.num_tasks))
    pictures = config.observation == "image"
    observation = {config.observation: make_array(config)}
    if _numbers(tasks, BLEND):
        observation["context"] = ArraySpec(shape=(num_matrices(tasks),), dtype="float32")
    return EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation=observation,
        image_kind="symbolic" if pictures else "none",
        symbol_counts=(LEVELS + 1, 2) if pictures else (),
        num_actions=config.dimension,
        action_counts=(config.dimension,) * len(tasks),
        engine="numpy",
        scores=scores(config),
    )


def scores(config: ConditionalConfig) -> dict[str, Score]:
    """Reference scores; `random` is the return of the best context-blind policy (`blind_return`)."""
    tasks = _checked_tasks(config)
    blind = {kind: blind_return(config, _numbers(tasks, kind)) for kind in ("map", "memory")}
    blind[BLEND] = blind_return_of_blends(config, _numbers(tasks, BLEND))
    return {task: Score(random=blind[task.split("-")[0]], human=1.0, reference="optimal") for task in tasks}


def _checked_tasks(config: ConditionalConfig) -> tuple[str, ...]:
    check_size("dimension", config.dimension, 2, 1024)
    check_size("num_tasks", config.num_tasks, 1, 10_000)
    check_size("delay", config.delay, 1, 1_000_000)
    check_size("map_seed", config.map_seed, 0, 2**63)
    if config.observation not in OBSERVATIONS:
        raise unknown_name("env.observation", config.observation, OBSERVATIONS)
    tasks = expand_tasks(config.tasks, presets(config.num_tasks))
    for task in tasks:
        match, most = _TASK.fullmatch(task), min(MOST_MATRICES, config.num_tasks)
        numbers = range(2, most + 1) if task.startswith(BLEND) else range(config.num_tasks)
        if match is None or int(match[2]) not in numbers:
            last = config.num_tasks - 1
            choice = f"map, memory, blend, map-0 to map-{last}, memory-0 to memory-{last} or blend-2 to blend-{most}"
            raise InputError(f"env.tasks={task} is no task of suite conditional: choose {choice}.")
    return tasks


def make_array(config: ConditionalConfig) -> ArraySpec:
    if config.observation == "vector":
        return ArraySpec(shape=(config.dimension + 1,), dtype="float32")
    rows, columns = places_in_picture(config.dimension)
    # A grid torso needs at least four cells in each direction.
    height, width = (max(_SPACING, int(places.max()) + 1) for places in (rows, columns))
    return ArraySpec(shape=(height, width, 2), dtype="uint8")


def places_in_picture(dimension: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the cells of each entry of x, int [d, 9] each. The entries fill a square row by row."""
    row, column = np.divmod(np.arange(dimension)[:, None], math.ceil(math.sqrt(dimension)))
    down, right = np.divmod(np.arange(_SQUARE**2), _SQUARE)
    return _SPACING * row + down, _SPACING * column + right


def round_to_levels(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The nearest values that a picture can show, and their levels, 0 to LEVELS - 1."""
    level = ((x + 1) * (LEVELS / 2)).astype(np.intp)
    return ((2 * level + 1) / LEVELS - 1).astype(np.float32), level


def maps(map_seed: int, dimension: int, numbers: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The matrices of tasks `numbers` as (M_i x)_a = gains[i, a] * x[places[i, a]].

    Returns:
        places int [K, d], a permutation per task; gains f32 [K, d], of size 0.5 to 1.5 and either sign.

    The permutations of neighbouring tasks are cyclic shifts of one random permutation. So in any d neighbouring tasks each action reads
    each coordinate once, and, before gains, all actions are right equally often. A task's matrix does not depend on the other tasks.
    """
    permutation = np.random.default_rng(map_seed).permutation(dimension)
    places = np.stack([np.roll(permutation, number) for number in numbers])
    gains = np.empty(places.shape, np.float32)
    for row, number in enumerate(numbers):
        rng = np.random.default_rng([map_seed, number])
        gains[row] = rng.uniform(0.5, 1.5, dimension) * rng.choice([-1.0, 1.0], dimension)
    return places, gains


def blind_return(config: ConditionalConfig, numbers: tuple[int, ...]) -> float:
    """Mean return over the tasks `numbers` (of one kind) of the best policy that sees x but not the task.

    It chooses the action that is right in most tasks: E_x max_a mean_i 1[right_i(x) = a]. Estimated from 2**15 fixed draws, with a
    standard error below 0.002. 0 for an empty list.
    """
    return _blind_return(config.map_seed, config.dimension, numbers, config.observation == "image") if numbers else 0.0


@functools.cache
def _blind_return(map_seed: int, dimension: int, numbers: tuple[int, ...], pictures: bool) -> float:
    places, gains = maps(map_seed, dimension, numbers)
    draws = 1 << 15
    x = np.random.default_rng(0).uniform(-1, 1, (draws, dimension)).astype(np.float32)
    if pictures:
        x, _ = round_to_levels(x)
    votes = np.zeros((draws, dimension), np.int32)
    for place, gain in zip(places, gains, strict=True):
        votes[np.arange(draws), (gain * x[:, place]).argmax(axis=1)] += 1
    return float(votes.max(axis=1).mean() / len(numbers))


def blind_return_of_blends(config: ConditionalConfig, numbers: tuple[int, ...]) -> float:
    """The same for blends of so many matrices, over uniform weights: from 2**12 draws of x and 2**8 of the weights of each blend."""
    return _blind_blend(config.map_seed, config.dimension, numbers, config.observation == "image") if numbers else 0.0


@functools.cache
def _blind_blend(map_seed: int, dimension: int, numbers: tuple[int, ...], pictures: bool) -> float:
    places, gains = maps(map_seed, dimension, range(max(numbers)))
    rng, draws, weights = np.random.default_rng(0), 1 << 12, 1 << 8
    x = rng.uniform(-1, 1, (draws, dimension)).astype(np.float32)
    if pictures:
        x, _ = round_to_levels(x)
    seen = x[:, places] * gains
    votes = np.zeros((draws, dimension), np.int32)
    for number in numbers:
        for weight in rng.dirichlet(np.ones(number), weights):
            votes[np.arange(draws), np.einsum("k,nka->na", weight, seen[:, :number]).argmax(axis=1)] += 1
    return float(votes.max(axis=1).mean() / (weights * len(numbers)))


def _numbers(tasks: tuple[str, ...], kind: str) -> tuple[int, ...]:
    """The numbers i of the tasks `kind`-i."""
    return tuple(number_of(task) for task in tasks if task.startswith(kind))


class ConditionalEngine:
    """All slots as arrays (see `envs.engines.base.Engine`).

    The x of an episode, and the weights of a blend, are functions of the slot's stream keys and the episode's number, so any episode is
    computed directly. Raises NoContextError if a task has no context of the split's group.

    The state per slot: `_episode`, `_age` (steps taken in it), `_ended` (the last step ended it) and `_right`, its right action.
    """

    def __init__(self, config: ConditionalConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> None:
        tasks = self._tasks = spec.tasks
        self._slots, self._split = tuple(slots), split
        self._dimension = config.dimension
        # A blend has no single matrix: M_0 is not used.
        own = [0 if task.startswith(BLEND) else number_of(task) for task in tasks]
        places, gains = maps(config.map_seed, config.dimension, own)
        delays = np.array([config.delay if task.startswith("memory") else 0 for task in tasks], np.int32)
        task = np.array([slot.task for slot in slots], np.intp)
        self._places, self._gains, self._delay = places[task], gains[task], delays[task]
        size = len(self._slots)
        self._shown = config.observation
        array = spec.observation[self._shown]
        self.observation: Arrays = {self._shown: np.zeros((size, *array.shape), array.dtype)}
        self._rows, self._columns = places_in_picture(config.dimension)
        self._weights: Weights | None = None
        if "context" in spec.observation:
            (matrices,) = spec.observation["context"].shape
            self.observation["context"] = np.zeros((size, matrices), np.float32)
            self._bases = maps(config.map_seed, config.dimension, range(matrices))
            self._weights = Weights(tasks, self._slots, left_out(config, tasks, config.num_tasks), split, matrices)
        self._keys = np.zeros(size, np.uint64)
        self._episode = np.zeros(size, np.int64)
        self._age = np.zeros(size, np.int32)
        self._ended = np.zeros(size, np.bool_)
        self._right = np.zeros(size, np.int32)
        self._never = np.zeros(size, np.bool_)

    def start(self, seed: int) -> None:
        self._keys[:] = [stream_key(seed, self._split, self._tasks[slot.task], slot.index) for slot in self._slots]
        if self._weights:
            self._weights.start(seed)
        self._episode[:] = [slot.episode for slot in self._slots]
        self._age[:] = 0
        self._ended[:] = False
        self._show(np.arange(len(self._slots)))

    def step(self, actions: NDArray[np.int32]) -> Outcome:
        deciding = (self._age == self._delay) & ~self._ended
        reward = (deciding & (actions == self._right)).astype(np.float32)
        self._episode += self._ended
        self._age = (self._age + 1) * ~self._ended
        started = np.flatnonzero(self._ended)
        self._ended = deciding
        self._show(started)
        return reward, deciding, self._never

    def _show(self, started: NDArray[np.intp]) -> None:
        """Draws x and the right action of the episodes that begin in slots `started`, and fills all observations."""
        shown = self.observation[self._shown]
        shown.fill(0)
        if len(started):
            first = self._episode[started].astype(np.uint64) * np.uint64(self._dimension)
            places = np.arange(self._dimension, dtype=np.uint64)
            x = uniform(self._keys[started, None], first[:, None] + places)
            if self._shown == "vector":
                shown[started, :-1] = x
            else:
                x, level = round_to_levels(x)
                shown[started[:, None, None], self._rows, self._columns, 0] = level[:, :, None] + 1
            if self._weights:
                read, gains = self._bases
                weights = self.observation["context"][started] = self._weights.draw(started, self._episode[started])
                seen = np.einsum("nk,nka->na", weights, x[:, read] * gains)
            else:
                seen = np.take_along_axis(x, self._places[started], axis=1) * self._gains[started]
            self._right[started] = seen.argmax(axis=1)
        due = self._age == self._delay
        shown[..., -1] = due.reshape(-1, *(1,) * (shown.ndim - 2))

    def render(self, slot: int) -> NDArray[np.uint8]:
        """Bars from the middle line: a blue one per entry of x, and a red one if a decision is due."""
        width, half = 16, 48
        shown = self.observation[self._shown][slot]
        if self._shown == "image":
            code = shown[self._rows[:, 0], self._columns[:, 0], 0].astype(np.float32)
            x = np.where(code > 0, (2 * code - 1) / LEVELS - 1, 0)
            entries = np.append(x, shown[0, 0, 1])
        else:
            entries = shown
        picture = np.full((2 * half, width * len(entries), 3), 255, np.uint8)
        for place, entry in enumerate(entries):
            end = half - round(float(entry) * half)
            colour = (200, 60, 40) if place == self._dimension else (40, 90, 200)
            picture[min(half, end) : max(half, end), place * width + 2 : (place + 1) * width - 2] = colour
        picture[half] = 0
        return picture

    def state_dict(self) -> dict[str, Any]:
        arrays = {self._shown: self.observation[self._shown], "keys": self._keys, "episode": self._episode}
        arrays |= {"age": self._age, "ended": self._ended, "right": self._right}
        if self._weights:
            arrays |= {"context": self.observation["context"], "weight_keys": self._weights.keys}
        return {key: value.copy() for key, value in arrays.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.observation[self._shown][:] = state[self._shown]
        self._keys[:], self._episode[:] = state["keys"], state["episode"]
        self._age, self._ended, self._right = state["age"].copy(), state["ended"].copy(), state["right"].copy()
        if self._weights:
            self.observation["context"][:], self._weights.keys[:] = state["context"], state["weight_keys"]

    def close(self) -> None:
        pass


# The presets of the default size; `make_spec` makes its own for the config's `num_tasks`.
CONDITIONAL = Suite(
    ConditionalConfig,
    presets(num_tasks=8),
    make_spec,
    ConditionalEngine,
    scores=scores,
    holdout=lambda config: left_out(config, _checked_tasks(config), config.num_tasks),
)
