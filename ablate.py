"""Compares fusions:  python ablate.py fusions=[concat,film,mi] seeds=5 [key=value ...]   (README.md; every key: conf/ablate_schema.py).

Any key of train.py may be given; one with several values (core=lstm,mlstm) is a further axis of the grid.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, raise_at_signals, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ablation.analysis.analysis import analyse
from ablation.analysis.results import Results
from ablation.analysis.tuning import describe_choices
from ablation.grid.grid import make_cells, normalize_axes
from ablation.grid.local_executor import available_cores
from ablation.grid.run import run_grid
from ablation.grid.scheduler import State
from ablation.grid.tuning import TunedGrid
from ablation.load import load_folders, load_grid
from agents.cli.exit_codes import DONE, FAILED, exit_code, print_text
from agents.cli.terminal import TextConsole, warn
from agents.run.lock import sole_writer
from agents.setup.plugins import prepare
from conf.ablate_schema import AblateConfig, check_ablate
from conf.arguments.flags import answer, read_arguments
from conf.loading import compose_ablate, split_axes
from system.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 1 some runs failed, 2 bad input, 130 interrupted and saved."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(lambda: dispatch(arguments), interrupted="interrupted and saved: the same command continues")


def dispatch(arguments: Sequence[str]) -> int:
    """Runs a grid, or makes a report only. Returns the exit code."""
    typed = read_arguments(arguments, "ablate")
    prepare(typed)
    if (text := answer(typed, __doc__)) is not None:
        return print_text(text)
    single, axes = split_axes(typed.overrides)
    config = compose_ablate(single)
    normalize_axes(config, single, axes)
    check_ablate(config, len(available_cores()))
    if config.report:
        return report(load_grid(Path(config.report), config.measure), Path(config.report), config)
    if config.curves:
        return draw_curves(load_folders(config.folders, config.measure, evaluated=False), config)
    if config.folders:
        return report(load_folders(config.folders, config.measure), Path(config.folder or "runs/comparison"), config)
    return ablate(config, single, axes)


def ablate(config: AblateConfig, single: Sequence[str], axes: dict[str, list[str]]) -> int:
    """Runs the unfinished cells and reports. Returns the exit code."""
    tuned = TunedGrid(config, single, axes) if config.tune is not None else None
    cells = [] if tuned else make_cells(config, single, axes)
    folder = tuned.folder if tuned else cells[0].folder.parent
    with sole_writer(folder, key="folder"):
        command = ["python", "ablate.py", *single, *(f"{key}={','.join(axes[key])}" for key in axes)]
        states = set()
        if tuned:
            cells, choices, has_failed = tuned.tune(command)
            TextConsole().say("\n".join(describe_choices(choices)))
            states = {State.FAILED} if has_failed else set()
        if cells:
            states |= {cell.state for cell in run_grid(config, cells, command).values()}
        if states == {State.FAILED}:
            warn(
                "error: every run failed, so there is no report: the reasons are above, and the same command tries again"
            )
            return FAILED
        code = report(load_grid(folder, config.measure), folder, config)
    return FAILED if State.FAILED in states else code


def draw_curves(results: Results, config: AblateConfig) -> int:
    """Writes the learning curves. Returns the exit code. InputError if the folder cannot be written."""
    from ablation.report.report import write_curves

    return _written(results, [], lambda folder: write_curves(results, folder), Path(config.folder or "runs/curves"))


def report(results: Results, folder: Path, config: AblateConfig) -> int:
    """Writes the report and prints the verdict. Returns the exit code. InputError if the folder cannot be written."""
    # Imported here, because matplotlib takes a second.
    from ablation.report.report import write_report

    analysis = analyse(results, threshold=config.threshold)
    return _written(results, analysis.sentences, lambda into: write_report(results, analysis, into), folder)


def _written(results: Results, sentences: Sequence[str], write: Callable[[Path], list[Path]], folder: Path) -> int:
    """Writes files into the folder, and prints the sentences and the first path. Returns the exit code."""
    try:
        written = write(folder)
    except OSError as error:
        raise InputError(f"folder={folder} cannot be written ({error.strerror}): give another folder=.") from error
    for problem in results.problems:
        warn(f"{problem.run} is left out: {problem.reason}")
    TextConsole().say("\n".join(["", *sentences, *[""] * bool(sentences), f"written: {written[0]}"]))
    return DONE


if __name__ == "__main__":
    run_program(main)
