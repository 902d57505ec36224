"""Actor processes on this machine: trajectories in shared memory, only integers in the pipes.

Each actor acts with a network of its own, or one server acts for all of them (inference.py).

Each actor has its own pipe, so no lock is shared and a process that dies takes nothing with it: its pipe ends, and the learner
sees it at once. An actor always has its next buffer in the pipe while it fills one, so it waits only when the learner is slower.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Mapping
from multiprocessing.connection import wait
from typing import Any

from agents.faults import Faults
from agents.network.agent import AgentNetwork
from agents.runtime.actor_process import Abandoned, ActorProcess, Failed, Finished, Pulses, Started, Supervision
from agents.runtime.base import ActorError, Batch, MakeActor, Positions, concatenate
from agents.runtime.buffers import SharedWeights, TrajectoryBuffers
from agents.runtime.inference import InferenceServer, MakePolicy
from agents.runtime.process import resident_memory
from envs.errors import InputError
from envs.faults import ASKED_FOR, Fault
from envs.spec import ArraySpec

_JOIN_SECONDS = 5.0

_LOOK_SECONDS = 0.5
"""How often the learner looks for actors that show no sign of life."""

_MEMORY_SECONDS = 5.0
"""How often it looks for those that have grown too large: reading that of every process takes milliseconds."""


class LocalRuntime:
    """Actors in spawned processes, which are started again when they die, raise, hang or grow too large.

    Args:
        make_actor: see runtime/base.py; must be picklable.
        network: the learner's.
        spec: of one trajectory.
        num_actors: processes.
        unrolls_per_batch: unrolls joined into one batch.
        positions: where the random streams stand; taken over, and kept up to date.
        actor_threads: compute threads of each actor.
        buffers_per_actor: trajectories each actor may be ahead; bounds policy lag and memory.
        version: of the weights that `network` begins with.
        make_policy: builds the policy of an inference server; None: each actor acts by itself.
        server_threads: compute threads of that server.
        faults: takes in every restart, and says when there are too many; by default the first is.
        supervision: when an actor that still runs is started again.
    """

    def __init__(
        self,
        make_actor: MakeActor,
        network: AgentNetwork,
        spec: Mapping[str, ArraySpec],
        *,
        num_actors: int,
        unrolls_per_batch: int,
        positions: Positions | None = None,
        actor_threads: int = 1,
        buffers_per_actor: int = 2,
        version: int = 0,
        make_policy: MakePolicy | None = None,
        server_threads: int = 1,
        faults: Faults | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        self.positions = positions or Positions()
        self._make_actor, self._make_policy = make_actor, make_policy
        self._network, self._spec = network, spec
        self._num_actors, self._unrolls_per_batch = num_actors, unrolls_per_batch
        self._actor_threads, self._server_threads = actor_threads, server_threads
        self._faults, self._supervision = faults or Faults(), supervision or Supervision()
        self._context = multiprocessing.get_context("spawn")
        self._slots = spec["core_state"].shape[0]
        self._buffers = TrajectoryBuffers(spec, num_actors * buffers_per_actor)
        self._weights = SharedWeights([parameter.shape for parameter in network.parameters()])
        self._weights.publish(network, version)
        self._pulses = Pulses(num_actors, self._slots)
        self._lent: list[tuple[int, int]] = []
        self._ready: deque[tuple[int, Finished]] = deque()
        self._anything_finished = False
        self._actors: list[ActorProcess] = []
        self._server: InferenceServer | None = None
        self._looked = self._weighed = time.monotonic()
        try:
            self._start_server()
            for index in range(num_actors):
                self._actors.append(self._start_actor(index, self.positions))
                for number in range(index * buffers_per_actor, (index + 1) * buffers_per_actor):
                    self._actors[index].assign(number)
        except BaseException:
            self.close()
            raise

    only_waits = True

    def collect(self) -> Batch:
        """Gives the buffers of the last batch back to their actors and waits for the next ones, first come first served."""
        for index, number in self._lent:
            self._actors[index].assign(number)
        self._lent = []
        start = time.perf_counter()
        while len(self._ready) < self._unrolls_per_batch:
            self._receive()
        waited = time.perf_counter() - start
        taken = [self._ready.popleft() for _ in range(self._unrolls_per_batch)]
        batch = concatenate([self._buffers[finished.buffer] for _, finished in taken])
        for index, finished in taken:
            self.positions.unrolls[index] = finished.unrolls
            self.positions.episodes[index] = self._buffers[finished.buffer]["episode"].tolist()
            self._lent.append((index, finished.buffer))
        return Batch(
            trajectory=batch,
            weights_versions=[finished.weights_version for _, finished in taken],
            wait_seconds=waited,
            actor_seconds=sum(finished.seconds for _, finished in taken),
            env_seconds=sum(finished.env_seconds for _, finished in taken),
            inference_seconds=sum(finished.inference_seconds for _, finished in taken),
            actor_wait_seconds=sum(finished.wait_seconds for _, finished in taken),
        )

    def publish(self, version: int) -> None:
        """Copies the learner's weights into shared memory."""
        self._weights.publish(self._network, version)

    def state_dict(self) -> None:
        """None: whenever one looks, actors are in the middle of their unrolls."""

    def processes(self) -> dict[str, int]:
        """`actor-<index>`, and `inference` where there is a server."""
        found = {f"actor-{actor.index}": actor.process.pid or 0 for actor in self._actors}
        return found | ({"inference": self._server.pid} if self._server else {})

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
        for actor in self._actors:
            actor.close()
        self._actors, self._server = [], None

    def _start_server(self) -> None:
        if self._make_policy is not None:
            self._server = InferenceServer(
                self._context,
                self._make_policy,
                self._network,
                self._spec,
                self._weights,
                num_actors=self._num_actors,
                threads=self._server_threads,
            )

    def _start_actor(self, index: int, positions: Positions) -> ActorProcess:
        return ActorProcess(
            self._context,
            index,
            self._make_actor,
            positions,
            self._buffers,
            self._weights,
            self._pulses,
            self._server.client(index) if self._server else None,
            self._actor_threads,
        )

    def _receive(self) -> None:
        """Waits for messages, for the end of a process, or until it is time to look after those that say nothing."""
        signs: dict[Any, ActorProcess] = {}
        for actor in self._actors:
            # The process as well as its pipe, whose other end a process that the actor has left behind may hold.
            signs |= {actor.connection: actor, actor.process.sentinel: actor}
        ready = wait([*signs, *([self._server.connection] if self._server else [])], _LOOK_SECONDS)
        if self._server and self._server.connection in ready:
            self._restart_server()
            return
        for actor in dict.fromkeys(signs[sign] for sign in ready):
            if not self._hear(actor, ended=actor.process.sentinel in ready):
                # The server is gone: nothing that was ready is as it was.
                return
        self._look()

    def _hear(self, actor: ActorProcess, *, ended: bool) -> bool:
        """Takes in what an actor has sent; False if all actors were started again."""
        try:
            while actor.connection.poll():
                message = actor.connection.recv()
                if isinstance(message, Finished):
                    filled = actor.assigned.popleft()
                    assert filled == message.buffer
                    actor.unrolls = message.unrolls
                    self._anything_finished = True
                    self._ready.append((actor.index, message))
                    for fault in message.faults:
                        lost = fault.cause not in ASKED_FOR
                        self._faults.add(f"an environment of actor {actor.index}", fault, episodes_dropped=int(lost))
                elif isinstance(message, Started):
                    actor.start(message)
                elif isinstance(message, Abandoned):
                    self._restart_server()
                    return False
                else:
                    self._failed(actor, message)
                    return True
        except (EOFError, OSError):
            ended = True
        if ended:
            self._restart(actor, *actor.ending())
        return True

    def _failed(self, actor: ActorProcess, message: Failed) -> None:
        if not self._anything_finished:
            if message.is_input_error:
                raise InputError(message.error)
            if not actor.started:
                raise ActorError(f"actor {actor.index} failed:\n{message.error}")
        self._restart(actor, "raised", message.error)

    def _look(self) -> None:
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
            detail = f"no step for {hang_seconds:g} seconds (runtime.hang_seconds){actor.stack()}"
            self._restart(actor, "hung", detail)
        if memory_limit and now - self._weighed > _MEMORY_SECONDS:
            self._weighed = now
            memory = resident_memory()
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
        actor.kill()
        actor.close()
        if not told:
            self._faults.add(
                f"actor {actor.index}",
                fault,
                unrolls_dropped=int(actor.unfinished),
                episodes_dropped=self._slots if actor.started else 0,
            )
        self._actors[actor.index] = fresh = self._start_actor(actor.index, actor.next_positions())
        for number in actor.assigned:
            fresh.assign(number)

    def _restart_server(self, detail: str = "") -> None:
        """Starts the inference server again, and all actors, whose core states went with it."""
        assert self._server
        cause, detail = ("hung", detail) if detail else self._server.ending(_JOIN_SECONDS)
        if cause == "raised" and not self._anything_finished:
            raise ActorError(f"the inference server failed:\n{detail}")
        for actor in self._actors:
            actor.kill()
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
