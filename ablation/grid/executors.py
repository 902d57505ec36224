"""Which place plays the cells of a grid or of a population: the processes of this machine, or a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from ablation.grid.grid import CLUSTER, Cell
from ablation.grid.local_executor import Processes, available_cores
from ablation.grid.ray_executor import Cluster, check_room, connected
from ablation.grid.scheduler import Executor
from conf.schema import RuntimeConfig


class Shared(Protocol):
    """What a configuration says of it.

    Attributes:
        parallel: cells at a time; 0 = as many as there is room for.
    """

    runtime: RuntimeConfig
    parallel: int


@contextlib.contextmanager
def executor_for(config: Shared, cells: Sequence[Cell], say: Callable[[str], object]) -> Iterator[Executor]:
    """The place, for as long as the context lasts.

    Args:
        cells: that will be played there.
        say: is given a sentence when something is worth telling.

    Raises:
        InputError: there is no such cluster, or none of its machines could ever play a cell.
    """
    if config.runtime.name != CLUSTER:
        yield Processes(config.parallel or cells_at_a_time(config.runtime))
        return
    with connected(config.runtime.address):
        if warning := check_room(cells, alone=not config.runtime.address):
            say(warning)
        yield Cluster(config.parallel, say)


def cells_at_a_time(runtime: RuntimeConfig) -> int:
    """On this machine: as many as there are cores where each run takes one."""
    return len(available_cores()) if runtime.name == "serial" else 1
