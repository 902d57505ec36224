"""The suite `gymnasium`: any environments that are registered with gymnasium, or that a package of the user's own registers.

Tasks are what `gymnasium.make` takes: `CartPole-v1`, or `package.module:Name-v0`, whose module is imported first. They must agree:
all observe images of one shape or none does, and all have the same kind of actions. Shorter vectors are filled up with zeros to
the longest, and of discrete actions each task has its first ones. Reference scores and successes are not known.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from envs.contract import EnvConfig, Suite, expand_tasks
from envs.errors import InputError
from envs.gymnasium_engine import GymnasiumEngine
from envs.gymnasium_spaces import Interface, SuiteTask, UnsupportedSpaceError, interface
from envs.process_engine import ProcessEngine
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.vector import SuiteVectorEnv

INSTEAD = {
    NormalizeObservation: "set env.normalize_observation=true",
    NormalizeReward: "let PopArt find the scale of the rewards (learner.popart=true), or bound them by learner.reward_transform",
}
"""Wrappers that are refused, with their subclasses: each environment has moments of its own, which begin anew with every restart, resume
and evaluation. With what does it right.
"""

PRESETS = {"starter": ("CartPole-v1", "Acrobot-v1")}


@dataclass(kw_only=True, slots=True)
class GymnasiumConfig(EnvConfig):
    """Options of the suite `gymnasium`.

    Attributes:
        wrappers: classes as `package.module:Name`, put around every environment in that order, the first one innermost; subclasses
            of gymnasium.Wrapper that need no argument but the environment.
        options: a dict, the keyword arguments of `gymnasium.make` for every task, `max_episode_steps` among them; None = none.
        processes: whether each environment has a process of its own (envs/process_engine.py).
    """

    name: str = "gymnasium"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    wrappers: list[str] = field(default_factory=list)
    # Any, because nothing could be added to a dict from the command line.
    options: Any = None
    processes: bool = False


def modules(config: GymnasiumConfig) -> dict[str, str]:
    """What is imported besides gymnasium, with the key that names it."""
    named = {task.rpartition(":")[0]: "env.tasks" for task in config.tasks}
    named |= {name.partition(":")[0]: "env.wrappers" for name in config.wrappers}
    return {module: key for module, key in named.items() if module and module.split(".")[0] != "gymnasium"}


def outside(config: GymnasiumConfig) -> dict[str, str]:
    """Every text among the options: an environment may take it for a file, or for a module of its own."""
    return dict.fromkeys(_texts(config.options), "env.options")


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(part)


def make_spec(config: GymnasiumConfig) -> EnvSpec:
    """Describes the suite. Only an environment itself knows its spaces, so one of each task is made and closed."""
    tasks = expand_tasks(config.tasks, PRESETS)
    if not isinstance(config.options or {}, dict):
        raise InputError(f"env.options={config.options} is no mapping: write {{name: value}}.")
    interfaces = [_inspect(config, task) for task in tasks]
    for task, other in zip(tasks, interfaces, strict=True):
        _check_agree(tasks[0], interfaces[0], task, other)
    observation = {}
    if interfaces[0].image is not None:
        observation["image"] = ArraySpec(shape=interfaces[0].image, dtype="uint8")
    if longest := max(one.vector for one in interfaces):
        observation["vector"] = ArraySpec(shape=(longest,), dtype="float32")
    first = interfaces[0]
    num_actions = max(one.count for one in interfaces) or sum(first.sizes) or len(first.low)
    return EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation=observation,
        instruction_length=0,
        vocabulary=(),
        num_actions=num_actions,
        action_counts=tuple(one.count or num_actions for one in interfaces),
        action_sizes=first.sizes,
        action_low=first.low,
        action_high=first.high,
        engine="gymnasium",
        image_kind="none" if first.image is None else "pixels",
        has_success=False,
        switches_tasks=True,
    )


def make_env(config: GymnasiumConfig, spec: EnvSpec, slots: Sequence[Slot], seed: int, split: Split) -> SuiteVectorEnv:
    """The vector environment over those slots."""
    engine = ProcessEngine if config.processes else GymnasiumEngine
    return SuiteVectorEnv(engine(partial(make_task, config, spec), spec, slots, split), spec, slots, seed)


def make_task(config: GymnasiumConfig, spec: EnvSpec, task: str) -> SuiteTask:
    """One environment of a task as `spec` describes it."""
    return SuiteTask(_make(config, task), task, spec.observation)


def _inspect(config: GymnasiumConfig, task: str) -> Interface:
    env = _make(config, task)
    try:
        return interface(env)
    except UnsupportedSpaceError as error:
        raise InputError(
            f"env.tasks={task} {error}: name a wrapper that changes it in env.wrappers, or leave the task out."
        ) from error
    finally:
        env.close()


def _check_agree(task: str, one: Interface, other_task: str, other: Interface) -> None:
    """Raises InputError unless one agent can play both."""
    if one.actions != other.actions:
        raise InputError(
            f"env.tasks mixes {one.actions} actions ({task}) with {other.actions} ones ({other_task}): train them in runs of their own."
        )
    if (one.sizes, one.low, one.high) != (other.sizes, other.low, other.high):
        raise InputError(
            f"env.tasks={other_task} has another {other.actions} action space than {task}, and only discrete ones may differ in size: "
            "leave it out, or make them equal with a wrapper in env.wrappers."
        )
    if one.image != other.image or bool(one.vector) != bool(other.vector):
        raise InputError(
            f"env.tasks={other_task} observes {_observed(other)} and {task} {_observed(one)}, and tasks must differ in the length of a "
            "vector only: leave it out, or make them equal with a wrapper in env.wrappers."
        )


def _observed(one: Interface) -> str:
    parts = [] if one.image is None else [f"images {list(one.image)}"]
    return " and ".join([*parts, f"a vector of {one.vector}"] if one.vector else parts)


def _make(config: GymnasiumConfig, task: str) -> gymnasium.Env[Any, Any]:
    """One environment in the wrappers of the configuration, quiet."""
    # Redirected, not swallowed: another thread may write to the terminal meanwhile.
    with contextlib.redirect_stdout(sys.stderr):
        wrappers = [_load_wrapper(name) for name in config.wrappers]
        try:
            env = _make_bare(task, config.options or {})
        except Exception as error:
            raise InputError(
                f"env.tasks={task} cannot be made ({_reason(error)}): look at its name, whether its package is installed, and env.options."
            ) from error
        _check_moments(env, f"env.tasks={task}")
        for name, wrapper in zip(config.wrappers, wrappers, strict=True):
            try:
                env = wrapper(env)
            except Exception as error:
                raise InputError(
                    f"env.wrappers={name} cannot be put around {task} ({_reason(error)}): leave one of them out."
                ) from error
            _check_moments(env, f"env.wrappers={name}")
    return env


def _check_moments(env: Any, named: str) -> None:
    """Raises InputError, and closes the environment, where one of INSTEAD is around it or anything in it."""
    found, seen = [env], set()
    while found:
        inner = found.pop()
        if not isinstance(inner, gymnasium.Env) or id(inner) in seen:
            continue
        seen.add(id(inner))
        for refused, advice in INSTEAD.items():
            if isinstance(inner, refused):
                env.close()
                raise InputError(
                    f"{named} normalises by {type(inner).__name__} of gymnasium, whose moments begin anew in every environment, resume and "
                    f"evaluation: leave it out, and {advice}."
                )
        # Of a wrapper, and of an environment that has others in it.
        found += vars(inner).values()


def _make_bare(task: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    module, _, name = task.rpartition(":")
    if module:
        importlib.import_module(module)
    entry = gymnasium.spec(name).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    metadata = getattr(creator, "metadata", None)
    if isinstance(metadata, dict) and "rgb_array" in metadata.get("render_modes", ()):
        options = {"render_mode": "rgb_array", **options}
    # The checker costs as much at every step as a small environment; what matters here is found out by `interface`.
    return gymnasium.make(name, disable_env_checker=True, **options)


def _load_wrapper(name: str) -> type[gymnasium.Wrapper[Any, Any, Any, Any]]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"env.wrappers={name} is no class: write package.module:Name.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise InputError(
            f"env.wrappers={name} cannot be imported ({_reason(error)}): look at its name and whether its package is installed."
        ) from error
    # Nothing else is called. Whether the module may be imported was decided before (conf/named.py).
    if not (isinstance(found, type) and issubclass(found, gymnasium.Wrapper)):
        raise InputError(f"env.wrappers={name} is no subclass of gymnasium.Wrapper: name one that is.")
    return found


def _reason(error: Exception) -> str:
    """An error of others in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}" if text else type(error).__name__


GYMNASIUM = Suite(
    name="gymnasium",
    config=GymnasiumConfig,
    presets=PRESETS,
    make_spec=make_spec,
    make_env=make_env,
    modules=modules,
    outside=outside,
)
