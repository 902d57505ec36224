"""A group of actors on a node of a cluster, as the process that speaks to Ray sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents.runtime.base import StreamPositions
from agents.runtime.ray_groups.actor_group import Node


class ActorGroupHandle:
    """One group, through all its lives.

    Attributes:
        indices: of its actors.
        positions: where their random streams begin when they are started the next time.
        handle: of the Ray actor.
        place: where it runs; None until there is room.
        version: of the weights that it has; -1 before it has begun.
        publishing: whether weights are on their way to it.
    """

    def __init__(self, indices: Sequence[int], positions: StreamPositions) -> None:
        self.indices = list(indices)
        self.positions = StreamPositions(
            {index: positions.unrolls[index] for index in indices if index in positions.unrolls},
            {index: positions.episodes[index] for index in indices if index in positions.episodes},
            positions.steps,
        )
        self.handle: Any = None
        self.place: Node | None = None
        self.version = -1
        self.publishing = False

    @property
    def name(self) -> str:
        first, last = self.indices[0], self.indices[-1]
        who = f"actor {first}" if first == last else f"actors {first} to {last}"
        return f"{who} on node {self.place.node[:8]} ({self.place.host})" if self.place else who

    def beside(self, method: str, *arguments: Any) -> Any:
        """Calls a method that does not wait behind `unroll`."""
        return getattr(self.handle, method).options(concurrency_group="beside").remote(*arguments)

    def skip(self, buffers_per_actor: int, length: int, slots: int) -> None:
        """Nobody knows how far the actors came. They cannot have begun more unrolls than they had buffers, nor in each of its steps but
        every second an episode, whose first step is a reset; all of these are skipped, so that none is played twice.
        """
        for index in self.indices:
            self.positions.unrolls[index] = self.positions.unrolls.get(index, 0) + buffers_per_actor
            most = buffers_per_actor * (length // 2 + 1)
            last = self.positions.episodes.get(index, [-1] * slots)
            self.positions.episodes[index] = [episode + most for episode in last]
