"""The suite `gymnasium`: any environments that are registered with gymnasium, or that a package of the user's own registers.

Tasks are what `gymnasium.make` takes: `CartPole-v1`, or `package.module:Name-v0`, whose module is imported first, and options of a task
alone follow in brackets: `Level-v0(level=1)`. They must agree: all observe images of one shape or none does, and all have the same kind of
actions. Shorter vectors are filled up with zeros to the longest, and of discrete actions each task has its first ones. Reference scores
are not known, and a success is what an environment calls one (envs/gymnasium_adapter/extras.py).
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from envs.engines.foreign_code import EnvFolder, close_env, quiet
from envs.engines.gymnasium_engine import GymnasiumEngine
from envs.engines.process_engine import ProcessEngine
from envs.gymnasium_adapter.actions import plain_actions
from envs.gymnasium_adapter.api import one_line
from envs.gymnasium_adapter.extras import MASK, Extras, choices, has_mask_key, has_text
from envs.gymnasium_adapter.pictures import LAYOUTS, UnsupportedSpaceError
from envs.gymnasium_adapter.spaces import Interface, SuiteTask, interface
from envs.gymnasium_ids.probe import probe
from envs.gymnasium_ids.tasks import module_of, parse_task
from envs.gymnasium_ids.vocabulary import SPECIAL, Words, collect, given
from envs.gymnasium_ids.watch import Watched
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suite import EnvConfig, Suite, check_size, expand_tasks
from envs.vector import MultitaskVectorEnv
from system.errors import InputError, unknown_name

MOST_TOKENS = 2**12
"""Of an instruction."""

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
        options: a dict, the keyword arguments of `gymnasium.make` for every task, `max_episode_steps` among them; None = none. Those in
            the name of a task come before them.
        vocabulary: words of the instructions, a list or the path of a file; None = those that some episodes show when a run begins, which
            the run's configuration then holds. Instructions are what environments observe as text.
        instruction_length: words of an instruction that are read; 0 = as many as the longest of those episodes has, and some.
        action_mask: whether the action masks that environments show are applied. The configuration of a run says whether there are any.
        processes: whether each environment has a process of its own (envs/engines/process_engine.py).
        pictures: what counts as a picture: `auto`, `channels_last`, `channels_first` or `none` (envs/gymnasium_adapter/pictures.py).
    """

    name: str = "gymnasium"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    wrappers: list[str] = field(default_factory=list)
    # Any, because nothing could be added to a dict from the command line.
    options: Any = None
    vocabulary: Any = None
    instruction_length: int = 0
    action_mask: bool = True
    processes: bool = False
    pictures: str = "auto"


def modules(config: GymnasiumConfig) -> dict[str, str]:
    """What is imported besides gymnasium, with the key that names it."""
    named = {module_of(task): "env.tasks" for task in config.tasks}
    named |= {name.partition(":")[0]: "env.wrappers" for name in config.wrappers}
    return {module: key for module, key in named.items() if module and module.split(".")[0] != "gymnasium"}


def outside(config: GymnasiumConfig) -> dict[str, str]:
    """Every text among the options: an environment may take it for a file, or for a module of its own. And the file of the vocabulary."""
    named = {text: "env.tasks" for task in config.tasks if "(" in task for text in _texts(parse_task(task).options)}
    named |= dict.fromkeys(_texts(config.options), "env.options")
    return named | ({config.vocabulary: "env.vocabulary"} if isinstance(config.vocabulary, str) else {})


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, bytes):
        yield tree.decode(errors="replace")
    elif isinstance(tree, dict | list | tuple | set):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(part)


def make_spec(config: GymnasiumConfig) -> EnvSpec:
    """Describes the suite. Only an environment itself knows its spaces, so one of each task is made and closed; and then another one, which
    is reset and stepped once, to find what does not keep its promises before any run begins (`envs.gymnasium_ids.probe`).
    """
    tasks = expand_tasks(config.tasks, PRESETS)
    for task in tasks:
        parse_task(task)
    if config.pictures not in LAYOUTS:
        raise unknown_name("env.pictures", config.pictures, LAYOUTS)
    if not isinstance(config.options or {}, dict):
        raise InputError(f"env.options={config.options} is no mapping: write {{name: value}}.")
    check_size("instruction_length", config.instruction_length, 0, MOST_TOKENS)
    told = None if config.vocabulary is None else given(config.vocabulary)
    found = None if told is not None and config.instruction_length else Words()
    interfaces = [_inspect(config, task, found) for task in tasks]
    for task, other in zip(tasks, interfaces, strict=True):
        _check_agree(tasks[0], interfaces[0], task, other)
    observation = {}
    if interfaces[0].image is not None:
        observation["image"] = ArraySpec(shape=interfaces[0].image, dtype="uint8")
    if longest := max(one.vector for one in interfaces):
        observation["vector"] = ArraySpec(shape=(longest,), dtype="float32")
    first = interfaces[0]
    num_actions = max(one.count for one in interfaces) or sum(first.sizes) or len(first.low)
    if any(one.mask for one in interfaces):
        observation["action_mask"] = ArraySpec(shape=(num_actions,), dtype="bool")
    length, vocabulary = 0, told
    if any(one.text for one in interfaces):
        length = config.instruction_length or (found.length if found else 0)
        vocabulary = found.vocabulary() if found and told is None else told
    spec = EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation=observation,
        instruction_length=length,
        vocabulary=(*SPECIAL, *(vocabulary or ())) if length else (),
        num_actions=num_actions,
        action_counts=tuple(one.count or num_actions for one in interfaces),
        action_sizes=first.sizes,
        action_low=first.low,
        action_high=first.high,
        engine="gymnasium",
        frame_rates={task: one.frame_rate for task, one in zip(tasks, interfaces, strict=True) if one.frame_rate},
        image_kind="none" if first.image is None else "pixels",
        has_success=False,
        switches_tasks=True,
    )
    probe(partial(make_task, config, spec), spec, processes=config.processes, key=repr(config))
    return spec


