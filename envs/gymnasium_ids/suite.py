"""The suite `gymnasium`: any environments that are registered with gymnasium, or that a package of the user registers.

A task is an argument of `gymnasium.make`: `CartPole-v1`, or `package.module:Name-v0`, whose module is imported first. Options of one task
follow in brackets: `Level-v0(level=1)`.

The tasks of a run must agree: all observe images of one shape or none does, all observe vectors or none does, and all have the same kind
of actions. Shorter vectors are padded with zeros to the longest. A task with fewer discrete actions than another uses the first ones. The
suite has no reference scores. An episode is a success only if its environment reports one (envs/engines/gymnasium_engine.py).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import gymnasium

from envs.engines.base import Engine
from envs.engines.foreign_code import EnvFolder, close_env, quiet
from envs.engines.gymnasium_engine import GymnasiumEngine
from envs.engines.process_engine import choose_engine
from envs.gymnasium_adapter.actions import MASK, Actions, MaskReader, has_mask_key
from envs.gymnasium_adapter.observation import Parts, find_parts
from envs.gymnasium_adapter.pictures import LAYOUTS, UnsupportedSpaceError
from envs.gymnasium_adapter.suite_task import SuiteTask
from envs.gymnasium_ids.build_env import build_env
from envs.gymnasium_ids.probe import probe
from envs.gymnasium_ids.space_check import SpaceChecker
from envs.gymnasium_ids.tasks import module_of, parse_task
from envs.gymnasium_ids.vocabulary import SPECIAL, Words, collect, read_vocabulary
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suite import EnvConfig, Suite, check_size, expand_tasks
from system.errors import InputError, unknown_name

MOST_TOKENS = 2**12
"""Maximum of `instruction_length`."""

PRESETS = {"starter": ("CartPole-v1", "Acrobot-v1")}


@dataclass(kw_only=True, slots=True)
class GymnasiumConfig(EnvConfig):
    """Options of the suite `gymnasium`.

    Attributes:
        wrappers: Classes as `package.module:Name`, subclasses of gymnasium.Wrapper whose only required argument is the environment. They
            are put around every environment in that order, the first one innermost.
        options: A dict, the keyword arguments of `gymnasium.make` for every task, such as `max_episode_steps`; None = none. Options in
            the name of a task take precedence.
        vocabulary: Words of the instructions, a list or the path of a file. Instructions are the texts that environments observe. None =
            the words of some episodes that are played when a run starts (`settle` saves them).
        instruction_length: Number of words of an instruction that are read; 0 = that of the longest instruction in such episodes, rounded
            up to a multiple of 8.
        action_mask: Whether the action masks of environments are applied. The saved configuration of a run states whether there are any.
        processes: Whether each environment has its own process (envs/engines/process_engine.py).
        pictures: Which observations are pictures: `auto`, `channels_last`, `channels_first` or `none`
            (envs/gymnasium_adapter/pictures.py).
    """

    name: str = "gymnasium"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    wrappers: list[str] = field(default_factory=list)
    # Any, because the command line could not add keys to a dict.
    options: Any = None
    vocabulary: Any = None
    instruction_length: int = 0
    action_mask: bool = True
    processes: bool = False
    pictures: str = "auto"


def modules(config: GymnasiumConfig) -> dict[str, str]:
    """The modules that are imported besides gymnasium, with the config key that names each."""
    named = {module_of(task): "env.tasks" for task in config.tasks}
    named |= {name.partition(":")[0]: "env.wrappers" for name in config.wrappers}
    return {module: key for module, key in named.items() if module and module.split(".")[0] != "gymnasium"}


def resources(config: GymnasiumConfig) -> dict[str, str]:
    """The texts of the configuration that may name a file or a module, with the config key of each.

    They are the file of the vocabulary, and every text among the options: an environment may open it or import it.
    """
    named = {text: "env.tasks" for task in config.tasks if "(" in task for text in _texts(parse_task(task).options)}
    named |= dict.fromkeys(_texts(config.options), "env.options")
    return named | ({config.vocabulary: "env.vocabulary"} if isinstance(config.vocabulary, str) else {})


def _texts(tree: Any) -> Iterator[str]:
    """All texts in nested dicts, lists, tuples and sets; values only, no keys."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, bytes):
        yield tree.decode(errors="replace")
    elif isinstance(tree, dict | list | tuple | set):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(part)


