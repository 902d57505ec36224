"""Evaluation: a checkpoint becomes an agent again and plays a number of episodes of each task that is fixed in advance.

Each slot plays its own quota. The first N episodes to end, whichever slot they come from, would be the short ones; with quotas no
episode is counted for being short.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from agents.acting.actor import ActingPolicy, Actor
from agents.acting.policy import Policy
from agents.network.actions import action_distribution
from agents.network.agent import AgentNetwork
from agents.run.folder import versions
from agents.setup.builder import build_network
from agents.setup.machine import named_device
from agents.setup.unknown_words import UnknownInstructions
from agents.storage.checkpoint import env_from_dict, load_checkpoint
from agents.trajectory import allocate, trajectory_spec
from conf.allowlist import check_named, named
from conf.loading import train_from_dict
from conf.schema import EvaluateConfig, TrainConfig
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from envs.spec_changes import interface_changes, listed, other_versions
from envs.suites import make_env, make_spec
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

WrapPolicy: TypeAlias = Callable[[Policy], ActingPolicy]
"""Gives what acts with an agent's policy (agents/evaluation/probes.py)."""

MAX_SLOTS = 64
"""Environments of a task unless `slots` says otherwise."""

MAX_STEPS = 50_000
"""Agent steps of an episode unless `max_steps` says otherwise; more where the suite itself allows longer episodes."""

_BROKEN_OFF = 3
"""So many episodes of a slot may be broken off, one after the other."""

_UNROLL_LENGTH = 8
"""Steps between two looks at the quotas: few, so that little is played past them."""

