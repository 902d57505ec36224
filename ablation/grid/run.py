"""Runs a grid in its folder, with its progress on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ablation.grid.display import CellDisplay
from ablation.grid.executors import open_executor
from ablation.grid.grid import Cell, save_grid
from ablation.grid.scheduler import CellStatus, run_cells
from conf.ablate_schema import AblateConfig
from system.words import count


def run_grid(config: AblateConfig, cells: Sequence[Cell], command: Sequence[str]) -> dict[str, CellStatus]:
    """Runs the unfinished cells; returns the state of each by name. The caller holds the lock of the folder.

    InputError if a cell's folder holds a run with other settings.
    """
    folder = cells[0].folder.parent
    save_grid(folder, cells, command)
    with CellDisplay(cells, enabled=config.display) as display:
        display.say(f"mimpala: {count(len(cells), 'run')} in {folder}")
        with open_executor(config, cells, display.say) as executor:
            return run_cells(cells, executor, display.update)
