"""One actor in its own process: its main function, its messages, and the learner's handle of the process."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from agents.acting.heartbeat import Heartbeat
from agents.acting.policy import Policy
from agents.runtime.base import Batch, PoolConfig, StreamPositions
from agents.runtime.processes import fork_server
from agents.runtime.processes.buffers import AnonymousFile, SharedArrays, SharedWeights
from agents.runtime.processes.inference_server import InferenceServerError, RemotePolicy
from agents.runtime.processes.process import kill_with_descendants
from agents.trajectory import concatenate
from envs.faults import Fault
from system.imports import without_collection

_START_SECONDS = 300.0
"""Time that an actor may take to start, even if `hang_seconds` is shorter."""

_STACKS_SIGNAL = signal.SIGVTALRM
"""Makes an actor write its Python stacks and end. None of SIGNALS (agents/cli/signals.py), which may reach the whole process group."""

_STACKS_SECONDS = 1.0
"""Time that an actor has to write its stacks."""


class Started(NamedTuple):
    """An actor's first message: its environments are built. `tasks` are names by task id."""

    tasks: tuple[str, ...]


class Unroll(NamedTuple):
    """An actor's message: an unroll is finished, and its trajectory is in buffer `buffer` of its pool, or of a cluster's learner.

    Attributes:
        actor, member: Index of the actor in the run, and in its pool.
        unrolls: Unrolls that this actor and its predecessors have finished.
        episodes: The episode that each slot is in.
        weights_version: Version of the weights at its first step.
        actor_seconds: From the end of the unroll before to the end of this one; for its parts see Batch.
        faults: Actor.faults.
    """

    actor: int
    member: int
    buffer: int
    unrolls: int
    episodes: list[int]
    weights_version: int
    actor_seconds: float
    env_seconds: float
    inference_seconds: float
    actor_wait_seconds: float
    faults: list[Fault]


def collect_batch(
    ready: deque[Unroll], buffers: SharedArrays, count: int, positions: StreamPositions, wait: Callable[[], None]
) -> tuple[list[Unroll], Batch]:
    """Takes `count` unrolls from `ready`, calls `wait` until there are so many, and advances `positions`. Returns them and their batch."""
    start = time.perf_counter()
    while len(ready) < count:
        wait()
    waited = time.perf_counter() - start
    unrolls = [ready.popleft() for _ in range(count)]
    for unroll in unrolls:
        positions.unrolls[unroll.actor] = unroll.unrolls
        positions.episodes[unroll.actor] = unroll.episodes
    return unrolls, Batch(
        trajectory=concatenate([buffers[unroll.buffer] for unroll in unrolls]),
        weights_versions=[unroll.weights_version for unroll in unrolls],
        wait_seconds=waited,
        **total_seconds(unrolls),
    )


def total_seconds(parts: Sequence[Unroll | Batch]) -> dict[str, float]:
    """The summed times of actors, as arguments of Batch."""
    names = ("actor_seconds", "env_seconds", "inference_seconds", "actor_wait_seconds")
    return {name: sum(getattr(part, name) for part in parts) for name in names}


class PoolMemory(NamedTuple):
    """Memory that the actors of a pool share with its parent process: trajectories, weights, and the heartbeat of each."""

    buffers: SharedArrays
    weights: SharedWeights
    heartbeats: SharedArrays