def make_spec(config: GymnasiumConfig) -> EnvSpec:
    """Describes the suite: makes and closes one environment of each task to read its spaces.

    Then resets and steps another one once, to find environments that
    violate gymnasium's interface before the run starts (`envs.gymnasium_ids.probe`).
    """
    tasks = expand_tasks(config.tasks, PRESETS)
    for task in tasks:
        parse_task(task)
    if config.pictures not in LAYOUTS:
        raise unknown_name("env.pictures", config.pictures, LAYOUTS)
    if not isinstance(config.options or {}, dict):
        raise InputError(f"env.options={config.options} is no mapping: write {{name: value}}.")
    check_size("instruction_length", config.instruction_length, 0, MOST_TOKENS)
    given_words = None if config.vocabulary is None else read_vocabulary(config.vocabulary)
    # Episodes are played for the words and for the length of instructions, unless both are configured.
    words, plays = Words(), given_words is None or not config.instruction_length
    interfaces = [_inspect(config, task, words if plays else None) for task in tasks]
    for task, other in zip(tasks, interfaces, strict=True):
        _check_agree(tasks[0], interfaces[0], task, other)
    observation = {}
    image, actions = interfaces[0].parts.image, interfaces[0].actions
    if image is not None:
        observation["image"] = ArraySpec(shape=image, dtype="uint8")
    if longest := max(one.parts.length for one in interfaces):
        observation["vector"] = ArraySpec(shape=(longest,), dtype="float32")
    num_actions = max(sum(one.actions.sizes) or len(one.actions.low) for one in interfaces)
    if any(one.has_mask for one in interfaces):
        observation["action_mask"] = ArraySpec(shape=(num_actions,), dtype="bool")
    length = (config.instruction_length or words.length) if any(one.parts.texts for one in interfaces) else 0
    vocabulary = words.vocabulary() if given_words is None else given_words
    spec = EnvSpec(
        suite=config.name,
        tasks=tasks,
        observation=observation,
        instruction_length=length,
        vocabulary=(*SPECIAL, *vocabulary) if length else (),
        num_actions=num_actions,
        action_counts=tuple(sum(one.actions.sizes) or num_actions for one in interfaces),
        action_sizes=actions.sizes if actions.kind == "multi_discrete" else (),
        action_low=actions.low,
        action_high=actions.high,
        engine="gymnasium",
        frame_rates={task: one.frame_rate for task, one in zip(tasks, interfaces, strict=True) if one.frame_rate},
        image_kind="none" if image is None else "pixels",
        has_success=False,
        switches_tasks=True,
    )
    probe(partial(make_task, config, spec), spec, processes=config.processes, key=repr(config))
    return spec