def make_env(
    config: GymnasiumConfig, spec: EnvSpec, slots: Sequence[Slot], seed: int, split: Split
) -> MultitaskVectorEnv:
    """The vector environment over those slots."""
    engine = ProcessEngine if config.processes else GymnasiumEngine
    return MultitaskVectorEnv(engine(partial(make_task, config, spec), spec, slots, split), spec, slots, seed)


def make_watched(
    config: GymnasiumConfig,
    spec: EnvSpec,
    slots: Sequence[Slot],
    seed: int,
    split: Split,
    note: Callable[[str], object],
) -> MultitaskVectorEnv:
    """See `envs.suite.Suite`."""
    make = partial(make_task, config, spec, note=note)
    return MultitaskVectorEnv(GymnasiumEngine(make, spec, slots, split), spec, slots, seed)


def make_task(
    config: GymnasiumConfig, spec: EnvSpec, task: str, *, note: Callable[[str], object] | None = None
) -> SuiteTask:
    """One environment of a task as `spec` describes it. `note`: see `envs.gymnasium_ids.watch.Watched`."""
    env = _make(config, task)
    env = plain_actions(env if note is None else Watched(env, note))
    size = spec.observation[MASK].shape[0] if MASK in spec.observation else 0
    if size or spec.instruction_length:
        env = Extras(env, task, size=size)
    return SuiteTask(env, task, spec.observation, config.pictures, instruction=bool(spec.instruction_length))


def settle(config: GymnasiumConfig, spec: EnvSpec) -> GymnasiumConfig:
    """The configuration with what `make_spec` has found out by playing."""
    settled = replace(config, action_mask=MASK in spec.observation)
    if spec.instruction_length:
        settled.instruction_length = spec.instruction_length
        if config.vocabulary is None:
            settled.vocabulary = list(spec.vocabulary[len(SPECIAL) :])
    return settled


def _inspect(config: GymnasiumConfig, task: str, found: Words | None) -> Interface:
    """One environment as the suite sees it; its texts are added to what was `found`."""
    # A constructor may change the working directory.
    with EnvFolder():
        env = _make(config, task)
    try:
        env = plain_actions(env)
        mask, text = config.action_mask and _shows_mask(env), has_text(env.observation_space)
        size = sum(choices(env.action_space)) if mask else 0
        own = interface(Extras(env, task, size=size) if mask or text else env, config.pictures)
        if text and found:
            with quiet():
                collect(env, task, found, masked=mask)
        return replace(own, mask=mask, text=text, frame_rate=_frame_rate(env))
    except UnsupportedSpaceError as error:
        raise InputError(
            f"env.tasks={task} {error}: name a wrapper that changes it in env.wrappers, or leave the task out."
        ) from error
    finally:
        close_env(env)


def _frame_rate(env: gymnasium.Env[Any, Any]) -> float:
    """What the environment declares, where it can be one."""
    try:
        rate = float(env.metadata["render_fps"])
    except (LookupError, TypeError, ValueError, AttributeError):
        return 0.0
    return rate if 0 < rate < math.inf else 0.0


def _shows_mask(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether observations or the infos of a reset and a step have an action mask. What fails here is told by a run."""
    if has_mask_key(env.observation_space):
        return True
    with contextlib.suppress(Exception), quiet():
        env.action_space.seed(0)
        _, info = env.reset(seed=0)
        if info.get(MASK) is not None:
            return True
        return env.step(env.action_space.sample())[4].get(MASK) is not None
    return False


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
                f"env.tasks={task} cannot be made ({one_line(error)}): look at its name, whether its package is installed, and env.options."
            ) from error
        _check_moments(env, f"env.tasks={task}")
        for name, wrapper in zip(config.wrappers, wrappers, strict=True):
            try:
                env = wrapper(env)
            except Exception as error:
                raise InputError(
                    f"env.wrappers={name} cannot be put around {task} ({one_line(error)}): leave one of them out."
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
    module, name, own = parse_task(task)
    options = {**options, **own}
    if module:
        importlib.import_module(module)
    entry = gymnasium.spec(name).entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    metadata = getattr(creator, "metadata", None)
    # The checker costs as much at every step as a small environment; what matters here is found out by `interface`.
    make = partial(gymnasium.make, name, disable_env_checker=True, **options)
    if (
        isinstance(metadata, dict)
        and "rgb_array" in (metadata.get("render_modes") or ())
        and "render_mode" not in options
    ):
        # Some promise to draw but take no such argument, or lack what they draw with here: they can be played all the same.
        with contextlib.suppress(Exception):
            return make(render_mode="rgb_array")
    return make()


def _load_wrapper(name: str) -> type[gymnasium.Wrapper[Any, Any, Any, Any]]:
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"env.wrappers={name} is no class: write package.module:Name.")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise InputError(
            f"env.wrappers={name} cannot be imported ({one_line(error)}): look at its name and whether its package is installed."
        ) from error
    # Nothing else is called. Whether the module may be imported was decided before (conf/allowlist.py).
    if not (isinstance(found, type) and issubclass(found, gymnasium.Wrapper)):
        raise InputError(f"env.wrappers={name} is no subclass of gymnasium.Wrapper: name one that is.")
    return found


GYMNASIUM = Suite(
    name="gymnasium",
    config=GymnasiumConfig,
    presets=PRESETS,
    make_spec=make_spec,
    make_env=make_env,
    modules=modules,
    outside=outside,
    settle=settle,
    before={"action_mask": False, "pictures": "channels_last"},
    make_watched=make_watched,
)
