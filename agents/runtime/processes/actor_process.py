"""One actor in a process of its own: its main function, its messages, and the process as the learner sees it."""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, NamedTuple

import numpy as np

from agents.acting.heartbeat import Heartbeat
from agents.acting.policy import Policy
from agents.cli.signals import end_with_the_parent
from agents.runtime.base import Batch, MakeActor, StreamPositions, concatenate
from agents.runtime.processes.buffers import SharedWeights, TrajectoryBuffers
from agents.runtime.processes.inference_server import InferenceClient, InferenceServerError
from agents.runtime.processes.process import (
    SAVING_SECONDS,
    configure_process,
    kill,
    leave_signals_to_the_learner,
    start,
)
from agents.runtime.processes.shared_memory import SharedMemory
from agents.trajectory import Trajectory
from envs.faults import Fault, signal_name
from system.descendants import own
from system.errors import InputError

_ENDING_SECONDS = 5.0
"""Time in which a process whose pipe is at its end has ended."""

_START_SECONDS = 300.0
"""Time that an actor may take to start, however short `hang_seconds` is."""

_STACK_SECONDS = 1.0
"""Time in which a process that can still run Python, and many that cannot, write where they are."""

_AT_ONCE = 0.05
"""Seconds in which the next line follows."""

_ENDS_OF_STACKS = ("in <module>\n", "  ...\n")
"""Of what faulthandler writes: where the main thread has begun, or that there would be more."""


class Started(NamedTuple):
    """An actor's first message: its environments are there. `tasks` are their names by task id."""

    tasks: tuple[str, ...]


class Finished(NamedTuple):
    """An actor's message: buffer `buffer` is full. `faults`: Actor.faults."""

    buffer: int
    weights_version: int
    unrolls: int
    seconds: float
    env_seconds: float
    inference_seconds: float
    wait_seconds: float
    faults: list[Fault]


def batch_of(trajectories: Sequence[Trajectory], finished: Sequence[Finished], waited: float) -> Batch:
    """The batch of these unrolls, for which the learner has waited so many seconds; `finished[i]` is what was said of `trajectories[i]`."""
    return Batch(
        trajectory=concatenate(trajectories),
        weights_versions=[one.weights_version for one in finished],
        wait_seconds=waited,
        actor_seconds=sum(one.seconds for one in finished),
        env_seconds=sum(one.env_seconds for one in finished),
        inference_seconds=sum(one.inference_seconds for one in finished),
        actor_wait_seconds=sum(one.wait_seconds for one in finished),
    )


class Failed(NamedTuple):
    """An actor's last message: the traceback of what it raised, or the sentence of an InputError."""

    error: str
    is_input_error: bool


class Abandoned(NamedTuple):
    """An actor's last message: the inference server is gone."""


class Supervision(NamedTuple):
    """When an actor is started again.

    Attributes:
        hang_seconds: without a sign of life, or until it has started.
        memory_limit: MiB of resident memory of it and its processes; 0 = none.
        recycle_episodes: of all its slots together; 0 = never.
    """

    hang_seconds: float = math.inf
    memory_limit: int = 0
    recycle_episodes: int = 0


class Pulses:
    """The heartbeats of all actors, in shared memory; `heartbeats[i]` is that of actor i."""

    def __init__(self, num_actors: int, slots: int, memory: SharedMemory | None = None) -> None:
        self._num_actors, self._slots = num_actors, slots
        self._memory = memory or SharedMemory(num_actors * Heartbeat.size(slots) * 8)
        rows = self._memory.bytes.numpy().view(np.int64).reshape(num_actors, -1)
        self._pulses = [Heartbeat(slots, row) for row in rows]

    def __getitem__(self, index: int) -> Heartbeat:
        return self._pulses[index]

    def __reduce__(self) -> Any:
        return Pulses, (self._num_actors, self._slots, self._memory)


