"""The suite `babyai`: every BabyAI-* and MiniGrid-* level, on one of two engines. Both play the same levels, except for the differences
listed in `envs.babyai.levels.DIFFERENT`.

An observation is the 7x7 cells that the agent sees, three integer codes each, and the level's instruction. The agent's direction is
not observed, as in the BabyAI paper. A success earns 1 - 0.9 * steps / max_steps. Every other episode earns 0, except that hitting a
moving obstacle (MiniGrid-Dynamic-Obstacles-*) earns -1.

Training can leave instructions out (`env.holdout`): those with the given words next to each other. This needs the engine minigrid, because
envpool seeds an environment once and chooses the instructions of later episodes itself.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from envs.babyai import levels
from envs.engines.base import Engine
from envs.engines.envpool_engine import EnvpoolEngine, Family, registered_ids
from envs.engines.gymnasium_engine import GymnasiumEngine
from envs.holdout import held_out
from envs.instructions import split_words
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suite import EnvConfig, Suite, check_size, expand_tasks
from system.errors import InputError, unknown_name, unknown_task

ENGINES = ("envpool", "minigrid")

_FAMILY = Family(show=lambda seen: {"image": seen["image"]}, text="mission", goal_ends=True)


@dataclass(kw_only=True, slots=True)
class BabyAIConfig(EnvConfig):
    """Options of the suite `babyai`.

    Attributes:
        engine: `envpool` (C++), `minigrid` (the Python original, ten times slower), or `auto`: envpool if it is installed, and minigrid if
            instructions are left out of training.
        threads: Threads of each envpool pool; there is one pool per task.
    """

    name: str = "babyai"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    engine: str = "auto"
    threads: int = 1


def make_spec(config: BabyAIConfig) -> EnvSpec:
    """Describes the suite. Imports the engine only for level names that `envs.babyai.levels` does not list."""
    tasks = expand_tasks(config.tasks, levels.PRESETS)
    engine = _choose_engine(config.engine, held_out(config, levels.PAIRS, levels.VERBS))
    check_size("threads", config.threads, 1, 1024)
    for task in tasks:
        _check_level(task, engine)
    return EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation={"image": ArraySpec(shape=levels.IMAGE_SHAPE, dtype="uint8")},
        instruction_length=levels.INSTRUCTION_LENGTH,
        vocabulary=levels.VOCABULARY,
        num_actions=levels.NUM_ACTIONS,
        action_counts=tuple(_action_count(task) for task in tasks),
        engine=engine,
        # The frame rate at which minigrid renders for people.
        frame_rates=dict.fromkeys(tasks, 10),
        image_kind="symbolic",
        symbol_counts=levels.SYMBOL_COUNTS,
        slow=engine == "minigrid",
        switches_tasks=engine == "minigrid",
    )


def make_engine(config: BabyAIConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> Engine:
    if spec.engine == "envpool":
        return EnvpoolEngine(_FAMILY, spec, slots, split, config.threads)
    from envs.babyai.minigrid_engine import make_level

    phrases = held_out(config, levels.PAIRS, levels.VERBS)
    accepts = partial(_is_in_group, phrases, split.is_seen) if phrases else None
    return GymnasiumEngine(make_level, spec, slots, split, instruction_key="mission", accepts=accepts)


def _is_in_group(phrases: Sequence[str], seen: bool, mission: str) -> bool:
    """Whether the mission belongs to the seen contexts (True) or to the unseen ones, which have one of the phrases."""
    words = f" {' '.join(split_words(mission))} "
    return seen != any(f" {phrase} " in words for phrase in phrases)


def _choose_engine(wanted: str, phrases: Sequence[str]) -> str:
    if phrases and wanted == "envpool":
        raise InputError(
            "env.engine=envpool chooses its instructions itself and cannot leave those of env.holdout out: set env.engine=minigrid."
        )
    if wanted == "auto" and phrases:
        wanted = "minigrid"
    if wanted == "auto":
        for engine in ENGINES:
            if _is_installed(engine):
                return engine
        raise InputError('env.engine=auto finds neither envpool nor minigrid: pip install "mimpala[envpool]".')
    if wanted not in ENGINES:
        raise unknown_name("env.engine", wanted, ("auto", *ENGINES))
    if not _is_installed(wanted):
        raise InputError(f'env.engine={wanted} is not installed: pip install "mimpala[{wanted}]".')
    return wanted


def _is_installed(engine: str) -> bool:
    """Whether the engine is installed and has these levels. Does not import it."""
    found = importlib.util.find_spec(engine)
    if found is None:
        return False
    if engine == "envpool":  # versions before 1.1 have no MiniGrid
        return any(os.path.isdir(os.path.join(folder, "minigrid")) for folder in found.submodule_search_locations or ())
    return True


def _check_level(task: str, engine: str) -> None:
    """InputError unless `engine` can play the level."""
    broken = levels.BROKEN.get(task, {})
    if engine in broken:
        playable = [other for other in ENGINES if other not in broken]
        fix = f"set env.engine={playable[0]}" if playable else "leave it out"
        raise InputError(f"env.tasks={task} cannot be played on {engine}, because it {broken[engine]}: {fix}.")
    if task in levels.LEVELS or (engine == "minigrid" and task in levels.MINIGRID_ONLY):
        return
    if task in levels.MINIGRID_ONLY:
        raise InputError(f"env.tasks={task} does not exist in envpool: set env.engine=minigrid to play it.")
    registered = _registered_levels(engine)
    if task not in registered:
        raise unknown_task(task, "level", f"babyai on engine {engine}", sorted(registered), levels.PRESETS)


def _registered_levels(engine: str) -> set[str]:
    from envs.babyai.minigrid_engine import registered_levels

    ids = registered_ids() if engine == "envpool" else registered_levels()
    return {name for name in ids if name.startswith(("BabyAI-", "MiniGrid-"))}


def _action_count(task: str) -> int:
    return levels.FEW_ACTIONS if task.startswith(levels.FEW_ACTIONS_PREFIX) else levels.NUM_ACTIONS


def warnings(env: EnvSpec) -> list[str]:
    found = []
    for task in env.tasks:
        reasons = levels.PARTLY_UNSOLVABLE.get(task, {})
        if env.engine in reasons:
            others = [engine for engine in ENGINES if engine not in reasons]
            fix = f"set env.engine={others[0]}" if others else "leave it out"
            found.append(f"{task} cannot always be solved on {env.engine}, because {reasons[env.engine]}: {fix}.")
    return found


def engine_differences(env: EnvSpec) -> list[str]:
    different = {task: levels.DIFFERENT[task] for task in env.tasks if task in levels.DIFFERENT}
    return [f"{task} is not the same on both engines: {how}." for task, how in different.items()]


BABYAI = Suite(
    BabyAIConfig,
    levels.PRESETS,
    make_spec,
    make_engine,
    warnings=warnings,
    engine_differences=engine_differences,
    holdout=lambda config: held_out(config, levels.PAIRS, levels.VERBS),
    memory=lambda config: 2,
)
