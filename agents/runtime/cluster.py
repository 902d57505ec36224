"""Actors on a Ray cluster. The learner stays a plain process: a bridge (bridge.py) speaks to Ray for it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from agents.network.agent import AgentNetwork
from agents.runtime.base import ActorError, Batch, PoolConfig, StreamPositions, go_on
from agents.runtime.processes.actor_process import batch_of
from agents.runtime.processes.buffers import SharedWeights, TrajectoryBuffers
from agents.runtime.processes.process import signals_held_back
from agents.runtime.ray_groups.actor_group import Broken
from agents.runtime.ray_groups.bridge import run_bridge
from agents.runtime.ray_groups.messages import Delivered, Dropped, Placement, Processes, Restarted, Said
from agents.runtime.restarts import Faults
from system.errors import InputError

_LOOK_SECONDS = 0.5

_LAST_LINES = 5
"""Of what Ray said before it ended, to tell the user."""

_JOIN_SECONDS = 20.0
"""Time in which the bridge ends the groups and leaves the cluster, or ends it if it is its own."""


class ClusterRuntime:
    """Actors in groups, each a Ray actor, wherever the cluster has room for them; a lost group is started again elsewhere.

    Args:
        pool: the actors of the whole cluster, one process each.
        network: the learner's.
        address: of the cluster; empty for one of this machine alone, which ends with the run (connection.py).
        actors_per_group: actors that are placed together, and lost together.
        cpus_per_actor: that Ray reserves.
        positions: where the random streams stand; taken over, and kept up to date.
        version: of the weights that `network` begins with.
        faults: takes in every restart, and says when there are too many; by default the first is.
        say: shows a line.
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
        # One batch is learned from while the next one comes.
        self._buffers = TrajectoryBuffers(pool.spec, 2 * pool.unrolls_per_batch)
        self._weights = SharedWeights([parameter.shape for parameter in network.parameters()])
        self._weights.publish(network, version)
        self._ready: deque[Delivered] = deque()
        self._lent: list[Delivered] = []
        self._processes: dict[str, int] = {}
        placement = Placement(address, grouped(range(pool.num_actors), actors_per_group), cpus_per_actor)
        context = multiprocessing.get_context("spawn")
        self._bridge, theirs = context.Pipe()
        self._last_words = tempfile.TemporaryFile("r+", errors="replace")  # noqa: SIM115
        # A file without a name, by which nothing can be left behind.
        words = f"/proc/{os.getpid()}/fd/{self._last_words.fileno()}"
        self._process = context.Process(
            target=run_bridge,
            args=(theirs, words, self._buffers, self._weights),
            name="cluster",
            daemon=True,
        )
        with signals_held_back():
            self._process.start()
        # Without this copy the pipe ends with the bridge.
        theirs.close()
        # Behind its start, during which signals are held back: more than a pipe takes would wait for it.
        self._send((placement, pool, self.positions))

    def collect(self, check: Callable[[], object] = go_on) -> Batch:
        """Gives the buffers of the last batch back to their actors and waits for the next ones, first come first served."""
        for delivered in self._lent:
            self._send(delivered.number)
        self._lent = []
        start = time.perf_counter()
        while len(self._ready) < self._unrolls_per_batch:
            check()
            self._receive()
        waited = time.perf_counter() - start
        taken = self._lent = [self._ready.popleft() for _ in range(self._unrolls_per_batch)]
        for _, unroll in taken:
            self.positions.unrolls[unroll.actor] = unroll.finished.unrolls
            self.positions.episodes[unroll.actor] = unroll.episodes
        return batch_of(
            [self._buffers[number] for number, _ in taken], [unroll.finished for _, unroll in taken], waited
        )

    def publish(self, version: int) -> None:
        """Copies the learner's weights to where the bridge finds them."""
        self._weights.publish(self._network, version)
        self._send("weights")

    def state_dict(self) -> None:
        """None: whenever one looks, actors are in the middle of their unrolls."""

    def processes(self) -> dict[str, int]:
        """`cluster`, the bridge, and `actor-<index>` of those actors that are on this machine."""
        return {"cluster": self._process.pid or 0, **self._processes}

    def close(self) -> None:
        """Asks the bridge to end the groups and to leave the cluster."""
        if self._bridge.closed:
            return
        self._send(None)
        self._process.join(_JOIN_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._bridge.close()
        self._last_words.close()

    def _send(self, message: Any) -> None:
        # One that is gone is noticed when its pipe is read.
        with contextlib.suppress(OSError):
            self._bridge.send(message)

    def _receive(self) -> None:
        """Takes in what the bridge has sent, or waits for it for a while."""
        try:
            if not self._bridge.poll(_LOOK_SECONDS):
                return
            message = self._bridge.recv()
        except (EOFError, OSError):
            self._process.join(_LOOK_SECONDS)
            self._last_words.seek(0)
            # Ray quotes its own log, indented.
            said = [line for line in self._last_words.read().splitlines() if not line.startswith(" ")]
            words = "\n".join(said[-_LAST_LINES:])
            raise ActorError(
                f"the Ray cluster is gone (the process that spoke to it ended with code {self._process.exitcode}): start it again, and "
                f"the run with resume=true\n{words}"
            ) from None
        if isinstance(message, Delivered):
            self._ready.append(message)
        elif isinstance(message, Restarted):
            self._faults.add(
                message.where,
                message.fault,
                unrolls_dropped=message.unrolls_dropped,
                episodes_dropped=message.episodes_dropped,
            )
        elif isinstance(message, Dropped):
            self._faults.unrolls_dropped += message.unrolls
        elif isinstance(message, Processes):
            if message.host == socket.gethostname():
                self._processes |= message.ids
        elif isinstance(message, Said):
            self._say(message.text)
        elif isinstance(message, Broken):
            raise (InputError if message.is_input_error else ActorError)(message.error)


def grouped(indices: Sequence[int], size: int) -> list[list[int]]:
    """Neighbours together, `size` of them; the last group may be smaller."""
    return [list(indices[first : first + size]) for first in range(0, len(indices), size)]