class ActorProcess:
    """An actor as the learner sees it, from its start to its end.

    Args:
        context: starts processes.
        index: of the actor among all of the run.
        place: of the actor among those that share heartbeats and a server.
        make_actor, positions: see runtime/base.py.
        buffers, weights, heartbeats: shared.
        client: of the server that acts for it, or None.
        threads: its compute threads.

    Attributes:
        connection: carries its messages, and numbers of buffers to it.
        process: the multiprocessing process.
        positions: where its random streams began.
        heartbeat: what it shows of its life.
        assigned: buffers that it has been given and has not filled, in order.
        unrolls: that it, and those before it, have finished.
        tasks: names by task id; none before it has started.
        retiring: why it was asked to end, cause and detail; None if it was not.
    """

    def __init__(
        self,
        context: ForkServerContext,
        index: int,
        place: int,
        make_actor: MakeActor,
        positions: StreamPositions,
        buffers: TrajectoryBuffers,
        weights: SharedWeights,
        heartbeats: Pulses,
        client: InferenceClient | None,
        threads: int,
    ) -> None:
        self.index, self.place, self.positions = index, place, positions
        self.assigned: deque[int] = deque()
        self.unrolls = positions.unrolls.get(index, 0)
        self.tasks: Sequence[str] = ()
        self.retiring: tuple[str, str] | None = None
        self.heartbeat = heartbeats[place]
        self.heartbeat.reset()
        self._beats, self._alive_at = 0, time.monotonic()
        self._first_episodes: list[int] | None = None
        self.connection, theirs = context.Pipe()
        self._last_words, writer = context.Pipe(duplex=False)
        os.set_blocking(self._last_words.fileno(), False)
        self.process = context.Process(
            target=_run_actor,
            args=(make_actor, index, place, positions, theirs, writer, buffers, weights, heartbeats, client, threads),
            name=f"actor-{index}",
            daemon=True,
        )
        start(self.process)
        # Without these copies the pipes end with the actor.
        theirs.close()
        writer.close()
        if client:
            client.connection.close()

    @property
    def started(self) -> bool:
        """Whether its environments are there."""
        return bool(self.tasks)

    def assign(self, number: int) -> None:
        """Gives it a buffer to fill."""
        if not self.assigned:
            # It was idle, and owed no sign of life.
            self._alive_at = time.monotonic()
        self.assigned.append(number)
        self._send(number)

    def retire(self, cause: str, detail: str) -> None:
        """Asks it to end as soon as it has filled the buffers that it has."""
        self.retiring = cause, detail
        self._send(None)

    def start(self, message: Started) -> None:
        """Takes in that its environments are there."""
        self.tasks = message.tasks
        self._first_episodes = self.heartbeat.episodes.tolist()

    def episodes_played(self) -> int:
        """By all of its slots, since it started."""
        return int(self.heartbeat.episodes.sum()) - sum(self._first_episodes) if self._first_episodes else 0

    def hangs(self, seconds: float, *, was_away: bool) -> bool:
        """Whether it has made no step for so long although it had something to do. `was_away`: nobody could have seen one."""
        beats, now = self.heartbeat.beats, time.monotonic()
        idle = self.started and not self.assigned and not self.retiring
        if beats != self._beats or was_away or idle:
            self._beats, self._alive_at = beats, now
        return now - self._alive_at > (seconds if self.started else max(seconds, _START_SECONDS))

    @property
    def unfinished(self) -> bool:
        """Whether an unroll of it was begun and will not come."""
        return self.started and bool(self.assigned) and not self.retired

    @property
    def retired(self) -> bool:
        """Whether it has ended as it was asked to."""
        return self.retiring is not None and self.process.exitcode == 0

    def next_positions(self) -> StreamPositions:
        """Where the one after it begins: no unroll's stream and no episode is begun twice, those of the unfinished unroll included."""
        if self.heartbeat.beats:
            last = self.heartbeat.episodes.tolist()
        else:
            # It never came so far as to play the episodes that it should have begun with. They may be what it failed at.
            last = [
                episode + 1 for episode in self.positions.episodes.get(self.index, [-1] * len(self.heartbeat.episodes))
            ]
        return StreamPositions(
            unrolls={self.index: self.unrolls + self.unfinished},
            episodes={self.index: last},
            steps=self.positions.steps,
        )

    def task(self) -> str:
        """The task that it was busy with, as far as that is known."""
        return self.heartbeat.task(self.tasks) if self.started else ""

    def ending(self) -> tuple[str, str]:
        """Cause and detail of the end of a process that is gone, or whose pipe is."""
        self.process.join(_ENDING_SECONDS)
        if self.retired and self.retiring:
            return self.retiring
        code = self.process.exitcode
        if code is None:
            return "exited", f"it hung up and was still running{self._words()}"
        if code < 0:
            return "killed", f"{signal_name(-code)}{self._words()}"
        return "exited", f"exit code {code}{self._words()}"

    def stack(self) -> str:
        """Where the Python code of a process that hangs stands, if it can still say so."""
        assert self.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGUSR1)
        until, text = time.monotonic() + _STACK_SECONDS, ""
        # It comes line by line, the main thread last. A module that is being imported ends a line alike, and more follows at once.
        while self._last_words.poll(_AT_ONCE if text.endswith(_ENDS_OF_STACKS) else max(0.0, until - time.monotonic())):
            if not (part := self._read_words()):
                break
            text += part
        return _below(text) or " (and did not say where)"

    def kill(self) -> None:
        """Ends it and every process that it has started, whatever they are doing."""
        kill(self.process)

    def close(self) -> None:
        """Frees the pipes of a process that has ended."""
        self.connection.close()
        self._last_words.close()

    def _send(self, message: int | None) -> None:
        # An actor that is gone is noticed when its pipe is read.
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def _words(self) -> str:
        """What faulthandler wrote, of a process that has ended."""
        return _below(self._read_words())

    def _read_words(self) -> str:
        """As far as it is there."""
        try:
            return os.read(self._last_words.fileno(), 2**16).decode(errors="replace")
        except BlockingIOError:
            return ""


