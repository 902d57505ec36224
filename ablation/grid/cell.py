"""Runs one cell in its own process:  python -m ablation.grid.cell <cell folder> <threads> <cores, or empty> <id of the parent process>

Resumes training, evaluates and exits. When the parent process dies, it saves and exits too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.cli.signals import INTERRUPTED, raise_at_signals, run_program
from agents.run.lock import sole_writer

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def main(arguments: Sequence[str]) -> int:
    """Exit codes of train.py: 0 done, 1 failed and saved, 2 bad input, 130 interrupted and saved."""
    folder, threads, cores, parent = Path(arguments[0]), int(arguments[1]), arguments[2], int(arguments[3])
    # Ray's processes block SIGINT, and children inherit the mask.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # The grid sends SIGINT, also if a shell started the grid with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(os, "sched_setaffinity"):
        if cores:
            # Before any library counts the cores.
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            # The parent died before prctl took effect.
            return INTERRUPTED
    # The same cell of a killed grid may still be saving.
    with sole_writer(folder, wait=True):
        return run(folder, threads=threads)


def run(folder: Path, *, threads: int) -> int:
    """Trains and evaluates what cell.json asks for and the run folder does not hold yet; returns the exit code."""
    # Imported after the affinity is set, because torch counts the cores at import.
    from ablation.grid.entry_points import load_entry_point
    from ablation.grid.grid import is_evaluated, is_trained, load_cell
    from ablation.run_files import CELL_FILE
    from agents.cli.exit_codes import DONE, exit_code
    from agents.setup.plugins import load_plugins
    from conf.allowlist import saved_plugins
    from envs.suites import make_spec
    from system.errors import RunError
    from system.files import read_json

    train = load_entry_point("train")

    def train_and_evaluate() -> int:
        # The grid has written the file, and its command names them.
        load_plugins(saved_plugins((read_json(folder / CELL_FILE) or {}).get("train")))
        cell = load_cell(folder)
        if not is_trained(cell):
            code: int = train.train(cell.train, make_spec(cell.train.env), pause_at=cell.pause_at)
            if code != DONE:
                return code
        # An evaluation saves nothing, so a signal ends it at once.
        raise_at_signals()
        if cell.evaluate and not is_evaluated(cell):
            cell.evaluate.threads = threads
            return int(load_entry_point("evaluate").evaluate(cell.evaluate))
        return DONE

    return exit_code(train_and_evaluate, failures=(RunError,))


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
