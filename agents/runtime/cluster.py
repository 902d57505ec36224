"""Actors on a Ray cluster. A bridge process (bridge.py) speaks to Ray for the learner, which does not import it."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from agents.network.agent import AgentNetwork
from agents.runtime.base import ActorError, Batch, PoolConfig, StreamPositions, never_interrupt
from agents.runtime.processes.actor_process import Unroll, collect_batch
from agents.runtime.processes.buffers import AnonymousFile, SharedArrays, SharedWeights
from agents.runtime.processes.fork_server import hidden_main_module
from agents.runtime.processes.process import signals_blocked
from agents.runtime.ray_groups.bridge import Dropped, Processes, run_bridge
from agents.runtime.restarts import Faults
from system.errors import ErrorReport

_LOOK_SECONDS = 0.5
"""Seconds between two calls of `check` in `collect`."""

_LAST_LINES = 5
"""Lines of Ray's output in the message about a lost cluster."""

_JOIN_SECONDS = 20.0
"""Time in which the bridge ends the groups and leaves the cluster, or ends the cluster that it started."""


class ClusterRuntime:
    """Actors in groups, each a Ray actor, on all nodes with room for them; a lost group is restarted on another node.

    Args:
        pool: The actors of all groups together, with one inference server per group if it has a `make_policy`.
        address: Of the cluster; empty for one on this machine, which ends with the run (connection.py).
        actors_per_group: Actors that are placed, and lost, together.
        cpus_per_actor: That Ray reserves.
        say: Shows a line.
    """

    def __init__(
        self,
        pool: PoolConfig,
        network: AgentNetwork,
        *,
        address: str = "",
        actors_per_group: int = 1,
        cpus_per_actor: float = 1.0,
        positions: StreamPositions | None = None,
        version: int = 0,
        faults: Faults | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.positions = positions or StreamPositions()
        self._network, self._faults, self._say = network, faults or Faults(), say
        self._unrolls_per_batch = pool.unrolls_per_batch
        # The next batch arrives while the learner uses one.
        self._buffers = SharedArrays(pool.spec, 2 * pool.unrolls_per_batch)
        self._weights = SharedWeights([parameter.shape for parameter in network.parameters()])
        self._weights.publish(network, version)
        self._ready: deque[Unroll] = deque()
        self._collected: list[Unroll] = []
        self._processes: dict[str, int] = {}
        context = multiprocessing.get_context("spawn")
        self._bridge, theirs = context.Pipe()
        self._output = AnonymousFile()
        self._process = context.Process(
            target=run_bridge,
            args=(theirs, self._output, self._buffers, self._weights),
            name="cluster",
            daemon=True,
        )
        with signals_blocked(), hidden_main_module():
            self._process.start()
        # If this process kept its copy open, the pipe would not end with the bridge.
        theirs.close()
        # After the start, when signals are no longer blocked: a message that fills the pipe waits for the bridge to import.
        groups = grouped(range(pool.num_actors), actors_per_group)
        self._send((address, groups, cpus_per_actor, pool, self.positions))

    def collect(self, check: Callable[[], object] = never_interrupt) -> Batch:
        """Gives the buffers of the last batch back to their actors, and waits for the next unrolls in the order of their arrival."""
        for unroll in self._collected:
            self._send(unroll.buffer)
        self._collected = []

        def wait() -> None:
            check()
            self._receive()

        self._collected, batch = collect_batch(
            self._ready, self._buffers, self._unrolls_per_batch, self.positions, wait
        )
        return batch

    def publish(self, version: int) -> None:
        """Copies the learner's weights into memory that it shares with the bridge."""
        self._weights.publish(self._network, version)
        self._send("weights")

    def state_dict(self) -> None:
        """None: the actors are always within an unroll."""

    def processes(self) -> dict[str, int]:
        """Process ids: `cluster`, the bridge, and `actor-<index>` of the actors on this machine."""
        return {"cluster": self._process.pid or 0, **self._processes}

    def close(self) -> None:
        """Lets the bridge end the groups and leave the cluster; kills it if that takes too long."""
        if self._bridge.closed:
            return
        self._send(None)
        self._process.join(_JOIN_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._bridge.close()

    def _send(self, message: Any) -> None:
        # `_receive` notices the end of the bridge.
        with contextlib.suppress(OSError):
            self._bridge.send(message)

    def _receive(self) -> None:
        """Waits up to _LOOK_SECONDS for a message of the bridge, and handles it."""
        try:
            if not self._bridge.poll(_LOOK_SECONDS):
                return
            message = self._bridge.recv()
        except (EOFError, OSError):
            self._process.join(_LOOK_SECONDS)
            # Ray quotes its own log, indented.
            lines = [line for line in self._output.text().splitlines() if not line.startswith(" ")]
            last = "\n".join(lines[-_LAST_LINES:])
            raise ActorError(
                f"the Ray cluster is gone (the process that spoke to it ended with code {self._process.exitcode}): start it again, and "
                f"the run with resume=true\n{last}"
            ) from None
        match message:
            case Unroll():
                self._ready.append(message)
            case dict():
                self._faults.add_record(message)
            case Dropped(unrolls):
                self._faults.unrolls_dropped += unrolls
            case Processes(host, ids) if host == socket.gethostname():
                self._processes |= ids
            case str():
                self._say(message)
            case ErrorReport():
                raise message.exception(ActorError)


def grouped(indices: Sequence[int], size: int) -> list[list[int]]:
    """Splits `indices` into groups of `size` neighbours; the last one may be smaller."""
    return [list(indices[first : first + size]) for first in range(0, len(indices), size)]
