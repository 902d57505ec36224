"""Actor processes on this machine (actor_pool.py); the learner reads their trajectories in shared memory, without a copy where it can."""

from __future__ import annotations

import time
from collections.abc import Callable

from agents.network.agent import AgentNetwork
from agents.runtime.base import Batch, PoolConfig, StreamPositions, never_interrupt
from agents.runtime.processes.actor_pool import ActorPool
from agents.runtime.processes.actor_process import Unroll, make_batch
from agents.runtime.restarts import Faults


class LocalRuntime:
    """Actors, one process each, which are restarted when they die, raise, hang or exceed their limits.

    Args:
        pool: The actors.
        network: The learner's.
        positions: Where the random streams begin; kept up to date.
        version: Of the weights of `network`.
        faults: Records every restart, and raises after too many; None raises at the first one.
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
        self._collected: list[Unroll] = []

    def collect(self, check: Callable[[], object] = never_interrupt) -> Batch:
        """Gives the buffers of the last batch back to their actors, and waits for the next unrolls in the order of their arrival."""
        pool = self._pool
        for unroll in self._collected:
            pool.give_back(unroll.member, unroll.buffer)
        self._collected = []
        start = time.perf_counter()
        while len(pool.ready) < self._unrolls_per_batch:
            pool.wait(check=check)
        waited = time.perf_counter() - start
        self._collected = [pool.ready.popleft() for _ in range(self._unrolls_per_batch)]
        trajectories = [pool.buffers[unroll.buffer] for unroll in self._collected]
        return make_batch(self._collected, trajectories, self.positions, waited)

    def publish(self, version: int) -> None:
        """Copies the learner's weights into shared memory."""
        self._pool.publish(version)

    def state_dict(self) -> None:
        """None: the actors are always within an unroll."""

    def processes(self) -> dict[str, int]:
        """Process ids: `actor-<index>`, and `inference` if there is a server."""
        return self._pool.processes()

    def close(self) -> None:
        """Ends the actors, and then their server."""
        self._pool.close()
