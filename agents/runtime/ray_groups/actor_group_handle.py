"""The bridge's handle of a group of actors on a node of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents.runtime.base import StreamPositions
from agents.runtime.ray_groups.actor_group import Node


class ActorGroupHandle:
    """One group, through all its restarts.

    Attributes:
        indices: Of its actors in the run.
        positions: Where their random streams begin at the next restart.
        handle: Of the Ray actor.
        node: Where it runs; None until Ray has placed it.
        version: Of its weights; -1 until its actors have started.
        publishing: Whether weights are on their way to it.
    """

    def __init__(self, indices: Sequence[int], positions: StreamPositions) -> None:
        self.indices = list(indices)
        self.positions = StreamPositions(
            {index: positions.unrolls[index] for index in indices if index in positions.unrolls},
            {index: positions.episodes[index] for index in indices if index in positions.episodes},
            positions.steps,
        )
        self.handle: Any = None
        self.node: Node | None = None
        self.version = -1
        self.publishing = False

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
