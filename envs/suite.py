"""The interface of a suite: a schema of its options, presets of tasks, and two functions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from envs.engines.base import Engine
from envs.spec import EnvSpec, Score
from system.errors import InputError


@dataclass(kw_only=True, slots=True)
class EnvConfig:
    """Options of every suite; each suite adds its own in a subclass. Simple types only, because OmegaConf reads these classes.

    Attributes:
        name: Name of the suite, a key of `envs.suites.SUITES`.
        tasks: Names of tasks or presets of the suite, in the order of the task ids. A preset is replaced by its tasks.
        normalize_observation: Whether the agent normalises `vector` by the running moments of each task
            (agents/network/normalizer.py). Environments return it unchanged.
        holdout: Names of contexts that training leaves out (envs/holdout.py). Each suite has its own names; most have none.
        holdout_fraction: Share of the suite's pairs that training leaves out instead, drawn evenly from holdout_seed; 0 = none.
        holdout_seed: Of that draw. It is part of the experiment, so it does not depend on the run's seed.
    """

    name: str
    tasks: list[str]
    normalize_observation: bool = False
    holdout: list[str] = field(default_factory=list)
    holdout_fraction: float = 0.0
    holdout_seed: int = 0


@dataclass(frozen=True)
class Suite:
    """One row of `envs.suites.SUITES`. `config` is an instance of the row's schema, `spec` what `make_spec` returned for it.

    Attributes:
        config: Schema of the suite's options.
        presets: Named lists of tasks.
        make_spec: Config -> EnvSpec. Cheap, starts no process. Checks the tasks and the engine; raises InputError.
        make_engine: (config, spec, slots, split) -> Engine over those slots. All arguments can be pickled.
        scores: Config -> reference scores of the tasks that have them, which `make_spec` includes in its spec. Imports nothing, reads no
            file and makes no environment, so that it is safe for an untrusted config. Raises InputError as `make_spec` does.
        modules: Config -> modules that both functions import because the config names them, each with the config key.
        resources: Config -> files, folders and other texts of the config by which environments use resources of this machine, each with
            the config key.
        legacy_defaults: Options that a later version added, with the values that reproduce saved configurations without them.
        settle: (config, spec) -> config with the findings of `make_spec` from playing, so that the next `make_spec` need not play.
        memory: Config -> MiB that one environment takes with its default options, beyond the process that it may have; 0 if
            negligible or unknown.
        make_checked_engine: (config, spec, slots, split, report) -> Engine in this process that calls `report` with a sentence for every
            observation outside the observation space of its environment. None if environments have no such spaces.
        warnings: Spec -> one sentence with a fix for each task that cannot always be solved.
        engine_differences: Spec -> one sentence for each task that differs between the engines of the suite, or from the original.
        holdout: Config -> the names of the contexts that training leaves out. None if the suite cannot leave any out.
    """

    config: type[EnvConfig]
    presets: Mapping[str, tuple[str, ...]]
    # `Any`, because each function takes its own subclass of EnvConfig, which `Callable[[EnvConfig], ...]` would refuse.
    make_spec: Callable[[Any], EnvSpec]
    make_engine: Callable[..., Engine]
    _: KW_ONLY
    scores: Callable[[Any], Mapping[str, Score]] = lambda config: {}
    modules: Callable[[Any], Mapping[str, str]] = lambda config: {}
    resources: Callable[[Any], Mapping[str, str]] = lambda config: {}
    legacy_defaults: Mapping[str, Any] = field(default_factory=dict)
    settle: Callable[[Any, EnvSpec], Any] = lambda config, spec: config
    memory: Callable[[Any], int] = lambda config: 0
    make_checked_engine: Callable[..., Engine] | None = None
    warnings: Callable[[EnvSpec], Sequence[str]] = lambda env: ()
    engine_differences: Callable[[EnvSpec], Sequence[str]] = lambda env: ()
    holdout: Callable[[Any], tuple[str, ...]] | None = None


def check_size(key: str, value: int, least: int, most: int) -> None:
    """Raises InputError unless `least <= value <= most`. The upper bound keeps a mistake, or an untrusted configuration, from filling the
    memory.
    """
    if value < least:
        raise InputError(f"env.{key}={value} is too small: give {least} or more.")
    if value > most:
        raise InputError(f"env.{key}={value} is too large: give {most} or less.")


def check_installed(suite: str, *modules: str) -> None:
    """Raises InputError unless the modules that a suite needs are installed. Imports none of them."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise InputError(f'env={suite} needs {module}, which is not installed: pip install "mimpala[{suite}]".')


def expand_tasks(tasks: list[str], presets: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The task names meant by `tasks`, with presets replaced by their tasks; InputError if there are none, or one twice."""
    names = tuple(name for entry in tasks for name in presets.get(entry, (entry,)))
    if not names:
        raise InputError("env.tasks=[] names no task: give at least one task or preset of the suite.")
    for position, name in enumerate(names):
        if name in names[:position]:
            raise InputError(f"env.tasks names {name} more than once (presets count too): name every task once.")
    return names
