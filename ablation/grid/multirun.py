"""`train.py -m`: one run for each combination of the values on the command line, without evaluation.

The runs are the cells that ablate.py would make of the same arguments, so that it can evaluate them afterwards without training again.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from ablation.grid.grid import make_cells, normalize_axes
from ablation.grid.local_executor import available_cores
from ablation.grid.run import run_grid
from ablation.grid.scheduler import State
from agents.cli.exit_codes import DONE, FAILED
from agents.cli.terminal import TextConsole, warn
from agents.run.lock import sole_writer
from conf.ablate_schema import check_ablate
from conf.arguments.aliases import normalize
from conf.command_line import command_of
from conf.loading import compose_ablate, compose_for, compose_train, split_axes

_GRID_KEYS = ("folder", "parallel", "node_runtime")
"""Keys of ablate.py that hold here as well."""


def multirun(overrides: Sequence[str]) -> int:
    """Trains every combination. Returns the exit code: 0 done, 1 some runs failed. InputError as ablate.py."""
    single, axes = split_axes(overrides, "train")
    given = dict(text.split("=", 1) for text in single)
    # train.py's own errors; keys of a report are unknown here.
    of_train = [text for text in single if text.split("=", 1)[0] not in _GRID_KEYS]
    for key, values in axes.items():
        for value in values:
            compose_for("train", [*of_train, f"{key}={value}"])
    train = compose_train(of_train)
    # `resume=true` is how every run of a grid continues.
    own = [text for text in single if text.split("=", 1)[0] not in ("run", "resume", "seed", "folder")]
    folder = given.get("folder") or train.run or f"runs/multirun-{train.env.name}"
    own.append(f"folder={folder}")
    if "fusion" not in axes and "fusion" not in given:
        own.append(f"fusion={train.fusion.name}")
    if "seed" not in axes:
        own.append(f"seeds=[{train.seed}]")
    config = compose_ablate([text for text in own if not text.startswith("fusion=")])
    normalize_axes(config, own, axes)
    check_ablate(config, len(available_cores()))
    cells = [dataclasses.replace(cell, evaluate=None) for cell in make_cells(config, own, axes)]
    arguments = [*own, *(f"{key}={','.join(values)}" for key, values in axes.items())]
    with sole_writer(cells[0].folder.parent, key="folder"):
        try:
            status = run_grid(config, cells, ["python", "train.py", "-m", *normalize(overrides, "train")])
        except KeyboardInterrupt:
            warn("interrupted and saved: the same command continues")
            raise
    console = TextConsole()
    console.say("ablate.py evaluates these runs and writes a report, with the same keys:")
    console.verbatim(f"next: {command_of('ablate')} {shlex.join(arguments)}")
    return FAILED if State.FAILED in {cell.state for cell in status.values()} else DONE