class ActorProcess:
    """The handle of one actor, from its start to its end.

    Args:
        index, member: Of the actor in the run, and in its pool.
        positions: Where its random streams begin.
        policy: Of its inference server, or None.

    Attributes:
        connection: Receives its messages and sends it buffer indices.
        assigned: Buffers that it has been given and has not filled, in order.
        unrolls: Unrolls that it and its predecessors have finished.
        tasks: Names by task id; empty until it has started.
        retiring: Cause and detail of the request to end; None without one.
    """

    def __init__(
        self,
        index: int,
        member: int,
        config: PoolConfig,
        positions: StreamPositions,
        memory: PoolMemory,
        policy: RemotePolicy | None,
    ) -> None:
        self.index, self.member, self.positions = index, member, positions
        self.assigned: deque[int] = deque()
        self.unrolls = positions.unrolls.get(index, 0)
        self.tasks: Sequence[str] = ()
        self.retiring: tuple[str, str] | None = None
        self.heartbeat = Heartbeat(memory.heartbeats[member])
        self.heartbeat.reset()
        self._beats, self._alive_at = 0, time.monotonic()
        self._first_episodes: list[int] | None = None
        self._stacks = AnonymousFile()
        arguments = config, index, member, positions, self._stacks, memory, policy
        self.process, self.connection = fork_server.start_child(
            f"actor-{index}", _run_actor, *arguments, threads=config.actor_threads
        )
        if policy:
            # If this process kept its copy open, the pipe would not end with the actor.
            policy.connection.close()

    @property
    def started(self) -> bool:
        """Whether its environments are built."""
        return bool(self.tasks)

    def assign(self, number: int) -> None:
        """Gives it buffer `number` to fill."""
        if not self.assigned:
            # An idle actor makes no steps: its time without one begins now.
            self._alive_at = time.monotonic()
        self.assigned.append(number)
        self._send(number)

    def retire(self, cause: str, detail: str) -> None:
        """Asks it to end after it has filled its buffers."""
        self.retiring = cause, detail
        self._send(None)

    def start(self, message: Started) -> None:
        """Takes in the actor's first message."""
        self.tasks = message.tasks
        self._first_episodes = self.heartbeat.episodes.tolist()

    def episodes_played(self) -> int:
        """Episodes of all its slots since it started."""
        return int(self.heartbeat.episodes.sum()) - sum(self._first_episodes) if self._first_episodes else 0

    def hangs(self, seconds: float, *, was_away: bool) -> bool:
        """Whether it has buffers to fill and has made no step for `seconds`. `was_away`: this process was stopped; counts from now."""
        beats, now = self.heartbeat.beats, time.monotonic()
        idle = self.started and not self.assigned and not self.retiring
        if beats != self._beats or was_away or idle:
            self._beats, self._alive_at = beats, now
        return now - self._alive_at > (seconds if self.started else max(seconds, _START_SECONDS))

    @property
    def unfinished(self) -> bool:
        """Whether it has ended within an unroll."""
        return self.started and bool(self.assigned) and not self.retired

    @property
    def retired(self) -> bool:
        """Whether it has ended because of `retire`."""
        return self.retiring is not None and self.process.exitcode == 0

    def next_positions(self) -> StreamPositions:
        """Where its successor begins: no unroll's stream and no episode is used twice, not even of an unfinished unroll."""
        if self.heartbeat.beats:
            last = self.heartbeat.episodes.tolist()
        else:
            # It did not even reset its environments. Its first episodes may be the reason, so skip them.
            first = self.positions.episodes.get(self.index, [-1] * len(self.heartbeat.episodes))
            last = [episode + 1 for episode in first]
        return StreamPositions(
            unrolls={self.index: self.unrolls + self.unfinished},
            episodes={self.index: last},
            steps=self.positions.steps,
        )

    def task(self) -> str:
        """The task that it played last; "" if unknown."""
        return self.heartbeat.task(self.tasks) if self.started else ""

    def ending(self) -> tuple[str, str]:
        """Cause and description of its end, after its process or its pipe has ended."""
        cause, detail = fork_server.ending(self.process)
        if self.retired and self.retiring:
            return self.retiring
        return cause, f"{detail}{self._written_stacks()}"

    def stack(self) -> str:
        """Ends an actor that hangs. Returns its Python stacks, as far as it could write them."""
        pid = self.process.pid
        assert pid

        def write() -> None:
            os.kill(pid, _STACKS_SIGNAL)
            self.process.join(_STACKS_SECONDS)

        kill_with_descendants(pid, write)
        return self._written_stacks() or " (its stacks are unknown)"

    def _send(self, message: int | None) -> None:
        # The pool notices a dead actor when it reads the pipe.
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def _written_stacks(self) -> str:
        text = self._stacks.text()
        return f"\n{text}" if text else ""


def _run_actor(
    connection: Connection,
    config: PoolConfig,
    index: int,
    member: int,
    positions: StreamPositions,
    stacks: AnonymousFile,
    memory: PoolMemory,
    policy: RemotePolicy | None,
) -> None:
    """Main function of an actor process. It receives the indices of buffers to fill, or None to end."""
    # faulthandler writes from C, so that it works inside an engine, after a segmentation fault and in a hang.
    faulthandler.enable(stacks.descriptor)
    # `chain`: afterwards the signal's default action ends the process.
    faulthandler.register(_STACKS_SIGNAL, stacks.descriptor, chain=True)
    # For a user who asks an actor where it is; shown with the actor's end.
    faulthandler.register(signal.SIGUSR1, stacks.descriptor)
    try:
        with without_collection():
            # Imports the engine.
            actor = config.make_actor(index, positions, None, policy)
        actor.attach_heartbeat(Heartbeat(memory.heartbeats[member]))
        connection.send(Started(actor.env.spec_of_suite.tasks))
        version = -1
        free = time.perf_counter()
        while (number := connection.recv()) is not None:
            received = time.perf_counter()
            if policy is None and memory.weights.version != version:
                assert isinstance(actor.policy, Policy)
                version = memory.weights.read(actor.policy.network)
                actor.policy.weights_changed()
            buffer = memory.buffers[number]
            actor.unroll(buffer)
            if policy:
                version = policy.weights_version
            ended = time.perf_counter()
            connection.send(
                Unroll(
                    actor=index,
                    member=member,
                    buffer=number,
                    unrolls=actor.unrolls,
                    episodes=buffer["episode"].tolist(),
                    weights_version=version,
                    actor_seconds=ended - free,
                    env_seconds=actor.env_seconds,
                    inference_seconds=actor.inference_seconds,
                    actor_wait_seconds=received - free,
                    faults=actor.faults,
                )
            )
            free = ended
        actor.close()
    except InferenceServerError:
        # The learner notices the server's end itself, and then ends this process.
        while connection.recv() is not None:
            pass
