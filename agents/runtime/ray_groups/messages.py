"""What a learner and the process that speaks to Ray for it tell each other (ray_executor.py, bridge.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agents.runtime.ray_groups.actor_group import Unroll
from envs.faults import Fault


class Placement(NamedTuple):
    """Where the actors of a run go.

    Attributes:
        address: of the cluster (ray_connection.joined).
        groups: the actors of each, by their indices.
        cpus_per_actor: that Ray reserves.
    """

    address: str
    groups: Sequence[Sequence[int]]
    cpus_per_actor: float


class Delivered(NamedTuple):
    """To the learner: an unroll, whose trajectory is in buffer `number`."""

    number: int
    unroll: Unroll


class Restarted(NamedTuple):
    """To the learner: something was started again; see agents.runtime.restarts.Faults.add."""

    where: str
    fault: Fault
    unrolls_dropped: int
    episodes_dropped: int


class Dropped(NamedTuple):
    """To the learner: finished unrolls that did not arrive."""

    unrolls: int


class Said(NamedTuple):
    """To the learner: a line for the user."""

    text: str


class Processes(NamedTuple):
    """To the learner: process ids of a group's actors by name, and the machine that they are on."""

    host: str
    ids: dict[str, int]
