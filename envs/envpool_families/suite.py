"""A suite of one family of envpool's environments, made from a `SuiteFamily`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from envs.engines.envpool_engine import EnvpoolEngine, Family
from envs.spec import EnvSpec, Score, Slot, Split
from envs.suite import EnvConfig, Suite, check_size, expand_tasks
from system.errors import InputError, unknown_task


@dataclass(kw_only=True, slots=True)
class EnvpoolConfig(EnvConfig):
    """Options of every family.

    Attributes:
        threads: Threads of each envpool pool; there is one pool per task.
    """

    threads: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteFamily:
    """One suite on envpool.

    Attributes:
        name: Name of the suite.
        config: Schema of its options, a subclass of EnvpoolConfig.
        tasks: Names of all tasks.
        presets: Named lists of tasks.
        kind: What a task is called in messages.
        since: First version of envpool that has the family, without the system's libraries.
        needs: What that version needs beside pip, in words; empty if nothing.
        describe: (config, tasks) -> fields of EnvSpec beside `suite`, `tasks`, `engine` and `scores`. Raises InputError for bad options.
        family: (config, split) -> how the engine makes and reads the environments.
        scores: Reference scores of the tasks that have them.
        memory: MiB of one environment.
        differences: Task -> how it differs from the original environment.
    """

    name: str
    config: type[EnvpoolConfig]
    tasks: tuple[str, ...]
    presets: Mapping[str, tuple[str, ...]]
    kind: str
    since: str
    needs: str = ""
    # `Any`, because each function takes its own subclass of EnvpoolConfig.
    describe: Callable[[Any, tuple[str, ...]], Mapping[str, Any]]
    family: Callable[[Any, Split], Family]
    scores: Mapping[str, Score]
    memory: int
    differences: Mapping[str, str] = field(default_factory=dict)


def envpool_suite(row: SuiteFamily) -> Suite:
    """The suite of a family."""

    def make_spec(config: EnvpoolConfig) -> EnvSpec:
        tasks = expand_tasks(config.tasks, row.presets)
        for task in tasks:
            if task not in row.tasks:
                raise unknown_task(task, row.kind, row.name, row.tasks, row.presets)
        check_size("threads", config.threads, 1, 1024)
        fields = row.describe(config, tasks)
        _check_version(row)
        return EnvSpec(suite=config.name, tasks=tasks, engine="envpool", scores=scores(config), **fields)

    def make_engine(config: EnvpoolConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> EnvpoolEngine:
        return EnvpoolEngine(row.family(config, split), spec, slots, split, config.threads)

    def scores(config: EnvpoolConfig) -> dict[str, Score]:
        return {task: row.scores[task] for task in expand_tasks(config.tasks, row.presets) if task in row.scores}

    def differences(env: EnvSpec) -> list[str]:
        return [f"{task}: {row.differences[task]}." for task in env.tasks if task in row.differences]

    return Suite(
        row.config,
        row.presets,
        make_spec,
        make_engine,
        scores=scores,
        memory=lambda config: row.memory,
        engine_differences=differences,
    )


def _check_version(row: SuiteFamily) -> None:
    """Raises InputError unless an envpool that has the family is installed. Does not import it."""
    needed = f"env={row.name} needs envpool {row.since} or later"
    fix = f'pip install "envpool>={row.since}"{row.needs}'
    try:
        installed = metadata.version("envpool")
    except metadata.PackageNotFoundError:
        raise InputError(f"{needed}, which is not installed: {fix}.") from None
    if _numbers(installed) < _numbers(row.since):
        raise InputError(f"{needed}, and {installed} is installed: {fix}.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
