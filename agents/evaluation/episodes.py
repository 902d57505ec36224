"""Evaluation: loads an agent from a checkpoint and plays a fixed number of episodes of each task.

Each slot plays a quota that is fixed in advance. The first N episodes to end in any slot would be biased towards short episodes.
"""

from __future__ import annotations

import contextlib
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
from numpy.typing import NDArray

from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.network.actions import action_distribution
from agents.network.agent import AgentNetwork
from agents.run.provenance import versions
from agents.setup.builder import build_network
from agents.setup.machine import resolve_device
from agents.setup.plugins import load_saved_plugins
from agents.setup.preflight import MAX_SLOTS
from agents.setup.unknown_words import UnknownInstructions
from agents.storage.checkpoint import env_from_dict, load_checkpoint
from agents.storage.exported import is_exported, read_exported
from agents.trajectory import Trajectory, allocate, trajectory_spec
from conf.allowlist import check_external_names, external_names
from conf.evaluate_schema import EvaluateConfig
from conf.loading import train_from_dict
from conf.schema import TrainConfig
from envs.faults import Fault, NoContextError
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from envs.spec_changes import interface_changes, listed, other_versions
from envs.suite import EnvConfig
from envs.suites import held_out, make_env, make_spec
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

PreparePolicy: TypeAlias = Callable[[Policy], None]
"""Changes a policy before it acts (agents/evaluation/probes.py)."""

MAX_STEPS = 50_000
"""Most agent steps per episode, if `max_steps` is not given and the suite allows no longer episodes."""

_BROKEN_OFF = 3
"""Evaluation stops when this many consecutive episodes of a slot are broken off."""

_UNROLL_LENGTH = 8
"""Steps between two checks of the quotas: few, so that few steps are played past them."""

SEEDED_ONCE = ("envpool",)
"""Engines that are seeded for the first episode of a slot only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedAgent:
    """An agent as read from a checkpoint.

    Attributes:
        path, sha256: Of the file.
        config, env: Of the training run. `env.tasks` is in the order of the network's task ids.
        weights: State dict of the network.
        updates, frames: Length of the training.
        versions: Of the packages in the training run.
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
        """The trained network for `env`, which must have as many tasks as the training run. Raises InputError if the weights do not fit."""
        try:
            # On the meta device first: a crafted configuration may ask for more memory than there is.
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
    """One played episode. seed: its position in the seed tree, or None if the engine did not seed it (SEEDED_ONCE)."""

    seed: int | None
    episode_return: float
    length: int
    success: float


class Episodes(list[Episode]):
    """The counted episodes of a task, ordered by slot, then by time; `interrupted` more were broken off, because of numbers not finite."""

    def __init__(self, episodes: Iterable[Episode] = (), interrupted: int = 0) -> None:
        super().__init__(episodes)
        self.interrupted = interrupted


class StoppedError(InputError):
    """A task that cannot be evaluated to the end, and the `episodes` that were played before."""

    def __init__(self, message: str, episodes: Episodes) -> None:
        super().__init__(message)
        self.episodes = episodes


def load_agent(path: Path, allowed: Sequence[str] = (), tasks: Sequence[str] = ()) -> SavedAgent:
    """Reads a checkpoint, or an exported agent, to evaluate `tasks`, which the command line names.

    Its configuration may name the modules and wrappers `allowed` (conf/allowlist.py), and those that `tasks` name. Raises InputError if it
    names others, cannot be read (agents/storage), or is inconsistent.
    """
    content = read_exported(path) if is_exported(path) else load_checkpoint(path)
    load_saved_plugins(content["config"], allowed, f"checkpoint {path}")
    config = train_from_dict(content["config"], f"checkpoint {path}")
    env = env_from_dict(content["env"])
    if env.suite != config.env.name:
        raise _damaged(path, f"its configuration is of suite {config.env.name} and its tasks are of suite {env.suite}")
    named = external_names(dataclasses.replace(config.env, tasks=list(tasks)))
    given = [name for name, key in named.items() if key == "env.tasks"]
    # The file holds two lists of tasks, and both are used.
    for settings in (config.env, dataclasses.replace(config.env, tasks=list(env.tasks))):
        check_external_names(settings, [*allowed, *given], f"checkpoint {path}")
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
    """The tasks to evaluate: `tasks` (names or presets of the agent's suite), by default the trained tasks.

    `engine` is as env.engine; empty: as in training. Raises InputError if a task is unknown, or the agent cannot play it.
    """
    settings: Any = _settings(agent, tasks or agent.env.tasks)
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
            # Some suites size observations by the largest task: describe the tasks together with the trained ones.
            joint = make_spec(dataclasses.replace(settings, tasks=union))
            counts = tuple(joint.action_counts[joint.tasks.index(task)] for task in spec.tasks)
            spec = dataclasses.replace(joint, tasks=spec.tasks, action_counts=counts)
    except InputError as error:
        # In evaluate.py these keys are at the top level.
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


