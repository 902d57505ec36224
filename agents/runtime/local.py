"""Actor processes on this machine, restarted when they fail: trajectories in shared memory, only indices in the pipes.

Each actor acts with its own network, or one server acts for all of them (processes/inference_server.py).

Each actor has its own pipe, so the actors share no lock, and a process that dies cannot block another. The pool sees the end of its pipe
at once. While an actor fills a buffer, the index of the next one is in the pipe already, so an actor waits only for a slower learner.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from torch import nn

from agents.acting.heartbeat import heartbeat_spec
from agents.runtime.base import ActorError, Batch, PoolConfig, StreamPositions, never_interrupt
from agents.runtime.processes.actor_process import ActorProcess, PoolMemory, Started, Unroll, collect_batch
from agents.runtime.processes.buffers import SharedArrays, SharedWeights
from agents.runtime.processes.fork_server import kill
from agents.runtime.processes.inference_server import InferenceServer
from agents.runtime.restarts import Faults
from envs.faults import ASKED_FOR, Fault
from system.descendants import end_orphans
from system.errors import ErrorReport
from system.memory import resident_memory
from system.words import count

_JOIN_SECONDS = 5.0
"""Time for actors and server to end before they are killed."""

_CHECK_SECONDS = 0.5
"""Seconds between two checks of the actors' limits, and the longest wait for a message."""

_MEMORY_SECONDS = 5.0
"""Seconds between two readings of the actors' memory, each of which takes milliseconds."""


