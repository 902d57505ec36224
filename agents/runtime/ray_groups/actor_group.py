"""A group of a run's actors on one node of a Ray cluster: the class of the Ray actor, and the bridge's handle of it.

Within the node the actors are processes of a LocalRuntime, as on a single machine. The learner gives buffers back from afar, so the number
of buffers bounds the unrolls that are on the way between the node and the learner.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import queue
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import vector_to_parameters

from agents.runtime.base import ActorError, PoolConfig, StreamPositions
from agents.runtime.local import LocalRuntime
from agents.runtime.processes.actor_process import Unroll
from agents.runtime.processes.process import configure_process
from agents.runtime.ray_groups.connection import node_id
from agents.runtime.restarts import Faults
from system.descendants import supervise
from system.errors import ErrorReport

Arrays = dict[str, NDArray[Any]]


class Node(NamedTuple):
    """The node on which a group runs: Ray's id, and the host name."""

    id: str
    host: str


class FreeBuffer(NamedTuple):
    """To a group: `buffer` is free for its actor `member` as soon as the group has weights of at least `version`."""

    member: int
    buffer: int
    version: int


def make_parameters(shapes: Sequence[torch.Size]) -> nn.ParameterList:
    """Parameters of these shapes without a network."""
    return nn.ParameterList([torch.zeros(shape) for shape in shapes])


class ActorGroup:
    """Some of a run's actors, one process each.

    `unroll` waits, so the other methods are called from other threads.
    """

    def __init__(self) -> None:
        self._faults: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        # Wakes `unroll`: a FreeBuffer, a new version of the weights, or None to end.
        self._wakeups, self._wake = multiprocessing.Pipe(duplex=False)
        self._lock = threading.Lock()
        self._pool: LocalRuntime | None = None
        self._version = 0
        self._free: list[FreeBuffer] = []

    def node(self) -> Node:
        """Where the group runs. Ray answers when it has placed the group."""
        return Node(node_id(), socket.gethostname())

    def begin(
        self,
        config: PoolConfig,
        indices: Sequence[int],
        positions: StreamPositions,
        shapes: Sequence[torch.Size],
        flat: NDArray[np.float32],
        version: int,
    ) -> ErrorReport | None:
        """Starts the actors `indices` with the weights `flat`, parameters of these shapes. Returns the error if that fails."""
        # Ray's worker is no descendant of the learner, and may end before its actors.
        supervise()
        configure_process(1)
        self._weights = make_parameters(shapes)
        vector_to_parameters(torch.tensor(flat), self._weights.parameters())
        self._version = version
        # The learner counts the restarts of all groups.
        faults = Faults(max_restarts=sys.maxsize, record=self._faults.put)
        try:
            self._pool = LocalRuntime(
                config, self._weights, indices=indices, positions=positions, version=version, faults=faults
            )
        except Exception as error:
            return ErrorReport.of(error, ActorError)
        return None

    def unroll(self) -> tuple[Unroll | ErrorReport | None, Arrays]:
        """Waits for an unroll. Returns it and its trajectory, whose buffer is taken until `give_back`; None after `close`."""
        pool = self._pool
        if pool is None:
            return None, {}
        try:
            while not pool.ready:
                pool.wait(self._wakeups)
                while self._wakeups.poll():
                    wakeup = self._wakeups.recv()
                    if wakeup is None:
                        self._end(pool)
                        return None, {}
                    if isinstance(wakeup, FreeBuffer):
                        self._free.append(wakeup)
                # A buffer's index travels faster than the weights. Without the wait for them an unroll could begin with older weights than
                # on a single machine.
                version = self._version
                for free in self._free:
                    if free.version <= version:
                        pool.give_back(free.member, free.buffer)
                self._free = [free for free in self._free if free.version > version]
        except Exception as error:
            self._end(pool)
            return ErrorReport.of(error, ActorError), {}
        unroll = pool.ready.popleft()
        return unroll, {key: value.numpy() for key, value in pool.buffers[unroll.buffer].items()}

    def give_back(self, free: FreeBuffer) -> None:
        """Frees a buffer."""
        with self._lock:
            self._wake.send(free)

    def publish(self, flat: NDArray[np.float32], version: int) -> None:
        """Makes these the weights of the next unrolls."""
        vector_to_parameters(torch.tensor(flat), self._weights.parameters())
        if self._pool is not None:
            self._pool.publish(version)
        self._version = version
        with self._lock:
            # Free buffers may wait for this version.
            self._wake.send(version)

    def report(self, seconds: float) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Records of Faults since the last call, and Runtime.processes of the group; waits up to `seconds` for the first record."""
        records = []
        with contextlib.suppress(queue.Empty):
            records.append(self._faults.get(timeout=seconds))
            while True:
                records.append(self._faults.get_nowait())
        return records, self._pool.processes() if self._pool else {}

    def close(self) -> None:
        """Lets `unroll` end the actors and return None."""
        with self._lock:
            self._wake.send(None)

    def _end(self, pool: LocalRuntime) -> None:
        self._pool = None
        pool.close()


class ActorGroupHandle:
    """The bridge's handle of one group, through all its restarts.

    Attributes:
        positions: Where the random streams of its actors begin at the next restart.
        handle: Of the Ray actor.
        node: Where it runs; None until Ray has placed it.
        version: Of its weights; -1 until its actors have started.
        published: Set when the learner has published weights.
    """

    def __init__(self, indices: Sequence[int], positions: StreamPositions) -> None:
        self.indices = list(indices)
        self.positions = positions.of({index: index for index in indices})
        self.handle: Any = None
        self.node: Node | None = None
        self.version = -1
        self.published = asyncio.Event()

    @property
    def name(self) -> str:
        """For messages: its actors, and its node."""
        first, last = self.indices[0], self.indices[-1]
        actors = f"actor {first}" if first == last else f"actors {first} to {last}"
        return f"{actors} on node {self.node.id[:8]} ({self.node.host})" if self.node else actors

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of ActorGroup while `unroll` waits in another thread. Returns Ray's reference of the result."""
        return getattr(self.handle, method).options(concurrency_group="beside").remote(*arguments)

    def skip(self, buffers_per_actor: int, length: int, slots: int) -> None:
        """Advances `positions` beyond all that the lost actors can have played, so that nothing is played twice.

        An actor starts at most one unroll per buffer, and at most one episode per two steps, because the first step of an episode is a
        reset.
        """
        for index in self.indices:
            self.positions.unrolls[index] = self.positions.unrolls.get(index, 0) + buffers_per_actor
            most = buffers_per_actor * (length // 2 + 1)
            last = self.positions.episodes.get(index, [-1] * slots)
            self.positions.episodes[index] = [episode + most for episode in last]