def _settings(agent: SavedAgent, tasks: Sequence[str]) -> EnvConfig:
    """The configuration of the training's environments with other tasks, and with the contexts that the training left out."""
    names = list(held_out(agent.config.env))
    return dataclasses.replace(agent.config.env, tasks=list(tasks), holdout=names, holdout_fraction=0.0)


def seat(agent: SavedAgent, spec: EnvSpec, task: str) -> tuple[EnvSpec, int]:
    """The training tasks, with `task` among them, and the id of `task`.

    An untrained task replaces task 0. Its agent does not read the id; only the action mask and the value head do.
    """
    names, counts = list(agent.env.tasks), list(agent.env.action_counts)
    task_id = names.index(task) if task in names else 0
    names[task_id] = task
    if task in spec.tasks:
        counts[task_id] = spec.action_counts[spec.tasks.index(task)]
    env = dataclasses.replace(agent.env, tasks=tuple(names), action_counts=tuple(counts), engine=spec.engine)
    return env, task_id


def split_of(config: EvaluateConfig) -> Split:
    """The split that an evaluation plays. With `contexts=both` that is the one of the seen contexts (agents/evaluation/probe_report.py)."""
    return Split.UNSEEN if config.contexts == "unseen" else Split.EVALUATION


def make_task_env(
    agent: SavedAgent, spec: EnvSpec, task: str, slots: int, seed: int, split: Split = Split.EVALUATION
) -> MultitaskVectorEnv:
    """`slots` evaluation environments of one task, independent of the other tasks of `spec`."""
    env, task_id = seat(agent, spec, task)
    settings = _settings(agent, env.tasks)
    places = [Slot(task=task_id, index=index) for index in range(slots)]
    return make_env(settings, env, places, seed, split)


def stream(seed: int, task: str, split: Split = Split.EVALUATION) -> tuple[int, ...]:
    """The seed of one task's random numbers. It depends on the task's name, not on the other tasks."""
    return seed, int(split), zlib.crc32(task.encode())


def make_actor(
    agent: SavedAgent,
    spec: EnvSpec,
    task: str,
    slots: int,
    config: EvaluateConfig,
    prepare: PreparePolicy | None = None,
) -> Actor:
    """An actor as in training, in `slots` evaluation environments of one task. `prepare` may change the policy, as probes do."""
    split = split_of(config)
    vector_env = make_task_env(agent, spec, task, slots, config.seed, split)
    network = agent.network(seat(agent, spec, task)[0]).to(resolve_device(config.device))
    # The noise belongs to what the agent is told, and stays. Dropout is a means of training.
    network.context_encoder.dropout = 0.0
    policy = Policy(network, slots, greedy=config.greedy, graphs=True)
    if prepare is not None:
        prepare(policy)
    seeds = network.context_encoder.reads_seeds
    actions = action_distribution(agent.env)
    return Actor(vector_env, policy, actions, seed=stream(config.seed, task, split), context_seeds=seeds)