def _below(text: str) -> str:
    """On lines of its own."""
    return f"\n{text.strip()}" if text.strip() else ""


def _run_actor(
    make_actor: MakeActor,
    index: int,
    place: int,
    positions: StreamPositions,
    connection: Connection,
    last_words: Connection,
    buffers: TrajectoryBuffers,
    weights: SharedWeights,
    heartbeats: Pulses,
    client: InferenceClient | None,
    threads: int,
) -> None:
    """Main function of an actor process: a buffer number in, the same number out when it is full, None to end."""
    end_with_the_parent()
    own()
    leave_signals_to_the_learner(patience=SAVING_SECONDS)
    # Written by the C code that catches the signal, so that a segmentation fault or a hang inside an engine tells where it was.
    faulthandler.enable(last_words.fileno())
    faulthandler.register(signal.SIGUSR1, last_words.fileno())
    configure_process(threads)
    try:
        remote = client.policy() if client else None
        actor = make_actor(index, positions, None, remote)
        actor.attach_heartbeat(heartbeats[place])
        connection.send(Started(actor.env.spec_of_suite.tasks))
        version = -1
        free = time.perf_counter()
        while (number := connection.recv()) is not None:
            began = time.perf_counter()
            if remote is None and weights.version != version:
                assert isinstance(actor.policy, Policy)
                version = weights.read(actor.policy.network)
                actor.policy.weights_changed()
            actor.unroll(buffers[number])
            if remote:
                version = remote.weights_version
            ended = time.perf_counter()
            connection.send(
                Finished(
                    number,
                    version,
                    actor.unrolls,
                    seconds=ended - free,
                    env_seconds=actor.env_seconds,
                    inference_seconds=actor.inference_seconds,
                    wait_seconds=began - free,
                    faults=actor.faults,
                )
            )
            free = ended
        actor.close()
    except InferenceServerError:
        with contextlib.suppress(OSError):
            connection.send(Abandoned())
    except Exception as error:
        is_input_error = isinstance(error, InputError)
        # If the learner is gone, there is nobody to tell.
        with contextlib.suppress(OSError):
            connection.send(Failed(str(error) if is_input_error else traceback.format_exc(), is_input_error))
