"""The messages between the learner, the bridge (bridge.py) and the groups of actors (actor_group.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agents.runtime.processes.actor_process import Unroll
from envs.faults import Fault


class Placement(NamedTuple):
    """To the bridge: where the actors of a run are placed.

    Attributes:
        address: Of the cluster (connection.joined).
        groups: The actor indices of each group.
        cpus_per_actor: That Ray reserves.
    """

    address: str
    groups: Sequence[Sequence[int]]
    cpus_per_actor: float


class Delivered(NamedTuple):
    """To the learner: an unroll, whose trajectory is in the learner's buffer `number`."""

    number: int
    unroll: Unroll


class Restarted(NamedTuple):
    """To the learner: the arguments of Faults.add (agents/runtime/restarts.py)."""

    where: str
    fault: Fault
    unrolls_dropped: int
    episodes_dropped: int


class Dropped(NamedTuple):
    """To the learner: finished unrolls that were lost on the way."""

    unrolls: int


class Notice(NamedTuple):
    """To the learner: a line for the user."""

    text: str


class Processes(NamedTuple):
    """To the learner: process ids of a group's actors by name, and the host that they run on."""

    host: str
    ids: dict[str, int]


class FreeBuffer(NamedTuple):
    """To a group: `buffer` is free for its actor `member` as soon as the group has weights of at least `version`."""

    member: int
    buffer: int
    version: int