def make_engine(config: GymnasiumConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> Engine:
    return choose_engine(partial(make_task, config, spec), spec, slots, split, processes=config.processes)


def make_checked_engine(
    config: GymnasiumConfig, spec: EnvSpec, slots: Sequence[Slot], split: Split, report: Callable[[str], object]
) -> GymnasiumEngine:
    return GymnasiumEngine(partial(make_task, config, spec, report=report), spec, slots, split)


def make_task(
    config: GymnasiumConfig, spec: EnvSpec, task: str, *, report: Callable[[str], object] | None = None
) -> SuiteTask:
    """One environment of a task as `spec` describes it. `report`: see `envs.gymnasium_ids.space_check.SpaceChecker`."""
    env = build_env(task, config.options or {}, config.wrappers)
    if report:
        env = SpaceChecker(env, report)
    return SuiteTask(env, task, spec.observation, config.pictures, instruction=bool(spec.instruction_length))


def settle(config: GymnasiumConfig, spec: EnvSpec) -> GymnasiumConfig:
    """The configuration with the action masks and the vocabulary that `make_spec` found by playing."""
    settled = replace(config, action_mask=MASK in spec.observation)
    if spec.instruction_length:
        settled.instruction_length = spec.instruction_length
        if config.vocabulary is None:
            settled.vocabulary = list(spec.vocabulary[len(SPECIAL) :])
    return settled


class Interface(NamedTuple):
    """The interface of one environment. `frame_rate`: steps per second, as its `render_fps` declares; 0 if it declares none."""

    parts: Parts
    actions: Actions
    has_mask: bool
    frame_rate: float


def _inspect(config: GymnasiumConfig, task: str, sampled: Words | None) -> Interface:
    """The interface of one environment of a task. If it observes text, plays episodes and adds their texts to `sampled`."""
    # A constructor may change the working directory.
    with EnvFolder():
        env = build_env(task, config.options or {}, config.wrappers)
    try:
        actions = Actions(env.action_space)
        has_mask = config.action_mask and _shows_mask(env)
        if has_mask and actions.kind == "continuous":
            raise UnsupportedSpaceError(
                "shows an action_mask for continuous actions, which env.action_mask=false leaves out"
            )
        parts = find_parts(env.observation_space, config.pictures, masked=has_mask)
        if parts.texts and sampled:
            masks = MaskReader(task, env, actions.sizes, sum(actions.sizes)) if has_mask else None
            with quiet():
                collect(env, task, parts, actions, masks, sampled)
        return Interface(parts, actions, has_mask, _frame_rate(env))
    except UnsupportedSpaceError as error:
        raise InputError(
            f"env.tasks={task} {error}: name a wrapper that changes it in env.wrappers, or leave the task out."
        ) from error
    finally:
        close_env(env)


def _frame_rate(env: gymnasium.Env[Any, Any]) -> float:
    """The `render_fps` that the environment declares; 0 if it is no positive number."""
    try:
        rate = float(env.metadata["render_fps"])
    except (LookupError, TypeError, ValueError, AttributeError):
        return 0.0
    return rate if 0 < rate < math.inf else 0.0


def _shows_mask(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether observations, or the infos of a reset and a step, have an action mask. Ignores errors, because `probe` reports them."""
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
    """Raises InputError unless one agent can play both tasks."""
    kind, discrete = one.actions.kind, one.actions.kind == "discrete"
    if kind != other.actions.kind:
        raise InputError(
            f"env.tasks mixes {kind} actions ({task}) with {other.actions.kind} ones ({other_task}): train them in separate runs."
        )
    if one.actions.space != other.actions.space and not discrete:
        raise InputError(
            f"env.tasks={other_task} has another {kind} action space than {task}, and only discrete ones may differ in size: "
            "leave it out, or make them equal with a wrapper in env.wrappers."
        )
    if one.parts.image != other.parts.image or bool(one.parts.length) != bool(other.parts.length):
        raise InputError(
            f"env.tasks={other_task} observes {_observed(other.parts)} and {task} {_observed(one.parts)}, and tasks must differ in the "
            "length of a vector only: leave it out, or make them equal with a wrapper in env.wrappers."
        )


def _observed(parts: Parts) -> str:
    images = [] if parts.image is None else [f"images {list(parts.image)}"]
    return " and ".join([*images, f"a vector of {parts.length}"] if parts.length else images)


GYMNASIUM = Suite(
    GymnasiumConfig,
    PRESETS,
    make_spec,
    make_engine,
    modules=modules,
    resources=resources,
    settle=settle,
    legacy_defaults={"action_mask": False, "pictures": "channels_last"},
    make_checked_engine=make_checked_engine,
)
