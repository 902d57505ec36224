"""Actor processes on this machine (actor_pool.py), and a learner that takes what they have finished as it lies in shared memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from agents.network.agent import AgentNetwork
from agents.runtime.base import Batch, MakeActor, StreamPositions, go_on
from agents.runtime.processes.actor_pool import ActorPool, Ready
from agents.runtime.processes.actor_process import Supervision, batch_of
from agents.runtime.processes.inference_server import MakePolicy
from agents.runtime.restarts import Faults
from envs.spec import ArraySpec


class LocalRuntime:
    """Actors in processes of their own, which are started again when they die, raise, hang or grow too large.

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
        positions: StreamPositions | None = None,
        actor_threads: int = 1,
        buffers_per_actor: int = 2,
        version: int = 0,
        make_policy: MakePolicy | None = None,
        server_threads: int = 1,
        faults: Faults | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        self.positions = positions or StreamPositions()
        self._unrolls_per_batch = unrolls_per_batch
        self._pool = ActorPool(
            make_actor,
            network,
            network.actions,
            spec,
            indices=range(num_actors),
            positions=self.positions,
            actor_threads=actor_threads,
            buffers_per_actor=buffers_per_actor,
            version=version,
            make_policy=make_policy,
            server_threads=server_threads,
            faults=faults or Faults(),
            supervision=supervision or Supervision(),
        )
        self._lent: list[Ready] = []

    def collect(self, check: Callable[[], object] = go_on) -> Batch:
        """Gives the buffers of the last batch back to their actors and waits for the next ones, first come first served."""
        pool = self._pool
        for place, finished in self._lent:
            pool.give_back(place, finished.buffer)
        self._lent = []
        start = time.perf_counter()
        while len(pool.ready) < self._unrolls_per_batch:
            pool.wait(check=check)
        waited = time.perf_counter() - start
        taken = self._lent = [pool.ready.popleft() for _ in range(self._unrolls_per_batch)]
        for place, finished in taken:
            self.positions.unrolls[pool.index(place)] = finished.unrolls
            self.positions.episodes[pool.index(place)] = pool.buffers[finished.buffer]["episode"].tolist()
        return batch_of(
            [pool.buffers[finished.buffer] for _, finished in taken], [finished for _, finished in taken], waited
        )

    def publish(self, version: int) -> None:
        """Copies the learner's weights into shared memory."""
        self._pool.publish(version)

    def state_dict(self) -> None:
        """None: whenever one looks, actors are in the middle of their unrolls."""

    def processes(self) -> dict[str, int]:
        """`actor-<index>`, and `inference` where there is a server."""
        return self._pool.processes()

    def close(self) -> None:
        """Ends the actors, and their server after them."""
        self._pool.close()
