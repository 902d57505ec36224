"""What a runtime is: it carries trajectories to the learner and weights to the actors, and knows nothing of the algorithm.

A runtime calls `make_actor(index, positions, ...)` for each of its actors, wherever that actor lives, and again for one that it has to
start anew. It hands over batches of `batch_size` columns in the order in which unrolls are finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch

from agents.acting.actor import ActingPolicy, Actor
from agents.acting.policy import Policy
from agents.network.actions import ActionDistribution
from agents.network.agent import AgentNetwork
from agents.trajectory import PER_COLUMN, Trajectory
from envs.spec import ArraySpec


@dataclass(slots=True)
class StreamPositions:
    """Where the random streams of a run stand.

    Attributes:
        unrolls: by actor index, unrolls finished.
        episodes: by actor index, the episode number that each slot of the actor was in.
        steps: by task id, steps taken before the actors started.
    """

    unrolls: dict[int, int] = field(default_factory=dict)
    episodes: dict[int, list[int]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Batch:
    """One batch for the learner.

    Attributes:
        trajectory: [T+1, B] arrays; valid until the next `collect`.
        weights_versions: version of the weights that each unroll in it was begun with. With an inference server later steps may have
            been taken with newer ones, so policy lag is never understated.
        wait_seconds: time that `collect` waited for actors, or played their part itself.
        actor_seconds: time of the actors from the end of the unrolls before these to the end of these.
        env_seconds, inference_seconds, actor_wait_seconds: parts of it, spent in environments, in the policy, and waiting for a
            buffer, which is waiting for the learner.
    """

    trajectory: Trajectory
    weights_versions: list[int]
    wait_seconds: float
    actor_seconds: float
    env_seconds: float
    inference_seconds: float
    actor_wait_seconds: float


class MakeActor(Protocol):
    """Builds actor `index`; it must be picklable, for actors live in processes of their own.

    Its random streams begin where `positions` says, those of an actor that is not in it at 0. It acts with `policy` or, where that is
    None, with a Policy of its own for `network`: the learner's, or None for one of its own.
    """

    def __call__(
        self, index: int, positions: StreamPositions, network: AgentNetwork | None, policy: ActingPolicy | None = None
    ) -> Actor:
        """See the class."""


class MakePolicy(Protocol):
    """Builds the policy of an inference server, with its own network, for `slots` slots; it must be picklable."""

    def __call__(self, slots: int) -> Policy:
        """See the class."""


class ActorLimits(NamedTuple):
    """When a running actor is restarted.

    Attributes:
        hang_seconds: time without a step, or until it has started.
        memory_limit: resident memory of the actor and its descendants in MiB; 0 = no limit.
        recycle_episodes: episodes of all its slots together; 0 = no limit.
    """

    hang_seconds: float = math.inf
    memory_limit: int = 0
    recycle_episodes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """What the actors of a run need, in each kind of runtime; picklable. SerialRuntime reads the first four fields only.

    Attributes:
        make_actor: builds an actor.
        spec: arrays of one trajectory of one actor.
        num_actors: actors of the whole runtime.
        unrolls_per_batch: unrolls that form one batch.
        actions: action distribution of the network.
        actor_threads: compute threads of each actor.
        buffers_per_actor: trajectories that an actor may be ahead of the learner; bounds policy lag and memory.
        make_policy: builds the policy of an inference server; None: each actor has its own network.
        server_threads: compute threads of each inference server.
        limits: when a running actor is restarted.
    """

    make_actor: MakeActor
    spec: Mapping[str, ArraySpec]
    num_actors: int
    unrolls_per_batch: int
    actions: ActionDistribution
    actor_threads: int = 1
    buffers_per_actor: int = 2
    make_policy: MakePolicy | None = None
    server_threads: int = 1
    limits: ActorLimits = field(default_factory=ActorLimits)


def go_on() -> None:
    """Nothing speaks against waiting."""


class Runtime(Protocol):
    """The contract of `serial`, `local` and whatever comes after them."""

    positions: StreamPositions
    """Of everything handed over so far; goes into the checkpoint."""

    def collect(self, check: Callable[[], object] = go_on) -> Batch:
        """The next batch; waits for it.

        Where it waits for other processes it calls `check` about twice a second, or between two restarts. What that raises ends the wait,
        nothing is half done then, and `positions` are still those of what was handed over.

        An actor that dies, raises or hangs is started again and told to the run's Faults (agents/runtime/restarts.py); its unfinished
        unroll is
        dropped.

        Raises:
            ActorError: that happened too often, or an actor could not even be built before any unroll was finished.
            InputError: an actor found the configuration wrong.
        """

    def publish(self, version: int) -> None:
        """Makes the learner's present weights those of the next unrolls."""

    def state_dict(self) -> dict[str, Any] | None:
        """Tensors and plain data from which another runtime of this kind goes on bit for bit, or None where it or an environment
        cannot: after a resume every slot then begins its next episode (`positions`).
        """

    def processes(self) -> dict[str, int]:
        """Process ids of the actors, and of whatever serves them, by name."""

    def close(self) -> None:
        """Ends all actors; may be called twice."""


class ActorError(RuntimeError):
    """Actors, or the server that acts for them, raised or vanished, and starting them again does not help; the message holds the
    traceback or exit code of the last one.
    """


def allocate(spec: Mapping[str, ArraySpec]) -> Trajectory:
    """A trajectory in ordinary memory, zeroed."""
    return {key: torch.zeros(array.shape, dtype=getattr(torch, array.dtype)) for key, array in spec.items()}


def concatenate(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Joins trajectories along their columns: [T+1, b] each -> [T+1, B]. A single one is passed on as it is."""
    if len(trajectories) == 1:
        return trajectories[0]
    return {
        key: torch.cat([trajectory[key] for trajectory in trajectories], dim=0 if key in PER_COLUMN else 1)
        for key in trajectories[0]
    }
