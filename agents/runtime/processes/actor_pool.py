"""Actor processes on this machine, restarted when they fail: trajectories in shared memory, only indices in the pipes.

Each actor acts with its own network, or one server acts for all of them (inference_server.py).

Each actor has its own pipe, so no lock is shared and a process that dies affects no other: its pipe ends, which the pool sees at once. An
actor has its next buffer in the pipe while it fills one, so it waits only if the learner is slower.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from agents.runtime.base import ActorError, ErrorReport, PoolConfig, StreamPositions, never_interrupt
from agents.runtime.processes.actor_process import (
    ActorProcess,
    PoolMemory,
    ServerLost,
    Started,
    Unroll,
)
from agents.runtime.processes.buffers import HasParameters
from agents.runtime.processes.fork_server import fork_server_context
from agents.runtime.processes.inference_server import InferenceServer
from agents.runtime.restarts import Faults
from envs.faults import ASKED_FOR, Fault
from system.descendants import end_orphans
from system.memory import resident_memory

_JOIN_SECONDS = 5.0
"""Time in which actors and server end by themselves."""

_LOOK_SECONDS = 0.5
"""Seconds between two looks for actors that hang."""

_MEMORY_SECONDS = 5.0
"""Seconds between two readings of the actors' memory, each of which takes milliseconds."""


