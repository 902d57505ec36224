"""The suite `dmlab30`: the 30 levels of DeepMind Lab's multitask benchmark, and any other level of the engine.

An observation is the picture of the last frame and its instruction ('' in levels without instructions). Rewards are the level's points,
not reshaped. Evaluation plays the test levels, with random draws that no training seed produces. The user installs the engine,
`deepmind_lab` (docs/dmlab.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.dmlab30.actions import action_vectors
from envs.dmlab30.engine_import import check_level, import_deepmind_lab
from envs.dmlab30.level_env import EVALUATION_SETTINGS, FRAMES_PER_SECOND, RENDERERS, DMLabEnv
from envs.dmlab30.levels import FOLDER, INSTRUCTION_LENGTH, LEVELS, PRESETS, VOCABULARY, known_level, level_path
from envs.dmlab30.map_cache import LevelCache
from envs.engines.base import Engine
from envs.engines.process_engine import choose_engine
from envs.instructions import split_words
from envs.spec import ArraySpec, EnvSpec, Score, Slot, Split
from envs.suite import EnvConfig, Suite, check_size, expand_tasks
from system.errors import InputError, unknown_name

STAND_IN = "dummy"
"""Value of `dataset_path` with which the engine shows plain colours instead of pictures."""

PICTURES = 2400
"""Number of pictures in the data set. The engine reads each when it shows it, and fails within an episode if one is missing."""

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(kw_only=True, slots=True)
class DMLab30Config(EnvConfig):
    """Options of the suite `dmlab30`. The defaults are the protocol of the published results (Espeholt et al. 2018).

    Attributes:
        action_set: `impala` (9 actions), `extended` (15), `extended_large` (17), `custom`, or the path of a JSON file.
        custom_actions: The vectors of `custom`, seven numbers each.
        action_repeat: Frames played per action.
        width, height: Size of the picture, multiples of 4.
        truncate_at_time_limit: The time limit truncates the episode, so that the value is bootstrapped there.
        renderer: `software` or `hardware`; `hardware` allows one environment per process.
        level_cache: Folder of compiled maps, shared by processes and runs; empty = none.
        level_cache_gigabytes: Maximum size of this folder; the least recently used maps are removed.
        dataset_path: Folder of the pictures that two of the psychlab levels show, or `dummy` for plain colours.
        words: Additional words of the instructions, for levels outside DMLab-30.
        fresh_engine: Whether each episode gets a new engine, so that it is a function of its seed and the actions on every level
            (docs/dmlab.md).
        processes: Whether each environment has its own process (envs/engines/process_engine.py).
    """

    name: str = "dmlab30"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    action_set: str = "impala"
    custom_actions: list[list[int]] = field(default_factory=list)
    action_repeat: int = 4
    width: int = 96
    height: int = 72
    truncate_at_time_limit: bool = False
    renderer: str = "software"
    level_cache: str = ""
    level_cache_gigabytes: float = 8.0
    dataset_path: str = ""
    words: list[str] = field(default_factory=list)
    fresh_engine: bool = False
    processes: bool = True


def make_spec(config: DMLab30Config) -> EnvSpec:
    """Describes the suite. Imports the engine, which takes a moment and starts nothing, and checks that the levels' files exist."""
    tasks = expand_tasks(config.tasks, PRESETS)
    for task in tasks:
        _check_task(task)
    _check_options(config, tasks)
    vectors = action_vectors(config.action_set, config.custom_actions)
    module = import_deepmind_lab()
    for task in tasks:
        for evaluation in (False, True):
            check_level(module, level_path(task, evaluation=evaluation))
    return EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation={"image": ArraySpec(shape=(config.height, config.width, 3), dtype="uint8")},
        instruction_length=INSTRUCTION_LENGTH,
        vocabulary=(*VOCABULARY, *config.words),
        num_actions=len(vectors),
        action_counts=(len(vectors),) * len(tasks),
        action_repeat=config.action_repeat,
        engine="deepmind_lab",
        frame_rates=dict.fromkeys(tasks, FRAMES_PER_SECOND),
        image_kind="pixels",
        scores=scores(config),
        slow=True,
        has_success=False,
        switches_tasks=True,
    )


def scores(config: DMLab30Config) -> dict[str, Score]:
    """The published scores of the levels."""
    levels = {task: known_level(task) for task in expand_tasks(config.tasks, PRESETS)}
    return {task: Score(random=level.random, human=level.human) for task, level in levels.items() if level}


def resources(config: DMLab30Config) -> dict[str, str]:
    """Folders and files that the config names, with the key. Levels are included, because they are scripts that the engine runs."""
    named = {config.level_cache: "env.level_cache", config.dataset_path: "env.dataset_path"}
    if config.action_set.endswith(".json"):
        named[config.action_set] = "env.action_set"
    named |= {task: "env.tasks" for task in config.tasks if task.startswith("/") or ".." in task.split("/")}
    return {name: key for name, key in named.items() if name not in ("", STAND_IN)}


