"""Actors of a run on one node of a Ray cluster: what a Ray actor holds. It imports no Ray.

Inside the node all is as on a single machine (actor_pool.py): processes that are supervised and started again here, and buffers that an
actor may fill only when they were given back. Buffers are given back from afar, by the learner, so what is under way between a node
and the learner is bounded by the buffers that there are.
"""

from __future__ import annotations

import multiprocessing
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.runtime.base import PoolConfig, StreamPositions
from agents.runtime.processes.actor_pool import ActorPool
from agents.runtime.processes.actor_process import Finished
from agents.runtime.processes.process import configure_process
from agents.runtime.ray_groups.connection import hide_main_module, node_id
from agents.runtime.restarts import Faults
from system.descendants import supervise
from system.errors import InputError

Arrays = dict[str, NDArray[Any]]


class Node(NamedTuple):
    """Where a group has come to run."""

    node: str
    host: str


class Unroll(NamedTuple):
    """A finished unroll of an actor, by its index, which is `place` in its group; `episodes` are those that its slots are in."""

    actor: int
    place: int
    episodes: list[int]
    finished: Finished


class Broken(NamedTuple):
    """The group cannot go on: the traceback of what was raised, or the sentence of an InputError."""

    error: str
    is_input_error: bool


class Returned(NamedTuple):
    """A buffer that is free again, for the actor at that place in its group, and for weights that are no older than `version`."""

    place: int
    buffer: int
    version: int


class ReceivedWeights:
    """Parameters without a network.

    Args:
        shapes: of each, in order.

    Attributes:
        flat: float32, all parameters one after the other.
    """

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        sizes = [shape.numel() for shape in shapes]
        self.flat: NDArray[np.float32] = np.zeros(sum(sizes), np.float32)
        parts = torch.from_numpy(self.flat).split(sizes)
        self._views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def parameters(self) -> list[torch.Tensor]:
        """Views of `flat`."""
        return self._views


class ActorGroup:
    """Some of a run's actors, in processes of their own.

    `unroll` waits, so the other methods are called from threads beside it.
    """

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._returned, self._give_back = multiprocessing.Pipe(duplex=False)
        self._lock = threading.Lock()
        self._pool: ActorPool | None = None
        self._version = 0
        self._owed: list[Returned] = []

    def arrive(self) -> Node:
        """Where it is; answered as soon as there is room for it somewhere."""
        return Node(node_id(), socket.gethostname())

    def begin(
        self,
        config: PoolConfig,
        indices: Sequence[int],
        positions: StreamPositions,
        shapes: Sequence[torch.Size],
        flat: NDArray[np.float32],
        version: int,
    ) -> Broken | dict[str, int]:
        """Starts the actors `indices`, with weights [parameters] of these shapes. Returns their process ids, as Runtime.processes."""
        # Ray's process is not a child of the learner, and may end before it.
        supervise()
        configure_process(1)
        hide_main_module()
        self._weights = ReceivedWeights(shapes)
        self._weights.flat[:] = flat
        self._version = version
        try:
            # How many are too many is for the whole run to say.
            faults = Faults(max_restarts=sys.maxsize, record=self._news.put)
            self._pool = ActorPool(config, self._weights, indices, positions, version=version, faults=faults)
        except Exception as error:
            return _broken(error)
        return self._pool.processes()

    def unroll(self) -> tuple[Unroll | Broken | None, Arrays]:
        """The next one that is finished, and its trajectory, whose buffer stays taken until it is given back. None after `close`."""
        pool = self._pool
        if pool is None:
            return None, {}
        try:
            while not pool.ready:
                pool.wait(self._returned)
                while self._returned.poll():
                    returned = self._returned.recv()
                    if returned is None:
                        self._end(pool)
                        return None, {}
                    if isinstance(returned, Returned):
                        self._owed.append(returned)
                self._hand_out(pool)
        except Exception as error:
            self._end(pool)
            return _broken(error), {}
        place, finished = pool.ready.popleft()
        arrays = {key: value.numpy() for key, value in pool.buffers[finished.buffer].items()}
        return Unroll(pool.index(place), place, arrays["episode"].tolist(), finished), arrays

    def _hand_out(self, pool: ActorPool) -> None:
        """Gives actors the buffers for which the weights are here. Were they not waited for, an unroll could begin with weights that are
        older than on a single machine, as a buffer's number travels faster than they do.
        """
        version = self._version
        for returned in self._owed:
            if returned.version <= version:
                pool.give_back(returned.place, returned.buffer)
        self._owed = [returned for returned in self._owed if returned.version > version]

    def give_back(self, place: int, buffer: int, version: int) -> None:
        """See Returned."""
        with self._lock:
            self._give_back.send(Returned(place, buffer, version))

    def publish(self, flat: NDArray[np.float32], version: int) -> None:
        """Makes these the weights of the next unrolls."""
        self._weights.flat[:] = flat
        if self._pool is not None:
            self._pool.publish(version)
        self._version = version
        with self._lock:
            # Buffers may wait for it.
            self._give_back.send(version)

    def news(self, seconds: float) -> list[dict[str, Any]]:
        """Restarts since the last call, as agents.runtime.restarts records them; waits so long for one."""
        records = []
        try:
            records.append(self._news.get(timeout=seconds))
            while True:
                records.append(self._news.get_nowait())
        except queue.Empty:
            return records

    def processes(self) -> dict[str, int]:
        """Ids of the actors' processes, as Runtime.processes."""
        return self._pool.processes() if self._pool else {}

    def close(self) -> None:
        """Lets `unroll` end the actors and return."""
        with self._lock:
            self._give_back.send(None)

    def _end(self, pool: ActorPool) -> None:
        self._pool = None
        pool.close()


def _broken(error: Exception) -> Broken:
    if isinstance(error, InputError):
        return Broken(str(error), True)
    # An ActorError's message is already all that there is to say.
    return Broken(str(error) if type(error).__name__ == "ActorError" else traceback.format_exc(), False)