class ActorPool:
    """Actors, one process each, which are restarted when they die, raise, hang or exceed their limits.

    Args:
        config: of all actors of the run.
        network: from which `publish` copies; its weights have the number `version`.
        indices: of this pool's actors in the run. The pool calls them members and numbers them from 0.
        positions: where their random streams begin.
        faults: records every restart, and raises after too many.

    Attributes:
        buffers: the trajectories.
        ready: finished unrolls, in the order of arrival. The caller takes them and gives their buffers back.
    """

    def __init__(
        self,
        config: PoolConfig,
        network: HasParameters,
        indices: Sequence[int],
        positions: StreamPositions,
        *,
        version: int,
        faults: Faults,
    ) -> None:
        self._config, self._network, self._faults = config, network, faults
        self._indices = list(indices)
        self._context = fork_server_context()
        self._slots = config.spec["core_state"].shape[0]
        shapes = [parameter.shape for parameter in network.parameters()]
        self._memory = PoolMemory.allocate(config, len(self._indices), shapes)
        self.buffers = self._memory.buffers
        self.publish(version)
        self.ready: deque[Unroll] = deque()
        self._anything_finished = False
        self._actors: list[ActorProcess] = []
        self._server: InferenceServer | None = None
        self._looked = self._measured = time.monotonic()
        try:
            self._start_server()
            for member in range(len(self._indices)):
                self._actors.append(self._start_actor(member, positions))
                for number in range(member * config.buffers_per_actor, (member + 1) * config.buffers_per_actor):
                    self._actors[member].assign(number)
        except BaseException:
            self.close()
            raise

    def give_back(self, member: int, buffer: int) -> None:
        """Lets this actor fill the buffer again."""
        self._actors[member].assign(buffer)

    def publish(self, version: int) -> None:
        """Copies the network's weights into shared memory."""
        self._memory.weights.publish(self._network, version)

    def processes(self) -> dict[str, int]:
        """Process ids: `actor-<index>`, and `inference` if there is a server."""
        found = {f"actor-{actor.index}": actor.process.pid or 0 for actor in self._actors}
        return found | ({"inference": self._server.pid} if self._server else {})

    def close(self) -> None:
        """Asks the actors to end, kills those that do not, and then ends their server."""
        deadline = time.monotonic() + _JOIN_SECONDS
        for actor in self._actors:
            if actor.started:
                actor.retire("", "")
            else:
                # It still imports, and has nothing to clean up.
                actor.kill()
        for actor in self._actors:
            actor.process.join(max(0.0, deadline - time.monotonic()))
            actor.kill()
        if self._server:
            self._server.close(max(0.0, deadline - time.monotonic()))
        end_orphans()
        for actor in self._actors:
            actor.close()
        self._actors, self._server = [], None

    def _start_server(self) -> None:
        if self._config.make_policy:
            self._server = InferenceServer(
                self._context, self._config, self._memory.weights, num_actors=len(self._indices)
            )

    def _start_actor(self, member: int, positions: StreamPositions) -> ActorProcess:
        policy = self._server.connect(member) if self._server else None
        return ActorProcess(self._context, self._indices[member], member, self._config, positions, self._memory, policy)

    def wait(self, also: Connection | None = None, *, check: Callable[[], object] = never_interrupt) -> None:
        """Waits for a message or the end of a process, for something to read from `also`, or _LOOK_SECONDS. Handles all but `also`.

        `check` is called first, and before each restart (Runtime.collect).

        Raises:
            ActorError: there were too many restarts, or an actor could not be built before any unroll was finished.
            InputError: an actor rejected the configuration.
        """
        check()
        signs: dict[Any, ActorProcess] = {}
        for actor in self._actors:
            # The process as well as its pipe, because a process that the actor has left behind may hold the pipe open.
            signs |= {actor.connection: actor, actor.process.sentinel: actor}
        server = [self._server.connection] if self._server else []
        ready = wait([*signs, *server, *([also] if also else [])], _LOOK_SECONDS)
        if self._server and self._server.connection in ready:
            self._restart_server()
            return
        for actor in dict.fromkeys(signs[sign] for sign in ready if sign in signs):
            # It may need a restart. If `check` raises, the other messages stay in their pipes.
            check()
            if not self._handle(actor, ended=actor.process.sentinel in ready):
                # All actors were restarted, so `ready` is out of date.
                return
        self._look(check)

    def _handle(self, actor: ActorProcess, *, ended: bool) -> bool:
        """Handles an actor's messages, and its end; False if all actors were restarted."""
        try:
            last = self._receive(actor)
        except (EOFError, OSError):
            last, ended = None, True
        if isinstance(last, ServerLost):
            self._restart_server()
            return False
        if isinstance(last, ErrorReport):
            if not self._anything_finished:
                if last.is_input_error:
                    raise last.exception()
                if not actor.started:
                    raise ActorError(f"actor {actor.index} failed:\n{last.text}")
            self._restart(actor, "raised", last.text)
        elif ended:
            self._restart(actor, *actor.ending())
        return True

    def _receive(self, actor: ActorProcess) -> ErrorReport | ServerLost | None:
        """Takes in an actor's unrolls. Returns its last message, if that has come.

        Raises:
            EOFError, OSError: its pipe has ended.
        """
        while actor.connection.poll():
            message = actor.connection.recv()
            if isinstance(message, Unroll):
                filled = actor.assigned.popleft()
                assert filled == message.buffer
                actor.unrolls = message.unrolls
                self._anything_finished = True
                self.ready.append(message)
                for fault in message.faults:
                    lost = fault.cause not in ASKED_FOR
                    self._faults.add(f"an environment of actor {actor.index}", fault, episodes_dropped=int(lost))
            elif isinstance(message, Started):
                actor.start(message)
            else:
                last: ErrorReport | ServerLost = message
                return last
        return None

    def _end(self, actor: ActorProcess) -> None:
        """Kills an actor and its descendants, and takes in the unrolls that it had finished."""
        actor.kill()
        end_orphans()
        with contextlib.suppress(EOFError, OSError):
            self._receive(actor)

    def _look(self, check: Callable[[], object]) -> None:
        """Restarts actors that hang, and asks those to end that exceed a limit."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        hang_seconds, memory_limit, recycle_episodes = self._config.limits
        was_away = now - self._looked > hang_seconds / 2
        self._looked = now
        hung = [actor for actor in self._actors if actor.hangs(hang_seconds, was_away=was_away)]
        if hung and self._server and len(hung) == len(self._actors):
            self._restart_server(f"no actor has got an answer for {hang_seconds:g} seconds (runtime.hang_seconds)")
            return
        for actor in hung:
            check()
            detail = f"no step for {hang_seconds:g} seconds (runtime.hang_seconds){actor.stack()}"
            self._restart(actor, "hung", detail)
        if memory_limit and now - self._measured > _MEMORY_SECONDS:
            self._measured = now
            memory = resident_memory(actor.process.pid or 0 for actor in self._actors)
            for actor in self._actors:
                size = memory.get(actor.process.pid or 0, 0.0)
                if size > memory_limit and actor.started and not actor.retiring:
                    actor.retire("memory", f"{size:,.0f} MiB are more than runtime.memory_limit={memory_limit}")
        for actor in self._actors:
            if recycle_episodes and actor.episodes_played() >= recycle_episodes and not actor.retiring:
                actor.retire("recycled", f"{actor.episodes_played()} episodes (runtime.recycle_episodes)")

    def _restart(self, actor: ActorProcess, cause: str, detail: str) -> None:
        """Restarts an actor at the episodes after its current ones, and records the fault."""
        fault = Fault(actor.task(), cause, detail)
        self._end(actor)
        self._faults.add(
            f"actor {actor.index}",
            fault,
            unrolls_dropped=int(actor.unfinished),
            episodes_dropped=self._slots if actor.started else 0,
        )
        self._replace(actor)

    def _replace(self, actor: ActorProcess) -> None:
        """Starts the successor of an actor that has ended, with the buffers that it has not filled."""
        actor.close()
        successor = self._start_actor(actor.member, actor.next_positions())
        self._actors[actor.member] = successor
        for number in actor.assigned:
            successor.assign(number)

    def _restart_server(self, hang: str = "") -> None:
        """Restarts the inference server and all actors, whose core states are lost. `hang` describes a hang; "" if the server ended."""
        assert self._server
        cause, detail = ("hung", hang) if hang else self._server.ending(_JOIN_SECONDS)
        if cause == "raised" and not self._anything_finished:
            raise ActorError(f"the inference server failed:\n{detail}")
        for actor in self._actors:
            self._end(actor)
        self._server.close(0.0)
        started = [actor for actor in self._actors if actor.started]
        self._faults.add(
            "the inference server",
            Fault("", cause, detail),
            unrolls_dropped=sum(actor.unfinished for actor in started),
            episodes_dropped=self._slots * len(started),
        )
        self._start_server()
        for actor in list(self._actors):
            self._replace(actor)
