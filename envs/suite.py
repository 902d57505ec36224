"""What a suite is: a schema for its options, presets of tasks, and two functions. Data only, so that a suite is one
row in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from envs.spec import EnvSpec, Score
from system.errors import InputError

if TYPE_CHECKING:
    from envs.vector import MultitaskVectorEnv


@dataclass(kw_only=True, slots=True)
class EnvConfig:
    """Options every suite has; each suite adds its own in a subclass. Simple types only: OmegaConf reads these classes.

    Attributes:
        name: name of the suite, a key of `envs.suites.SUITES`.
        tasks: names of tasks or of presets of the suite, in the order of the task ids; a preset expands in place.
        normalize_observation: whether the agent reads `vector` normalised by the running moments of each task
            (agents/network/normalizer.py). Environments show what they show.
    """

    name: str
    tasks: list[str]
    normalize_observation: bool = False


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One row of the table of suites.

    Attributes:
        name: the row's own key.
        config: schema of the suite's options.
        presets: named lists of tasks.
        make_spec: config -> EnvSpec. Cheap, starts no process; checks the tasks and the engine, raises InputError in
            one sentence.
        scores: config -> reference scores of those of its tasks that have them, which `make_spec` puts into its spec. From tables and
            arithmetic alone: imports nothing, reads no file and makes no environment, so it may be asked about a stranger's config.
            InputError as `make_spec`.
        make_env: (config, spec, slots, seed, split) -> MultitaskVectorEnv. All arguments can be pickled.
        modules: config -> modules that both functions import because the config names them, with the key that does.
        warnings: EnvSpec -> one sentence for each task that cannot always be solved, with a way out.
        remarks: EnvSpec -> one sentence for each task that is not quite the one of its name, or of another engine.
        outside: config -> other things of this machine that environments use because the config names them, files and folders mostly,
            with the key that does.
        before: options that a later version added, with the values under which saved configurations without them play as they did.
        settle: (config, spec) -> config with what `make_spec` found out by playing, so that whoever reads it again need not.
        memory: config -> MiB that one environment takes, with its default options and beyond the process of its own that it may have; 0
            where that is next to nothing, or not known.
        make_watched: as make_env, with environments in this process, and a last argument that is told, in words, of every observation
            that does not lie in its environment's own space; None where there are no such spaces.
    """

    name: str
    config: type[EnvConfig]
    presets: Mapping[str, tuple[str, ...]]
    # Every suite's functions take that suite's own subclass of EnvConfig, which `Callable[[EnvConfig], ...]` would
    # refuse.
    make_spec: Callable[[Any], EnvSpec]
    make_env: Callable[..., MultitaskVectorEnv]
    scores: Callable[[Any], Mapping[str, Score]] = lambda config: {}
    modules: Callable[[Any], Mapping[str, str]] = lambda config: {}
    outside: Callable[[Any], Mapping[str, str]] = lambda config: {}
    before: Mapping[str, Any] = field(default_factory=dict)
    settle: Callable[[Any, EnvSpec], Any] = lambda config, spec: config
    memory: Callable[[Any], int] = lambda config: 0
    make_watched: Callable[..., MultitaskVectorEnv] | None = None
    warnings: Callable[[EnvSpec], Sequence[str]] = lambda env: ()
    remarks: Callable[[EnvSpec], Sequence[str]] = lambda env: ()


def check_size(key: str, value: int, least: int, most: int) -> None:
    """Raises InputError unless option `env.<key>` lies in its bounds. The upper one keeps a mistake, or a stranger's configuration, from
    filling the memory before anything else can be said about it.
    """
    if value < least:
        raise InputError(f"env.{key}={value} is too small: give {least} or more.")
    if value > most:
        raise InputError(f"env.{key}={value} is too large: give {most} or less.")


def expand_tasks(tasks: list[str], presets: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The task names meant by `tasks`, presets replaced by their members in place.

    Raises:
        InputError: the list is empty or names a task twice.
    """
    names = tuple(name for entry in tasks for name in presets.get(entry, (entry,)))
    if not names:
        raise InputError("env.tasks=[] names no task: give at least one task or preset of the suite.")
    for position, name in enumerate(names):
        if name in names[:position]:
            raise InputError(f"env.tasks names {name} more than once (presets count too): name every task once.")
    return names
