"""Memory and open files that a run needs, compared with those of this machine before the run starts.

The check is necessary because the kernel kills a process without a message if memory runs out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agents.setup import machine
from system.errors import InputError

_PROCESS = 200 * 2**20
"""Unshared bytes of a process that has imported torch."""

_SLOT_PROCESS = 60 * 2**20
"""Bytes of a process that has imported numpy and gymnasium, without its environment."""

_DESCRIPTORS = 100
"""Open files of a process, without those of its actors or environments."""


class Needs(NamedTuple):
    """The needs of a run: bytes of each part, and open files of the process with the most."""

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
    """The needs of a run with these parts.

    Args:
        trajectories: Bytes of the unroll buffers.
        replay: Bytes of the replay.
        parameters: Parameters of the network.
        actors: Actor processes; 0 if the learner's process plays.
        networks: Copies of the network that act.
        learners: Learner processes.
        bytes_per_parameter: Bytes per parameter of such a copy.
        slots: Slots of each actor.
        slots_have_processes: Whether each slot has its own process.
        environment: Bytes of the environment of a slot, without that process.
    """
    return Needs(
        trajectories=trajectories,
        replay=replay,
        actors=actors * _PROCESS + networks * parameters * bytes_per_parameter,
        environments=max(1, actors)
        * environments_memory(slots, environment, slots_have_processes=slots_have_processes),
        # 4 bytes each for weights, gradients and two moments of the optimiser.
        learner=learners * 4 * 4 * parameters + (learners - 1) * _PROCESS,
        # An actor takes two pipes and a sentinel; an environment's process takes two pipes.
        open_files=_DESCRIPTORS + max(4 * actors, 3 * slots * slots_have_processes),
    )


def environments_memory(slots: int, environment: int, *, slots_have_processes: bool) -> int:
    """Bytes of the environments of `slots` slots; arguments as in `sum_needs`."""
    return slots * (environment + _SLOT_PROCESS * slots_have_processes)


def check_resources(
    needs: Needs, suggest: Callable[[str], str], *, memory: int | None = None, open_files: int | None = None
) -> None:
    """Refuses a run that does not fit. Raises this process's limit of open files if the run needs more.

    Args:
        suggest: Returns the options to lower, in words, for the largest field of Needs.
        memory: Available bytes; None asks the machine.
        open_files: Allowed open files; None asks the machine.

    Raises:
        InputError: With the numbers and the options to lower.
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