class LocalRuntime:
    """Actors, one process each, which are restarted when they die, raise, hang or exceed their limits.

    A group of a cluster (ray_groups/actor_group.py) does not call `collect`, but `wait`, and takes the unrolls from `ready`.

    Args:
        indices: Indices of these actors in the run; None: all. Here an actor is called a member; members are numbered from 0.

    Attributes:
        buffers: The trajectories.
        ready: Finished unrolls, in the order of arrival.
    """

    def __init__(
        self,
        config: PoolConfig,
        network: nn.Module,
        *,
        indices: Sequence[int] | None = None,
        positions: StreamPositions | None = None,
        version: int = 0,
        faults: Faults | None = None,
    ) -> None:
        self.positions = positions or StreamPositions()
        self._config, self._network, self._faults = config, network, faults or Faults()
        self._indices = range(config.num_actors) if indices is None else indices
        self._slots = config.spec["core_state"].shape[0]
        self._memory = PoolMemory(
            SharedArrays(config.spec, len(self._indices) * config.buffers_per_actor),
            SharedWeights([parameter.shape for parameter in network.parameters()]),
            SharedArrays(heartbeat_spec(self._slots), len(self._indices)),
        )
        self.buffers = self._memory.buffers
        self.publish(version)
        self.ready: deque[Unroll] = deque()
        self._collected: list[Unroll] = []
        self._anything_finished = False
        self._actors: list[ActorProcess] = []
        self._server: InferenceServer | None = None
        self._checked_at = self._memory_read_at = time.monotonic()
        try:
            self._start_server()
            for member in range(len(self._indices)):
                self._actors.append(self._start_actor(member, self.positions))
                for buffer in range(member * config.buffers_per_actor, (member + 1) * config.buffers_per_actor):
                    self._actors[member].assign(buffer)
        except BaseException:
            self.close()
            raise

    def collect(self, check: Callable[[], object] = never_interrupt) -> Batch:
        """Gives the buffers of the last batch back to their actors, and waits for the next unrolls in the order of their arrival."""
        for unroll in self._collected:
            self.give_back(unroll.member, unroll.buffer)
        self._collected = []
        count = self._config.unrolls_per_batch
        self._collected, batch = collect_batch(
            self.ready, self.buffers, count, self.positions, lambda: self.wait(check=check)
        )
        return batch

    def give_back(self, member: int, buffer: int) -> None:
        """Assigns a buffer to its actor again, after the caller has read it."""
        self._actors[member].assign(buffer)

    def publish(self, version: int) -> None:
        """Copies the network's weights into shared memory."""
        self._memory.weights.publish(self._network, version)

    def state_dict(self) -> None:
        """None: the actors are always within an unroll."""

    def processes(self) -> dict[str, int]:
        """Process ids: `actor-<index>`, and `inference` if there is a server."""
        found = {f"actor-{actor.index}": actor.process.pid or 0 for actor in self._actors}
        return found | ({"inference": self._server.pid} if self._server else {})

    def close(self) -> None:
        """Asks the actors to end, kills the late ones, and then ends their server."""
        deadline = time.monotonic() + _JOIN_SECONDS
        for actor in self._actors:
            if actor.started:
                actor.retire("", "")
            else:
                # It still imports, and has nothing to clean up.
                kill(actor.process)
        for actor in self._actors:
            actor.process.join(max(0.0, deadline - time.monotonic()))
            kill(actor.process)
        if self._server:
            self._server.close(max(0.0, deadline - time.monotonic()))
        end_orphans()
        for actor in self._actors:
            actor.connection.close()
        self._actors, self._server = [], None

    def _start_server(self) -> None:
        """Starts the inference server, if there is one and it does not run."""
        if self._config.make_policy and self._server is None:
            self._server = InferenceServer(self._config, self._memory.weights, num_actors=len(self._indices))

    def _start_actor(self, member: int, positions: StreamPositions) -> ActorProcess:
        policy = self._server.connect(member) if self._server else None
        return ActorProcess(self._indices[member], member, self._config, positions, self._memory, policy)

    def wait(self, also: Connection | None = None, *, check: Callable[[], object] = never_interrupt) -> None:
        """Waits for actors and server, then handles their messages and ends, and the actors' limits.

        The wait ends at a message, at the end of a process, when `also` is readable (which the caller reads), or after _CHECK_SECONDS.

        It calls `check` first, and before each restart, and raises as Runtime.collect does.
        """
        check()
        sources: dict[Any, ActorProcess] = {}
        for actor in self._actors:
            # The process as well as its pipe, because an orphan of the actor may hold the pipe open after its end.
            sources |= {actor.connection: actor, actor.process.sentinel: actor}
        # Readable only after the server has failed or ended.
        server = [self._server.connection] if self._server else []
        ready = wait([*sources, *server, *([also] if also else [])], _CHECK_SECONDS)
        if self._server and self._server.connection in ready:
            self._restart_server()
            return
        for actor in dict.fromkeys(sources[source] for source in ready if source in sources):
            # The actor may need a restart. If `check` raises, the unread messages stay in their pipes.
            check()
            self._handle(actor, ended=actor.process.sentinel in ready)
        self._check_limits(check)

    def _handle(self, actor: ActorProcess, *, ended: bool) -> None:
        """Handles an actor's messages, and its end if the process has `ended`."""
        try:
            last = self._receive(actor)
        except (EOFError, OSError):
            last, ended = None, True
        if last is not None:
            if not self._anything_finished and (last.is_input_error or not actor.started):
                # Nothing has worked yet: the configuration is wrong, or the actor cannot be built. A restart would not help.
                raise last.exception(ActorError, f"actor {actor.index} failed:\n")
            self._restart_one(actor, "raised", last.text)
        elif ended:
            self._restart_one(actor, *actor.ending())

    def _receive(self, actor: ActorProcess) -> ErrorReport | None:
        """Reads an actor's messages: queues its unrolls and notes its start. Returns the error with which it ended, if that has come.
        Raises EOFError or OSError if its pipe has ended.
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
                assert isinstance(message, ErrorReport)
                return message
        return None

    def _check_limits(self, check: Callable[[], object]) -> None:
        """Restarts actors that hang. Asks an actor to end if it exceeds another limit; `wait` then replaces it."""
        now = time.monotonic()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        hang_seconds, memory_limit, recycle_episodes = self._config.limits
        # This process was stopped for a while, perhaps with its actors, so their silence proves nothing.
        was_away = now - self._checked_at > hang_seconds / 2
        self._checked_at = now
        hung = [actor for actor in self._actors if actor.hangs(hang_seconds, was_away=was_away)]
        # All actors at once: then the server that they wait for hangs.
        if hung and self._server and len(hung) == len(self._actors):
            self._restart_server(f"no actor has got an answer for {hang_seconds:g} s (runtime.hang_seconds)")
            return
        for actor in hung:
            check()
            detail = f"no step for {hang_seconds:g} s (runtime.hang_seconds){actor.stack()}"
            self._restart_one(actor, "hung", detail)
        if memory_limit and now - self._memory_read_at > _MEMORY_SECONDS:
            self._memory_read_at = now
            memory = resident_memory(actor.process.pid or 0 for actor in self._actors)
            for actor in self._actors:
                size = memory.get(actor.process.pid or 0, 0.0)
                if size > memory_limit and actor.started and not actor.retiring:
                    actor.retire("memory", f"{size:,.0f} MiB are more than runtime.memory_limit={memory_limit}")
        for actor in self._actors:
            if recycle_episodes and actor.episodes_played() >= recycle_episodes and not actor.retiring:
                actor.retire("recycled", f"{count(actor.episodes_played(), 'episode')} (runtime.recycle_episodes)")

    def _restart_one(self, actor: ActorProcess, cause: str, detail: str) -> None:
        self._restart(f"actor {actor.index}", Fault(actor.task(), cause, detail), [actor])

    def _restart(self, where: str, fault: Fault, actors: Sequence[ActorProcess]) -> None:
        """Kills actors, records the fault, and starts their successors at the episodes after the current ones."""
        for actor in actors:
            kill(actor.process)
        end_orphans()
        for actor in actors:
            # Queues the unrolls that it had finished.
            with contextlib.suppress(EOFError, OSError):
                self._receive(actor)
            actor.connection.close()
        self._faults.add(
            where,
            fault,
            unrolls_dropped=sum(actor.unfinished for actor in actors),
            episodes_dropped=self._slots * sum(actor.started for actor in actors),
        )
        self._start_server()
        for actor in list(actors):
            successor = self._actors[actor.member] = self._start_actor(actor.member, actor.next_positions())
            for buffer in actor.assigned:
                successor.assign(buffer)

    def _restart_server(self, hang: str = "") -> None:
        """Restarts the inference server, and all actors because it held their core states. `hang` describes the hang, "" that it ended."""
        assert self._server
        cause, detail = ("hung", hang) if hang else self._server.ending()
        if cause == "raised" and not self._anything_finished:
            raise ActorError(f"the inference server failed:\n{detail}")
        self._server.close(0.0)
        self._server = None
        self._restart("the inference server", Fault("", cause, detail), self._actors)