def _check_task(task: str) -> None:
    """Checks a task as far as possible without the engine."""
    for name, level in LEVELS.items():
        if level.test and task.removeprefix(FOLDER) == level.test:
            raise InputError(
                f"env.tasks={task} is held out: use {name}, for which evaluation plays {level.test} by itself."
            )
    if known_level(task) or "/" in task:
        return
    close = difflib.get_close_matches(task, [*LEVELS, *PRESETS], n=3, cutoff=0.8)
    if close:
        raise InputError(f"env.tasks={task} is no level or preset of suite dmlab30: did you mean {' or '.join(close)}?")


def _check_options(config: DMLab30Config, tasks: tuple[str, ...]) -> None:
    check_size("action_repeat", config.action_repeat, 1, 1000)
    for key, side in (("width", config.width), ("height", config.height)):
        if side < 4 or side % 4:
            raise InputError(f"env.{key}={side} is not possible: the engine draws multiples of 4.")
        check_size(key, side, 4, 4096)
    if config.renderer not in RENDERERS:
        raise unknown_name("env.renderer", config.renderer, RENDERERS)
    if not 0 < config.level_cache_gigabytes < float("inf"):
        raise InputError(f"env.level_cache_gigabytes={config.level_cache_gigabytes} is out of range: give more than 0.")
    if config.custom_actions and config.action_set != "custom":
        raise InputError(
            f"env.custom_actions is not used with env.action_set={config.action_set}: set env.action_set=custom."
        )
    known = set(VOCABULARY)
    for word in config.words:
        if word in known or split_words(word) != [word]:
            raise InputError(f"env.words={word} is no new lower-case word: leave it out or spell it as one word.")
        known.add(word)
    _check_dataset(
        config.dataset_path, [task for task in tasks if (level := known_level(task)) and level.needs_dataset]
    )


def _check_dataset(path: str, tasks: list[str]) -> None:
    """Checks the pictures at the start, because the engine reads them during the episodes."""
    if path == STAND_IN or (not path and not tasks):
        return
    if not path:
        raise InputError(
            f"env.tasks={tasks[0]} needs env.dataset_path, the folder of the {PICTURES:,} pictures of Brady, Konkle and Oliva (2008) "
            "(see docs/dmlab.md), or env.dataset_path=dummy for plain colours; the preset dmlab28 does without."
        )
    folder = Path(path).expanduser()
    for number in range(1, PICTURES + 1):
        if problem := _problem_of_picture(folder / f"{number:04}.png"):
            raise InputError(
                f"env.dataset_path={path} holds {problem}: give the folder of the pictures 0001.png to {PICTURES}.png."
            )


def _problem_of_picture(path: Path) -> str:
    """What is wrong with a file of the data set, judged by its first bytes; "" if nothing is."""
    try:
        # Only regular files are opened: opening a pipe would block.
        if not path.is_file():
            return f"no {path.name}"
        with path.open("rb") as file:
            return "" if file.read(len(_PNG)) == _PNG else f"a {path.name} that is no PNG picture"
    except OSError as error:
        return f"a {path.name} that cannot be read ({error.strerror})"


def make_engine(config: DMLab30Config, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> Engine:
    """The engine over those slots; each slot holds one DeepMind Lab (`memory`)."""
    vectors = action_vectors(config.action_set, config.custom_actions)
    make = partial(make_level, config, vectors, split)
    return choose_engine(make, spec, slots, split, processes=config.processes)


def make_level(config: DMLab30Config, vectors: NDArray[np.intc], split: Split, task: str) -> DMLabEnv:
    """The environment of one task; all arguments can be pickled."""
    evaluation = split == Split.EVALUATION
    settings = dict(EVALUATION_SETTINGS) if evaluation else {}
    level = known_level(task)
    # A level may refuse an unknown setting, so only levels that may need the pictures get it.
    if config.dataset_path and (level is None or level.needs_dataset):
        path = config.dataset_path
        settings["datasetPath"] = path if path == STAND_IN else str(Path(path).expanduser().absolute())
    cache = None
    if config.level_cache:
        cache = LevelCache(config.level_cache, int(config.level_cache_gigabytes * 1e9))
    return DMLabEnv(
        level_path(task, evaluation=evaluation),
        vectors,
        action_repeat=config.action_repeat,
        width=config.width,
        height=config.height,
        settings=settings,
        renderer=config.renderer,
        truncate_at_time_limit=config.truncate_at_time_limit,
        level_cache=cache,
        fresh_engine=config.fresh_engine,
    )


def memory(config: DMLab30Config) -> int:
    """MiB of one environment. Measured: 190 to 260 for one process, up to 410 on language levels, and 90 for each further one in it."""
    return 200 if config.processes else 90


DMLAB30 = Suite(DMLab30Config, PRESETS, make_spec, make_engine, scores=scores, resources=resources, memory=memory)
