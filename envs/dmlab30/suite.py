"""The suite `dmlab30`: the 30 levels of DeepMind Lab's multitask benchmark, and any other level of the engine.

An observation is the picture of the last frame and its instruction ('' in levels without instructions). Rewards are the level's points,
not reshaped. Evaluation plays the test levels, with random draws that no training seed produces. The user installs the engine,
`deepmind_lab` (docs/dmlab.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from envs.dmlab30.actions import action_vectors
from envs.dmlab30.config import STAND_IN, DMLab30Config
from envs.dmlab30.engine_import import check_level, import_deepmind_lab
from envs.dmlab30.level_env import FRAMES_PER_SECOND, RENDERERS, DMLabEnv
from envs.dmlab30.levels import FOLDER, INSTRUCTION_LENGTH, LEVELS, PRESETS, VOCABULARY, known_level, level_path
from envs.engines.base import Engine
from envs.engines.process_engine import choose_engine
from envs.instructions import split_words
from envs.spec import ArraySpec, EnvSpec, Score, Slot, Split
from envs.suite import Suite, check_size, expand_tasks
from system.errors import InputError, unknown_name

PICTURES = 2400
"""Number of pictures in the data set. The engine reads each when it shows it, and fails within an episode if one is missing."""

_PNG = b"\x89PNG\r\n\x1a\n"


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
    make = partial(DMLabEnv, config, vectors, split)
    return choose_engine(make, spec, slots, split, processes=config.processes)


def memory(config: DMLab30Config) -> int:
    """MiB of one environment. Measured: 190 to 260 for one process, up to 410 on language levels, and 90 for each further one in it."""
    return 200 if config.processes else 90


DMLAB30 = Suite(DMLab30Config, PRESETS, make_spec, make_engine, scores=scores, resources=resources, memory=memory)
