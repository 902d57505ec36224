"""Memory and open files that a run needs, compared with what this machine has before anything starts.

A process that the kernel kills for want of memory leaves no message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agents.setup import machine
from system.errors import InputError

_PROCESS = 200 * 2**20
"""Bytes of a process that has imported torch, beyond what it shares with others."""

_SLOT_PROCESS = 60 * 2**20
"""Bytes of a process that has imported numpy and gymnasium; what its environment takes comes on top."""

_DESCRIPTORS = 100
"""Open files that a process has besides those of its actors or environments."""


class Needs(NamedTuple):
    """Of a run, in bytes, and in open files of the process that has most of them."""

    trajectories: int
    replay: int
    actors: int
    environments: int
    learner: int
    open_files: int


def sum_needs(
    *,
    trajectories: int,
    replay: int,
    parameters: int,
    actors: int,
    networks: int,
    learners: int = 1,
    bytes_per_parameter: int,
    slots: int,
    slots_have_processes: bool,
    environment: int = 0,
) -> Needs:
    """What a run needs.

    Args:
        trajectories, replay: bytes.
        parameters: of the network.
        actors: processes; 0 when all is played in the learner's.
        networks: copies of the network that act.
        learners: processes that learn.
        bytes_per_parameter: of such a copy.
        slots: of each actor.
        slots_have_processes: whether each slot has a process of its own.
        environment: bytes that the environment of a slot takes, beyond that process.
    """
    return Needs(
        trajectories=trajectories,
        replay=replay,
        actors=actors * _PROCESS + networks * parameters * bytes_per_parameter,
        environments=max(1, actors)
        * environments_memory(slots, environment, slots_have_processes=slots_have_processes),
        # Weights, gradients and two moments of the optimiser.
        learner=learners * 4 * 4 * parameters + (learners - 1) * _PROCESS,
        # Of an actor: two pipes and what tells of its end. Of an environment's process: two pipes.
        open_files=_DESCRIPTORS + max(4 * actors, 3 * slots * slots_have_processes),
    )


def environments_memory(slots: int, environment: int, *, slots_have_processes: bool) -> int:
    """Bytes of as many slots; the arguments are those of `sum_needs`."""
    return slots * (environment + _SLOT_PROCESS * slots_have_processes)


def check_resources(
    needs: Needs, suggest: Callable[[str], str], *, memory: int | None = None, open_files: int | None = None
) -> None:
    """Refuses a run that cannot fit. Raises this process's limit of open files where the run needs more.

    Args:
        suggest: returns what to lower, in words, for the field of Needs that takes most.
        memory, open_files: available; None asks the machine.

    Raises:
        InputError: with the numbers, and what to lower.
    """
    parts = {name: size for name, size in needs._asdict().items() if name != "open_files"}
    total, free = sum(parts.values()), machine.free_memory() if memory is None else memory
    if total > free:
        listed = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items() if size)
        largest = max(parts, key=lambda name: parts[name])
        raise InputError(
            f"this run needs at least {total / 2**20:,.0f} MiB of memory ({listed}) and {free / 2**20:,.0f} MiB are free: lower "
            f"{suggest(largest)}."
        )
    allowed = machine.allow_open_files(needs.open_files) if open_files is None else open_files
    if needs.open_files > allowed:
        raise InputError(
            f"this run needs {needs.open_files:,} open files in one process and {allowed:,} are allowed: lower {suggest('open_files')}, "
            "or raise the limit (ulimit -n)."
        )
