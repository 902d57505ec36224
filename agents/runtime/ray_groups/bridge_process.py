"""The main function of the bridge's process, which is separate so that no failure of a cluster can end the learner."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from agents.cli.signals import outlive_the_parent
from agents.runtime.processes.buffers import AnonymousFile, SharedArrays, SharedWeights
from agents.runtime.processes.process import configure_process, leave_signals_to_the_learner
from agents.runtime.ray_groups.bridge import Bridge
from agents.runtime.ray_groups.connection import joined
from agents.trajectory import num_bytes
from system.descendants import supervise
from system.errors import ErrorReport, InputError

_LAST_SECONDS = 30.0
"""Time that the bridge has after the learner's end."""


def run_bridge(learner: Connection, output: AnonymousFile, buffers: SharedArrays, weights: SharedWeights) -> None:
    """Main function of the bridge. The learner's first message is (Placement, PoolConfig, StreamPositions). Ray prints to `output`."""
    # When the learner dies, its pipe ends and the bridge cleans up. If the bridge cannot, its supervisor does.
    outlive_the_parent(_LAST_SECONDS)
    supervise()
    os.dup2(output.descriptor, 1)
    os.dup2(output.descriptor, 2)
    leave_signals_to_the_learner()
    configure_process(1)
    try:
        placement, pool, positions = learner.recv()
    except (EOFError, OSError):
        return
    actors = sum(len(indices) for indices in placement.groups)
    try:
        with joined(
            placement.address,
            num_cpus=max(1, round(actors * placement.cpus_per_actor + 0.5)),
            store_bytes=store_bytes(pool.spec, actors, pool.buffers_per_actor, weights.shapes),
        ) as ray:
            asyncio.run(Bridge(ray, learner, placement, pool, positions, buffers, weights).run())
    except InputError as error:
        learner.send(ErrorReport.of(error))


def store_bytes(spec: Mapping[str, Any], actors: int, buffers_per_actor: int, shapes: Sequence[Any]) -> int:
    """Bytes that the cluster's object stores hold at most: the trajectories of all buffers, and some versions of the weights."""
    weights = 4 * sum(shape.numel() for shape in shapes)
    return int(1.5 * (actors * buffers_per_actor * num_bytes(spec) + 4 * weights))
