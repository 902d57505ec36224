"""Chooses the executor of a grid or population: processes of this machine, or a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from ablation.grid.grid import CLUSTER, Cell
from ablation.grid.local_executor import LocalExecutor, available_cores
from ablation.grid.ray_executor import RayExecutor, check_room
from ablation.grid.scheduler import Executor
from agents.cli.signals import raise_at_signals
from agents.runtime.ray_groups.connection import check_address, joined
from conf.ablate_schema import AblateConfig
from conf.population_schema import PopulationConfig
from conf.search_schema import SearchConfig


@contextlib.contextmanager
def open_executor(
    config: AblateConfig | PopulationConfig | SearchConfig, cells: Sequence[Cell], say: Callable[[str], object]
) -> Iterator[Executor]:
    """The executor for `cells`; a cluster is disconnected at the end of the context.

    Without `config.parallel`, this machine runs one cell at a time, or one per core if the runtime is serial. `say` receives warnings.
    InputError if Ray is not installed, the cluster does not answer, or no machine of it can ever run a cell.
    """
    runtime = config.runtime
    if runtime.name != CLUSTER:
        yield LocalExecutor(config.parallel or (len(available_cores()) if runtime.name == "serial" else 1))
        return
    check_address(runtime.address)
    # An empty address starts a cluster on this machine for the time of the context.
    with joined(runtime.address, num_cpus=len(available_cores())):
        # Ray replaces the signal handlers.
        raise_at_signals()
        if warning := check_room(cells, alone=not runtime.address):
            say(warning)
        yield RayExecutor(config.parallel, say)
