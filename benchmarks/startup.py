"""Seconds from the start of train.py to the end of its first updates.

Usage:  python -m benchmarks.startup [rounds=5] [cases=...] [case="name: key=value ..."] [checkout="before: <folder> key=value ..."]
[key=value of train.py ...]

The cases, which are as those of benchmarks.throughput, take turns. A turn is a new process of train.py, which is killed after the updates
of its first batch. The default is the suite on each installed engine. The first round is dropped, so files are in the disk's cache.
`seconds` has no meaning here.

Prints one line of JSON for each case:

    - seconds       {median, min, max}, from the start of the process to the first log row.
    - cpu_seconds   Processor time of all its processes until then.
    - times_first   Ratio of `seconds` to the first case in the same round.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agents.setup.machine import num_cores
from benchmarks.cases import ROOT, THIS_CHECKOUT, chosen, configurations, other_checkouts, refuse_shared_names
from benchmarks.options import BenchmarkError, Row, parse, report
from benchmarks.programs import cpu_seconds
from benchmarks.train_process import HANG_SECONDS, kill_training
from benchmarks.turns import ratios, spread, take_turns

_POLL_SECONDS = 0.002


class Start(NamedTuple):
    """One turn: wall-clock seconds and processor seconds."""

    seconds: float
    cpu_seconds: float


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case."""
    options = parse(arguments, rounds=5, seconds=1.0, own=("cases", "case", "checkout"))
    cases, checkouts = chosen(options, "engines"), other_checkouts(options.own, options.overrides)
    if checkouts and not cases:
        cases = {THIS_CHECKOUT: list(options.overrides)}
    refuse_shared_names(cases, checkouts)
    configurations(cases)
    programs = {name: (ROOT, words) for name, words in cases.items()} | checkouts
    turns = take_turns({name: partial(start, root, words) for name, (root, words) in programs.items()}, options.rounds)
    first = [turn.seconds for turn in next(iter(turns.values()))]
    for name, readings in turns.items():
        yield {
            "case": name,
            "seconds": spread(turn.seconds for turn in readings),
            "cpu_seconds": spread(turn.cpu_seconds for turn in readings),
            "times_first": ratios([turn.seconds for turn in readings], first),
            "cores": num_cores(),
            "rounds": options.rounds,
            "checkout": str(programs[name][0]),
            "arguments": programs[name][1],
        }


def start(root: Path, words: Sequence[str]) -> Start:
    """Runs train.py of a checkout until its first log row.

    Raises:
        BenchmarkError: It ended before, or took longer than HANG_SECONDS.
    """
    with tempfile.TemporaryDirectory(prefix="mimpala-benchmark-") as folder:
        run = Path(folder) / "run"
        # The first log step follows the first batch.
        settings = ["total_frames=1000000000000", *words, "log_frames=1", f"run={run}", "display=false"]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(root / "train.py"), *settings],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not _has_row(run / "metrics.jsonl"):
                if process.poll() is not None:
                    raise BenchmarkError(f"train.py of {root} ended with exit code {process.returncode}")
                if time.perf_counter() - began > HANG_SECONDS:
                    raise BenchmarkError(f"train.py of {root} made no update in {HANG_SECONDS:g} s")
                time.sleep(_POLL_SECONDS)
            return Start(time.perf_counter() - began, cpu_seconds(process.pid))
        finally:
            kill_training(process)


def _has_row(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
