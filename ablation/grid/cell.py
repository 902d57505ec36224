"""One cell in a process of its own:  python -m ablation.grid.cell <cell folder> <threads> <cores, or empty> <process that started it>

It trains from where its run folder stands, evaluates, and ends; with the process that started it it ends too, saved.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.cli.signals import INTERRUPTED, end_with_the_parent, raise_at_signals, run_program
from agents.run.lock import sole_writer

if __name__ == "__mp_main__":
    # This is an actor of the cell, which imports the main module before anything else.
    end_with_the_parent()

_PR_SET_PDEATHSIG = 1
"""Linux's prctl.h."""


def main(arguments: Sequence[str]) -> int:
    """Exit codes as train.py: 0 done, 1 failed and saved, 2 bad input, 130 interrupted and saved."""
    folder, threads, cores, parent = Path(arguments[0]), int(arguments[1]), arguments[2], int(arguments[3])
    # Ray's processes block it, and so would everything that is started from here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # The grid sends it, even where a shell has told the grid to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(os, "sched_setaffinity"):
        if cores:
            # Before anything counts them.
            os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            # It ended before it could be asked to tell.
            return INTERRUPTED
    # The same cell of a grid that was killed may still be saving.
    with sole_writer(folder, wait=True):
        return run(folder, threads=threads)


def run(folder: Path, *, threads: int) -> int:
    """Trains and evaluates what cell.json asks for, as far as that is not done yet."""
    # Imported here, because torch looks at the cores when it is imported.
    import evaluate
    import train
    from ablation.grid.grid import evaluated, load_cell, trained
    from agents.cli.exit_codes import DONE, exit_code
    from envs.suites import make_spec

    def play() -> int:
        cell = load_cell(folder)
        if not trained(cell):
            code = train.train(cell.train, make_spec(cell.train.env), pause_at=cell.pause_at)
            if code != DONE:
                return code
        # An evaluation has nothing to save.
        raise_at_signals()
        if cell.evaluate and not evaluated(cell):
            cell.evaluate.threads = threads
            return evaluate.evaluate(cell.evaluate)
        return DONE

    return exit_code(play, failures=train.FAILURES)


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