def quotas(episodes: int, slots: int) -> list[int]:
    """Number of episodes of each slot. slots = 0: one slot per episode, at most MAX_SLOTS. Never more slots than episodes."""
    slots = min(slots or MAX_SLOTS, episodes)
    return [episodes // slots + (slot < episodes % slots) for slot in range(slots)]


def play(
    agent: SavedAgent,
    spec: EnvSpec,
    task: str,
    config: EvaluateConfig,
    advance: Callable[[], object],
    prepare: PreparePolicy | None = None,
    warn: Callable[[str], object] = lambda sentence: None,
) -> Episodes:
    """Plays `config.episodes` episodes of one task.

    Slots that have reached their quota keep playing, uncounted, until all slots have. `advance` is called for each counted episode,
    `prepare` as in `make_actor`, `warn` with a sentence about instructions that the agent cannot read.

    Raises StoppedError if an episode does not end, an environment fails, or a slot's episodes are broken off one after the other.
    NoContextError if the task shows no context of the group `config.contexts`.
    """
    tally = _Tally(agent, spec, task, config)
    try:
        with contextlib.closing(make_actor(agent, spec, task, len(tally.quota), config, prepare)) as actor:
            tally.start(actor.first_episodes)
            state_size = actor.policy.core_state.shape[1]
            slots, seeds = len(tally.quota), actor.context_seeds
            trajectory = allocate(trajectory_spec(agent.env, _UNROLL_LENGTH, slots, state_size, context_seeds=seeds))
            unknown = UnknownInstructions(agent.config.env, seat(agent, spec, task)[0])
            while not tally.is_complete:
                actor.unroll(trajectory)
                for sentence in unknown.find_new(trajectory):
                    warn(sentence)
                tally.add(trajectory, actor.faults, advance)
    except NoContextError as error:
        raise NoContextError(str(error).replace("env.tasks", "tasks")) from error
    except InputError as error:
        raise StoppedError(str(error).replace("env.tasks", "tasks"), tally.episodes()) from error
    return tally.episodes()


class _Tally:
    """The episodes that the slots of one task have played, counted towards each slot's quota."""

    def __init__(self, agent: SavedAgent, spec: EnvSpec, task: str, config: EvaluateConfig) -> None:
        self.quota = np.array(quotas(config.episodes, config.slots))
        self._spec, self._task, self._seed, self._split = spec, task, config.seed, split_of(config)
        # Steps after which an episode counts as endless. A suite's limit in frames bounds its steps.
        self._limit = config.max_steps or max(MAX_STEPS, getattr(agent.config.env, "max_episode_frames", 0))
        self._played: list[list[Episode]] = [[] for _ in self.quota]
        self._interrupted = 0
        # By slot: counted episodes, the number of the current episode, its steps up to the last unroll without an end, and episodes broken
        # off since the last one that was not.
        self._counted, self._number, self._age, self._consecutive = np.zeros((4, len(self.quota)), np.int64)

    def start(self, first_episodes: NDArray[np.int64]) -> None:
        """Sets the number of each slot's first episode. Earlier numbers are episodes that were broken off at the start."""
        self._number[:] = first_episodes
        self._interrupted += int(first_episodes.sum())

    @property
    def is_complete(self) -> bool:
        return not (self._counted < self.quota).any()

    def episodes(self) -> Episodes:
        return Episodes(itertools.chain(*self._played), self._interrupted)

    def add(self, trajectory: Trajectory, faults: Sequence[Fault], advance: Callable[[], object]) -> None:
        """Counts the episodes that end in `trajectory`; `faults` are those of its unroll. Raises InputError if it must stop."""
        returns, lengths, successes, broken = (
            trajectory[key].numpy() for key in ("episode_return", "episode_length", "success", "interrupted")
        )
        ended = ~np.isnan(returns) | broken
        self._age = np.where(ended.any(axis=0), 0, self._age + _UNROLL_LENGTH)
        for t, slot in np.argwhere(ended):
            self._number[slot] += 1
            if self._counted[slot] == self.quota[slot]:
                continue
            if broken[t, slot]:
                self._count_broken_off(slot, faults)
                continue
            self._consecutive[slot] = 0
            if lengths[t, slot] > self._limit:
                raise self._endless()
            number = int(self._number[slot]) - 1
            is_seeded = number == 0 or self._spec.engine not in SEEDED_ONCE
            seed = episode_seed(self._seed, self._split, self._task, int(slot), number) if is_seeded else None
            outcome = float(returns[t, slot]), int(lengths[t, slot]), float(successes[t, slot])
            self._played[slot].append(Episode(seed, *outcome))
            self._counted[slot] += 1
            advance()
        if ((self._age > self._limit) & (self._counted < self.quota)).any():
            raise self._endless()

    def _count_broken_off(self, slot: int, faults: Sequence[Fault]) -> None:
        self._interrupted += 1
        self._consecutive[slot] += 1
        if self._consecutive[slot] == _BROKEN_OFF:
            raise InputError(
                f"tasks={self._task} gives numbers that are not finite in {_BROKEN_OFF} episodes of a slot running (the last: "
                f"{faults[-1].detail}): mend the environment, or leave the task out of tasks=."
            )

    def _endless(self) -> InputError:
        return InputError(
            f"tasks={self._task} has an episode that has not ended after max_steps={self._limit}: give a larger max_steps=, or leave "
            "the task out of tasks=."
        )


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"checkpoint {path} is damaged ({reason}): use an earlier one.")
