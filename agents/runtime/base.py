"""What a runtime is: it carries trajectories to the learner and weights to the actors, and knows nothing of the algorithm.

A runtime calls `make_actor(index, positions, ...)` for each of its actors, wherever that actor lives, and again for one that it has to
start anew. It hands over batches of `batch_size` columns in the order in which unrolls are finished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from agents.acting.actor import ActingPolicy, Actor
from agents.network.agent import AgentNetwork
from agents.trajectory import Trajectory


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
