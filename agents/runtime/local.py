"""Actor processes on this machine (actor_pool.py), and a learner that takes what they have finished as it lies in shared memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from agents.network.agent import AgentNetwork
from agents.runtime.base import Batch, PoolConfig, StreamPositions, go_on
from agents.runtime.processes.actor_pool import ActorPool, Ready
from agents.runtime.processes.actor_process import batch_of
from agents.runtime.restarts import Faults


class LocalRuntime:
    """Actors in processes of their own, which are started again when they die, raise, hang or grow too large.

    Args:
        pool: the actors, one process each.
        network: the learner's.
        positions: where the random streams stand; taken over, and kept up to date.
        version: of the weights that `network` begins with.
        faults: takes in every restart, and says when there are too many; by default the first is.
    """

    def __init__(
        self,
        pool: PoolConfig,
        network: AgentNetwork,
        *,
        positions: StreamPositions | None = None,
        version: int = 0,
        faults: Faults | None = None,
    ) -> None:
        self.positions = positions or StreamPositions()
        self._unrolls_per_batch = pool.unrolls_per_batch
        self._pool = ActorPool(
            pool, network, range(pool.num_actors), self.positions, version=version, faults=faults or Faults()
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
