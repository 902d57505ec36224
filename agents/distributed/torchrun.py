"""What torchrun tells a process. Imports nothing slow, because train.py asks before it imports torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from system.errors import InputError

_KEY = "learner.num_processes"


class Launched(NamedTuple):
    """The rank of this process among the processes that torchrun has started, and their number."""

    rank: int
    size: int


def torchrun_rank() -> Launched | None:
    """Reads the environment variables of torchrun. None without them, or with one process."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    size = int(os.environ["WORLD_SIZE"])
    return Launched(int(os.environ["RANK"]), size) if size > 1 else None


def add_num_processes(arguments: Sequence[str], launched: Launched | None) -> list[str]:
    """Adds the number of processes that torchrun has started to the command line. Raises InputError if that gives another number."""
    if launched is None:
        return list(arguments)
    key = f"{_KEY}={launched.size}"
    if different := [argument for argument in arguments if argument.partition("=")[0] == _KEY and argument != key]:
        raise InputError(f"{different[0]} contradicts torchrun, which has started {launched.size}: leave the key out.")
    return [*arguments, key]