SEEDED_ONCE = ("envpool",)
"""Engines that take a seed for the first episode of a slot only, and go on from there by themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedAgent:
    """What a checkpoint says of an agent.

    Attributes:
        path, sha256: of the file.
        config, env: of the training run; `env.tasks` in the order of the task ids that the network knows.
        weights: state dict of the network.
        updates, frames: that it was trained for.
        versions: of the packages it was trained with.
    """

    path: Path
    sha256: str
    config: TrainConfig
    env: EnvSpec
    weights: dict[str, Any]
    updates: int
    frames: int
    versions: Any

    def network(self, env: EnvSpec) -> AgentNetwork:
        """The trained network for `env`, which has as many tasks as the agent was trained on.

        Raises:
            InputError: the weights are not those of the configuration in the checkpoint.
        """
        try:
            # Without memory first: what a configuration asks for may not fit, but weights that are there do.
            with torch.device("meta"):
                shapes = {name: weight.shape for name, weight in build_network(self.config, env).state_dict().items()}
            found = {name: weight.shape for name, weight in self.weights.items()}
            if shapes != found:
                name = min(name for name in shapes | found if shapes.get(name) != found.get(name))
                sizes = (list(part[name]) if name in part else "not there" for part in (found, shapes))
                raise ValueError(
                    "its weights are those of another configuration: {} is {} and would be {}".format(name, *sizes)
                )
            network = build_network(self.config, env)
            network.load_state_dict(self.weights)
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise _damaged(self.path, str(error).splitlines()[0]) from error
        return network


class Episode(NamedTuple):
    """One played episode. seed: its place in the seed tree, or None where the engine goes on by itself (envpool)."""

    seed: int | None
    episode_return: float
    length: int
    success: float


class Episodes(list[Episode]):
    """The episodes of a task that count, in the order of slots and, in a slot, of time.

    Attributes:
        interrupted: episodes that were broken off, because a number was not finite; the slot played another in place of each.
    """

    def __init__(self, episodes: Iterable[Episode] = (), interrupted: int = 0) -> None:
        super().__init__(episodes)
        self.interrupted = interrupted


class StoppedError(InputError):
    """A task that cannot be evaluated to the end.

    Attributes:
        episodes: that were played until then.
    """

    def __init__(self, message: str, episodes: Episodes) -> None:
        super().__init__(message)
        self.episodes = episodes


def load_agent(path: Path, allowed: Sequence[str] = (), tasks: Sequence[str] = ()) -> SavedAgent:
    """Reads a checkpoint for evaluation.

    Args:
        allowed: what its configuration may name (conf/allowlist.py), besides what `tasks` does.
        tasks: to evaluate, from the command line.

    Raises:
        InputError: it cannot be read (agents/storage/checkpoint.py), or its parts do not belong together, or it names what is not allowed.
    """
    content = load_checkpoint(path)
    config = train_from_dict(content["config"], f"checkpoint {path}")
    env = env_from_dict(content["env"])
    if env.suite != config.env.name:
        raise _damaged(path, f"its configuration is of suite {config.env.name} and its tasks are of suite {env.suite}")
    told = [
        name for name, key in named(dataclasses.replace(config.env, tasks=list(tasks))).items() if key == "env.tasks"
    ]
    # Both lists of tasks are the file's, and both are used.
    for settings in (config.env, dataclasses.replace(config.env, tasks=list(env.tasks))):
        check_named(settings, [*allowed, *told], f"checkpoint {path}")
    try:
        counters, weights = content["learner"]["counters"], dict(content["learner"]["network"])
        updates, frames = int(counters["updates"]), int(counters["steps"]) * int(env.action_repeat)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"the learner's part is not readable: {error}") from error
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return SavedAgent(
        path=path,
        sha256=sha256,
        config=config,
        env=env,
        weights=weights,
        updates=updates,
        frames=frames,
        versions=content["versions"],
    )


def evaluation_spec(agent: SavedAgent, tasks: Sequence[str], engine: str) -> EnvSpec:
    """The tasks to evaluate: `tasks` (names or presets of the agent's suite), or those it was trained on.

    Args:
        engine: as env.engine; empty = as in training.

    Raises:
        InputError: a task is unknown, or the agent cannot play it.
    """
    settings: Any = dataclasses.replace(agent.config.env, tasks=list(tasks or agent.env.tasks))
    if engine:
        if not hasattr(settings, "engine"):
            raise InputError(
                f"engine={engine} cannot be chosen, because suite {settings.name} has only one: leave engine= out."
            )
        settings = dataclasses.replace(settings, engine=engine)
    try:
        spec = make_spec(settings)
        if interface_changes(agent.env, spec):
            union = list(dict.fromkeys([*agent.env.tasks, *spec.tasks]))
            # Some suites make everything as large as the largest of their tasks needs it: describe these tasks beside the trained ones.
            spec = _among(make_spec(dataclasses.replace(settings, tasks=union)), spec.tasks)
    except InputError as error:
        # The keys of the suite's options stand at the top level in evaluate.py.
        raise InputError(str(error).replace("env.tasks", "tasks").replace("env.engine", "engine")) from error
    if changes := interface_changes(agent.env, spec):
        fix = (
            "choose tasks that show and take what it was trained with" if tasks else "install what it was trained with"
        )
        raise InputError(
            f"checkpoint {agent.path} cannot play these environments: {listed(changes)}"
            f"{other_versions(agent.versions, versions())}: {fix}."
        )
    untrained = [task for task in spec.tasks if task not in agent.env.tasks]
    if untrained and agent.config.context.name in ("task", "both"):
        raise InputError(
            f"tasks={untrained[0]} was not trained, and an agent with context={agent.config.context.name} knows its tasks by number: "
            f"choose among {', '.join(agent.env.tasks)}."
        )
    return spec


def _among(spec: EnvSpec, tasks: Sequence[str]) -> EnvSpec:
    """`spec` without its other tasks."""
    counts = tuple(spec.action_counts[spec.tasks.index(task)] for task in tasks)
    return dataclasses.replace(spec, tasks=tuple(tasks), action_counts=counts)


def seat(agent: SavedAgent, spec: EnvSpec, task: str) -> tuple[EnvSpec, int]:
    """The training tasks with `task` at its own id, and that id. A task that was not trained takes the place of task 0: its agent
    does not read the id, only the action mask and the value head do.
    """
    names, counts = list(agent.env.tasks), list(agent.env.action_counts)
    task_id = names.index(task) if task in names else 0
    names[task_id] = task
    if task in spec.tasks:
        counts[task_id] = spec.action_counts[spec.tasks.index(task)]
    env = dataclasses.replace(agent.env, tasks=tuple(names), action_counts=tuple(counts), engine=spec.engine)
    return env, task_id


def make_task_env(agent: SavedAgent, spec: EnvSpec, task: str, slots: int, seed: int) -> MultitaskVectorEnv:
    """`slots` evaluation environments of one task. Other tasks of `spec` change nothing."""
    env, task_id = seat(agent, spec, task)
    settings = dataclasses.replace(agent.config.env, tasks=list(env.tasks))
    places = [Slot(task=task_id, index=index) for index in range(slots)]
    return make_env(settings, env, places, seed, Split.EVALUATION)


def stream(seed: int, task: str) -> tuple[int, ...]:
    """Names the random numbers of one task's evaluation: by its name, so other tasks in the list change nothing."""
    return seed, int(Split.EVALUATION), zlib.crc32(task.encode())


def make_actor(
    agent: SavedAgent, spec: EnvSpec, task: str, slots: int, config: EvaluateConfig, wrap: WrapPolicy | None = None
) -> Actor:
    """An actor as in training, in `slots` evaluation environments of one task. `wrap` may put another policy in place of the agent's."""
    vector_env = make_task_env(agent, spec, task, slots, config.seed)
    network = agent.network(seat(agent, spec, task)[0]).to(named_device(config.device))
    policy = Policy(network, slots, greedy=config.greedy, graphs=True)
    acting = wrap(policy) if wrap else policy
    return Actor(vector_env, acting, action_distribution(agent.env), seed=stream(config.seed, task))


def quotas(episodes: int, slots: int) -> list[int]:
    """Episodes that each slot plays; slots = 0 means one for each episode, at most MAX_SLOTS. Never more slots than episodes."""
    slots = min(slots or MAX_SLOTS, episodes)
    return [episodes // slots + (slot < episodes % slots) for slot in range(slots)]


def step_limit(agent: SavedAgent, config: EvaluateConfig) -> int:
    """Agent steps after which an episode counts as one that never ends. A suite's own limit in frames is as many steps at most."""
    return config.max_steps or max(MAX_STEPS, getattr(agent.config.env, "max_episode_frames", 0))


def play(
    agent: SavedAgent,
    spec: EnvSpec,
    task: str,
    config: EvaluateConfig,
    advance: Callable[[], object],
    wrap: WrapPolicy | None = None,
    tell: Callable[[str], object] = lambda sentence: None,
) -> Episodes:
    """Plays `config.episodes` episodes of one task.

    Slots that have met their quota go on, uncounted, until all have. `advance` is called for each counted episode; `wrap` as for
    `make_actor`; `tell` shows a sentence about what was played.

    Raises:
        StoppedError: an episode does not end, or a slot's episodes are broken off one after the other.
    """
    quota, limit = np.array(quotas(config.episodes, config.slots)), step_limit(agent, config)
    played: list[list[Episode]] = [[] for _ in quota]
    interrupted = 0

    def stop(reason: str) -> StoppedError:
        return StoppedError(reason.replace("env.tasks", "tasks"), Episodes(itertools.chain(*played), interrupted))

    try:
        actor = make_actor(agent, spec, task, len(quota), config, wrap)
    except InputError as error:
        raise stop(str(error)) from error
    try:
        trajectory = allocate(trajectory_spec(agent.env, _UNROLL_LENGTH, len(quota), actor.policy.core_state.shape[1]))
        # By slot: the number of the episode that is played, steps since the last look at which it was the same one, and episodes that
        # were broken off since the last that was not.
        number, age = actor.first_episodes.copy(), np.zeros(len(quota), np.int64)
        running = np.zeros(len(quota), np.int64)
        interrupted += int(number.sum())
        counted = np.zeros(len(quota), np.int64)
        unknown = UnknownInstructions(agent.config.env, seat(agent, spec, task)[0])
        while (counted < quota).any():
            try:
                actor.unroll(trajectory)
            except InputError as error:
                raise stop(str(error)) from error
            for sentence in unknown.told(trajectory):
                tell(sentence)
            returns, lengths, successes, broken = (
                trajectory[key].numpy() for key in ("episode_return", "episode_length", "success", "interrupted")
            )
            over = ~np.isnan(returns) | broken
            age = np.where(over.any(axis=0), 0, age + _UNROLL_LENGTH)
            for t, slot in np.argwhere(over):
                number[slot] += 1
                if counted[slot] == quota[slot]:
                    continue
                if broken[t, slot]:
                    interrupted += 1
                    running[slot] += 1
                    if running[slot] == _BROKEN_OFF:
                        raise stop(
                            f"tasks={task} gives numbers that are not finite in {_BROKEN_OFF} episodes of a slot running (the last: "
                            f"{actor.faults[-1].detail}): mend the environment, or leave the task out of tasks=."
                        )
                    continue
                running[slot] = 0
                if lengths[t, slot] > limit:
                    raise stop(_endless(task, limit))
                seed = _seed(spec, task, config.seed, int(slot), int(number[slot]) - 1)
                outcome = float(returns[t, slot]), int(lengths[t, slot]), float(successes[t, slot])
                played[slot].append(Episode(seed, *outcome))
                counted[slot] += 1
                advance()
            if ((age > limit) & (counted < quota)).any():
                raise stop(_endless(task, limit))
    finally:
        actor.close()
    return Episodes(itertools.chain(*played), interrupted)


def _endless(task: str, limit: int) -> str:
    return (
        f"tasks={task} has an episode that has not ended after max_steps={limit} steps: give a larger max_steps=, or leave the task out of "
        "tasks=."
    )


def _seed(spec: EnvSpec, task: str, seed: int, slot: int, number: int) -> int | None:
    if number and spec.engine in SEEDED_ONCE:
        return None
    return episode_seed(seed, Split.EVALUATION, task, slot, number)


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"checkpoint {path} is damaged ({reason}): use an earlier one.")
