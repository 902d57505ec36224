"""Actor processes on this machine, kept alive: trajectories in shared memory, only integers in the pipes.

Each actor acts with a network of its own, or one server acts for all of them (inference_server.py).

Each actor has its own pipe, so no lock is shared and a process that dies takes nothing with it: its pipe ends, and whoever waits
sees it at once. An actor always has its next buffer in the pipe while it fills one, so it waits only when the learner is slower.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from agents.network.actions import ActionDistribution
from agents.runtime.base import ActorError, MakeActor, StreamPositions, go_on
from agents.runtime.processes.actor_process import (
    Abandoned,
    ActorProcess,
    Failed,
    Finished,
    Pulses,
    Started,
    Supervision,
)
from agents.runtime.processes.buffers import HasParameters, SharedWeights, TrajectoryBuffers
from agents.runtime.processes.inference_server import InferenceServer, MakePolicy
from agents.runtime.processes.process import copies
from agents.runtime.restarts import Faults
from envs.faults import ASKED_FOR, Fault
from envs.spec import ArraySpec
from system.descendants import end_orphans
from system.errors import InputError
from system.memory import resident_memory

_JOIN_SECONDS = 5.0

_LOOK_SECONDS = 0.5
"""How often one looks for actors that show no sign of life."""

_MEMORY_SECONDS = 5.0
"""How often one looks for those that have grown too large: reading that of every process takes milliseconds."""


class Ready(NamedTuple):
    """A finished unroll: `place` of its actor in the pool, and what the actor said of it. Its trajectory lies in the buffer
    `finished.buffer` until that is given back.
    """

    place: int
    finished: Finished


class ActorPool:
    """Actors in processes of their own, which are started again when they die, raise, hang or grow too large.

    Args:
        make_actor: see runtime/base.py; must be picklable.
        network: whose weights they begin with, under the number `version`.
        actions: of that network.
        spec: of one trajectory.
        indices: of the actors among all of the run, one process each.
        positions: where their random streams begin.
        actor_threads: compute threads of each actor.
        buffers_per_actor: trajectories each actor may be ahead; bounds policy lag and memory.
        make_policy: builds the policy of an inference server; None: each actor acts by itself.
        server_threads: compute threads of that server.
        faults: takes in every restart, and says when there are too many.
        supervision: when an actor that still runs is started again.

    Attributes:
        buffers: the trajectories.
        ready: finished unrolls, first come first served; whoever takes one gives its buffer back.
    """

    def __init__(
        self,
        make_actor: MakeActor,
        network: HasParameters,
        actions: ActionDistribution,
        spec: Mapping[str, ArraySpec],
        *,
        indices: Sequence[int],
        positions: StreamPositions,
        actor_threads: int,
        buffers_per_actor: int,
        version: int,
        make_policy: MakePolicy | None,
        server_threads: int,
        faults: Faults,
        supervision: Supervision,
    ) -> None:
        self._make_actor, self._make_policy = make_actor, make_policy
        self._network, self._actions, self._spec = network, actions, spec
        self._actor_threads, self._server_threads = actor_threads, server_threads
        self._faults, self._supervision = faults, supervision
        self._indices = list(indices)
        self._context = copies()
        self._slots = spec["core_state"].shape[0]
        self.buffers = TrajectoryBuffers(spec, len(self._indices) * buffers_per_actor)
        self._weights = SharedWeights([parameter.shape for parameter in network.parameters()])
        self.publish(version)
        self._pulses = Pulses(len(self._indices), self._slots)
        self.ready: deque[Ready] = deque()
        self._anything_finished = False
        self._actors: list[ActorProcess] = []
        self._server: InferenceServer | None = None
        self._looked = self._weighed = time.monotonic()
        try:
            self._start_server()
            for place in range(len(self._indices)):
                self._actors.append(self._start_actor(place, positions))
                for number in range(place * buffers_per_actor, (place + 1) * buffers_per_actor):
                    self._actors[place].assign(number)
        except BaseException:
            self.close()
            raise

    def index(self, place: int) -> int:
        """Among all actors of the run."""
        return self._indices[place]

    def give_back(self, place: int, number: int) -> None:
        """The actor at that place may fill this buffer again."""
        self._actors[place].assign(number)

    def publish(self, version: int) -> None:
        """Copies the network's weights into shared memory."""
        self._weights.publish(self._network, version)

    def processes(self) -> dict[str, int]:
        """`actor-<index>`, and `inference` where there is a server."""
        found = {f"actor-{actor.index}": actor.process.pid or 0 for actor in self._actors}
        return found | ({"inference": self._server.pid} if self._server else {})

    def next_positions(self) -> StreamPositions:
        """Where actors that took the place of these would begin, as far as the processes have shown."""
        following = [actor.next_positions() for actor in self._actors]
        return StreamPositions(
            unrolls={index: number for one in following for index, number in one.unrolls.items()},
            episodes={index: numbers for one in following for index, numbers in one.episodes.items()},
        )

    def close(self) -> None:
        """Asks the actors to end, and ends those that do not. Their server ends after them."""
        deadline = time.monotonic() + _JOIN_SECONDS
        for actor in self._actors:
            if actor.started:
                actor.retire("", "")
            else:
                # It is still importing, and has nothing to put away.
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
        if self._make_policy is not None:
            self._server = InferenceServer(
                self._context,
                self._make_policy,
                self._actions,
                self._spec,
                self._weights,
                num_actors=len(self._indices),
                threads=self._server_threads,
            )

    def _start_actor(self, place: int, positions: StreamPositions) -> ActorProcess:
        return ActorProcess(
            self._context,
            self._indices[place],
            place,
            self._make_actor,
            positions,
            self.buffers,
            self._weights,
            self._pulses,
            self._server.client(place) if self._server else None,
            self._actor_threads,
        )

    def wait(self, also: Connection | None = None, *, check: Callable[[], object] = go_on) -> None:
        """Waits until something is ready, a process has ended, there is something to read from `also`, or it is time to look after
        actors that say nothing; and takes in what there is, but not what `also` says. `check` is called first, and before each
        actor that may have to be started again (Runtime.collect).

        Raises:
            ActorError: actors were started again too often, or one could not even be built before any unroll was finished.
            InputError: an actor found the configuration wrong.
        """
        check()
        signs: dict[Any, ActorProcess] = {}
        for actor in self._actors:
            # The process as well as its pipe, whose other end a process that the actor has left behind may hold.
            signs |= {actor.connection: actor, actor.process.sentinel: actor}
        server = [self._server.connection] if self._server else []
        ready = wait([*signs, *server, *([also] if also else [])], _LOOK_SECONDS)
        if self._server and self._server.connection in ready:
            self._restart_server()
            return
        for actor in dict.fromkeys(signs[sign] for sign in ready if sign in signs):
            # Each may have to be started again. What was not taken in stays where it is.
            check()
            if not self._hear(actor, ended=actor.process.sentinel in ready):
                # The server is gone: nothing that was ready is as it was.
                return
        self._look(check)

    def _hear(self, actor: ActorProcess, *, ended: bool) -> bool:
        """Takes in what an actor has sent, and its end; False if all actors were started again."""
        try:
            last = self._take_in(actor)
        except (EOFError, OSError):
            last, ended = None, True
        if isinstance(last, Abandoned):
            self._restart_server()
            return False
        if isinstance(last, Failed):
            self._failed(actor, last)
        elif ended:
            self._restart(actor, *actor.ending())
        return True

    def _take_in(self, actor: ActorProcess) -> Failed | Abandoned | None:
        """Takes in what an actor has finished; its last message, if that has come.

        Raises:
            EOFError, OSError: there is no more to come.
        """
        while actor.connection.poll():
            message = actor.connection.recv()
            if isinstance(message, Finished):
                filled = actor.assigned.popleft()
                assert filled == message.buffer
                actor.unrolls = message.unrolls
                self._anything_finished = True
                self.ready.append(Ready(actor.place, message))
                for fault in message.faults:
                    lost = fault.cause not in ASKED_FOR
                    self._faults.add(f"an environment of actor {actor.index}", fault, episodes_dropped=int(lost))
            elif isinstance(message, Started):
                actor.start(message)
            else:
                last: Failed | Abandoned = message
                return last
        return None

    def _end(self, actor: ActorProcess) -> None:
        """Ends an actor, and what it has started. What it had finished until then is not lost."""
        actor.kill()
        end_orphans()
        with contextlib.suppress(EOFError, OSError):
            self._take_in(actor)

    def _failed(self, actor: ActorProcess, message: Failed) -> None:
        if not self._anything_finished:
            if message.is_input_error:
                raise InputError(message.error)
            if not actor.started:
                raise ActorError(f"actor {actor.index} failed:\n{message.error}")
        self._restart(actor, "raised", message.error)

    def _look(self, check: Callable[[], object]) -> None:
        """Starts those again that show no sign of life, and asks those to end that have become too large or too old."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        hang_seconds, memory_limit, recycle_episodes = self._supervision
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
        if memory_limit and now - self._weighed > _MEMORY_SECONDS:
            self._weighed = now
            memory = resident_memory(actor.process.pid or 0 for actor in self._actors)
            for actor in self._actors:
                size = memory.get(actor.process.pid or 0, 0.0)
                if size > memory_limit and actor.started and not actor.retiring:
                    actor.retire("memory", f"{size:,.0f} MiB are more than runtime.memory_limit={memory_limit}")
        for actor in self._actors:
            if recycle_episodes and actor.episodes_played() >= recycle_episodes and not actor.retiring:
                actor.retire("recycled", f"{actor.episodes_played()} episodes (runtime.recycle_episodes)")

    def _restart(self, actor: ActorProcess, cause: str, detail: str, *, told: bool = False) -> None:
        """Starts an actor again after the episodes that it was in, with the buffers that it has not filled."""
        fault = Fault(actor.task(), cause, detail)
        self._end(actor)
        actor.close()
        if not told:
            self._faults.add(
                f"actor {actor.index}",
                fault,
                unrolls_dropped=int(actor.unfinished),
                episodes_dropped=self._slots if actor.started else 0,
            )
        self._actors[actor.place] = fresh = self._start_actor(actor.place, actor.next_positions())
        for number in actor.assigned:
            fresh.assign(number)

    def _restart_server(self, detail: str = "") -> None:
        """Starts the inference server again, and all actors, whose core states went with it."""
        assert self._server
        cause, detail = ("hung", detail) if detail else self._server.ending(_JOIN_SECONDS)
        if cause == "raised" and not self._anything_finished:
            raise ActorError(f"the inference server failed:\n{detail}")
        for actor in self._actors:
            self._end(actor)
        self._server.close(0.0)
        begun = [actor for actor in self._actors if actor.started]
        self._faults.add(
            "the inference server",
            Fault("", cause, detail),
            unrolls_dropped=sum(actor.unfinished for actor in begun),
            episodes_dropped=self._slots * len(begun),
        )
        self._start_server()
        for actor in list(self._actors):
            self._restart(actor, cause, detail, told=True)
