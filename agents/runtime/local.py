"""Actor processes on this machine: trajectories in shared memory, only integers in the pipes.

Each actor acts with a network of its own, or one server acts for all of them (inference.py).

Each actor has its own pipe, so no lock is shared and a process that dies takes nothing with it: its pipe ends, and the learner
sees it at once. An actor always has its next buffer in the pipe while it fills one, so it waits only when the learner is slower.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
import traceback
from collections import deque
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from agents.network.agent import AgentNetwork
from agents.policy import Policy
from agents.runtime.base import ActorError, Batch, MakeActor, Positions, concatenate
from agents.runtime.buffers import SharedWeights, TrajectoryBuffers
from agents.runtime.inference import InferenceClient, InferenceServer, InferenceServerError, MakePolicy
from agents.runtime.process import configure_process, leave_signals_to_the_learner, sigint_held_back
from envs.spec import ArraySpec

_JOIN_SECONDS = 5.0


class _Finished(NamedTuple):
    """An actor's message: buffer `buffer` is full."""

    buffer: int
    weights_version: int
    unrolls: int
    seconds: float
    env_seconds: float
    inference_seconds: float
    wait_seconds: float


class _Failed(NamedTuple):
    """An actor's last message: the traceback of what it raised."""

    error: str


class _Abandoned(NamedTuple):
    """An actor's last message: the inference server is gone."""


class LocalRuntime:
    """Actors in spawned processes.

    Args:
        make_actor: see runtime/base.py; must be picklable.
        network: the learner's.
        spec: of one trajectory.
        num_actors: processes.
        unrolls_per_batch: unrolls joined into one batch.
        actor_threads: compute threads of each actor.
        buffers_per_actor: trajectories each actor may be ahead; bounds policy lag and memory.
        version: of the weights that `network` begins with.
        make_policy: builds the policy of an inference server; None: each actor acts by itself.
        server_threads: compute threads of that server.
    """

    def __init__(
        self,
        make_actor: MakeActor,
        network: AgentNetwork,
        spec: Mapping[str, ArraySpec],
        *,
        num_actors: int,
        unrolls_per_batch: int,
        actor_threads: int = 1,
        buffers_per_actor: int = 2,
        version: int = 0,
        make_policy: MakePolicy | None = None,
        server_threads: int = 1,
    ) -> None:
        self.positions = Positions()
        self._network = network
        self._unrolls_per_batch = unrolls_per_batch
        self._buffers = TrajectoryBuffers(spec, num_actors * buffers_per_actor)
        self._weights = SharedWeights([parameter.shape for parameter in network.parameters()])
        self._weights.publish(network, version)
        self._lent: list[tuple[int, int]] = []
        self._ready: deque[tuple[int, _Finished]] = deque()
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._server: InferenceServer | None = None
        context = multiprocessing.get_context("spawn")
        try:
            if make_policy is not None:
                self._server = InferenceServer(
                    context, make_policy, network, spec, self._weights, num_actors=num_actors, threads=server_threads
                )
            for index in range(num_actors):
                mine, theirs = context.Pipe()
                client = self._server.clients[index] if self._server else None
                process = context.Process(
                    target=_run_actor,
                    args=(make_actor, index, theirs, self._buffers, self._weights, client, actor_threads),
                    name=f"actor-{index}",
                    daemon=True,
                )
                with sigint_held_back():
                    process.start()
                # Without these copies the pipes end with the actor.
                theirs.close()
                if client:
                    client.connection.close()
                self._processes.append(process)
                self._connections.append(mine)
                for number in range(index * buffers_per_actor, (index + 1) * buffers_per_actor):
                    self._assign(index, number)
        except BaseException:
            self.close()
            raise

    only_waits = True

    def collect(self) -> Batch:
        """Gives the buffers of the last batch back to their actors and waits for the next ones, first come first served."""
        for index, number in self._lent:
            self._assign(index, number)
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

    def close(self) -> None:
        """Asks the actors to end, and ends those that do not. Their server ends after them."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.send(None)
        deadline = time.monotonic() + _JOIN_SECONDS
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        if self._server:
            self._server.close(max(0.0, deadline - time.monotonic()))
        for connection in self._connections:
            connection.close()
        self._connections, self._processes, self._server = [], [], None

    def _assign(self, index: int, number: int) -> None:
        # An actor that is gone is reported when its pipe is read.
        with contextlib.suppress(OSError):
            self._connections[index].send(number)

    def _receive(self) -> None:
        for connection in wait(self._connections + ([self._server.connection] if self._server else [])):
            assert isinstance(connection, Connection)
            if self._server and connection is self._server.connection:
                raise self._server.failure(_JOIN_SECONDS)
            index = self._connections.index(connection)
            try:
                message = connection.recv()
            except (EOFError, ConnectionResetError):
                process = self._processes[index]
                process.join(_JOIN_SECONDS)
                raise ActorError(f"actor {index} ended without a word (exit code {process.exitcode}).") from None
            if isinstance(message, _Abandoned):
                assert self._server
                raise self._server.failure(_JOIN_SECONDS)
            if isinstance(message, _Failed):
                raise ActorError(f"actor {index} failed:\n{message.error}")
            self._ready.append((index, message))


def _run_actor(
    make_actor: MakeActor,
    index: int,
    connection: Connection,
    buffers: TrajectoryBuffers,
    weights: SharedWeights,
    client: InferenceClient | None,
    threads: int,
) -> None:
    """Main function of an actor process: a buffer number in, the same number out when it is full, None to end."""
    leave_signals_to_the_learner()
    configure_process(threads)
    try:
        remote = client.policy() if client else None
        actor = make_actor(index, None, remote)
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
                _Finished(
                    number,
                    version,
                    actor.unrolls,
                    seconds=ended - free,
                    env_seconds=actor.env_seconds,
                    inference_seconds=actor.inference_seconds,
                    wait_seconds=began - free,
                )
            )
            free = ended
        actor.close()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The learner is gone: there is nobody to tell.
        return
    except InferenceServerError:
        with contextlib.suppress(OSError):
            connection.send(_Abandoned())
    except Exception:
        with contextlib.suppress(OSError):
            connection.send(_Failed(traceback.format_exc()))
