"""The contract of a runtime, which carries trajectories to the learner and weights to the actors. It does not know the algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from envs.spec import ArraySpec
from system.errors import RunError

if TYPE_CHECKING:
    # They import torch, which the start of the fork server does not wait for.
    from agents.acting.actor import ActingPolicy, Actor
    from agents.acting.policy import Policy
    from agents.network.actions import ActionDistribution
    from agents.network.agent import AgentNetwork
    from agents.trajectory import Trajectory


@dataclass(slots=True)
class StreamPositions:
    """How far the random streams of a run have been used.

    Attributes:
        unrolls: Finished unrolls, by actor index.
        episodes: The number of the episode that each slot is in, by actor index.
        steps: Steps before the actors started, by task id.
    """

    unrolls: dict[int, int] = field(default_factory=dict)
    episodes: dict[int, list[int]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)

    def of(self, numbers: Mapping[int, int]) -> StreamPositions:
        """The positions of some actors: `numbers` has the index of each here, by its index in the result."""
        return StreamPositions(
            {index: self.unrolls[number] for index, number in numbers.items() if number in self.unrolls},
            {index: self.episodes[number] for index, number in numbers.items() if number in self.episodes},
            dict(self.steps),
        )


@dataclass(kw_only=True, slots=True)
class Batch:
    """One batch for the learner.

    Attributes:
        trajectory: [T+1, B] arrays; valid until the next `collect`.
        weights_versions: Version of the weights at the first step of each unroll. An inference server may use newer ones in later steps,
            so the policy lag computed from it is an upper bound.
        wait_seconds: Time that `collect` waited for actors; of SerialRuntime, the time in which it acted.
        actor_seconds: Time of the actors, from the end of their previous unrolls to the end of these.
        env_seconds, inference_seconds, actor_wait_seconds: Parts of it: in environments, in the policy, and waiting for a free buffer,
            that is for the learner.
    """

    trajectory: Trajectory
    weights_versions: list[int]
    wait_seconds: float
    actor_seconds: float
    env_seconds: float
    inference_seconds: float
    actor_wait_seconds: float


class MakeActor(Protocol):
    """Builds actor `index`, at the start and for each restart; picklable, because it is called in the actor's process.

    The random streams of an actor that is not in `positions` begin at 0. The actor acts with `policy`. If that is None it makes a Policy
    for `network`, the learner's; if that is None, too, it builds its own network.
    """

    def __call__(
        self, index: int, positions: StreamPositions, network: AgentNetwork | None, policy: ActingPolicy | None = None
    ) -> Actor:
        """See the class."""


class ActorLimits(NamedTuple):
    """When a running actor is restarted.

    Attributes:
        hang_seconds: Time without a step, or until it has started.
        memory_limit: Resident memory of the actor and its descendants in MiB; 0 = no limit.
        recycle_episodes: Episodes of all its slots together; 0 = no limit.
    """

    hang_seconds: float = math.inf
    memory_limit: int = 0
    recycle_episodes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """What the actors of a run need, in each kind of runtime; picklable. SerialRuntime reads the first four fields only.

    Attributes:
        spec: Arrays of one trajectory of one actor.
        num_actors: Actors of the whole runtime.
        unrolls_per_batch: Unrolls that form one batch.
        actor_threads: Compute threads of each actor and of each inference server.
        buffers_per_actor: Trajectories that an actor may be ahead of the learner; bounds policy lag and memory.
        make_policy: Builds the policy of an inference server, with its own network, for so many slots; picklable. None: no server.
    """

    make_actor: MakeActor
    spec: Mapping[str, ArraySpec]
    num_actors: int
    unrolls_per_batch: int
    actions: ActionDistribution
    actor_threads: int = 1
    buffers_per_actor: int = 2
    make_policy: Callable[[int], Policy] | None = None
    limits: ActorLimits = field(default_factory=ActorLimits)


def never_interrupt() -> None:
    """The default `check` of `collect`: never raises."""


class Runtime(Protocol):
    """The contract of all runtimes.

    Each is made of a PoolConfig, the learner's network, `positions`, where the random streams begin, `version`, of the network's weights,
    and `faults`, which records every restart and raises after too many; None raises at the first one.
    """

    positions: StreamPositions
    """After the batches collected so far; saved in the checkpoint."""

    def collect(self, check: Callable[[], object] = never_interrupt) -> Batch:
        """Waits for the next batch.

        While it waits for other processes it calls `check` about twice a second, and before each restart. An exception of `check` ends the
        wait; no unroll is lost, and `positions` do not change.

        An actor that dies, raises or hangs is restarted and recorded in the run's Faults (agents/runtime/restarts.py). Its unfinished
        unroll is dropped.

        Raises:
            ActorError: There were too many restarts, or an actor could not be built before any unroll was finished.
            InputError: An actor rejected the configuration.
        """

    def publish(self, version: int) -> None:
        """Gives the learner's current weights to the next unrolls, as number `version`."""

    def state_dict(self) -> dict[str, Any] | None:
        """Tensors and plain data from which a runtime of this kind resumes bit for bit. None if the runtime or an environment cannot: after
        a resume each slot then starts its next episode (`positions`).
        """

    def processes(self) -> dict[str, int]:
        """Process ids of the actors and of their servers, by name."""

    def close(self) -> None:
        """Ends all actors. May be called twice."""


class ActorError(RunError):
    """Actors or their server failed, and restarts do not help. The message holds the traceback or exit code of the last failure."""
