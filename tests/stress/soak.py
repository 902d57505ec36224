"""Memory and log of a long training:  python -m tests.stress.soak [minutes=30] [warm=5] [key=value of train.py ...]

Trains the default suite, or the one of the keys, for `minutes` after its first log row, stops it with Ctrl-C, and prints one line of JSON:
the resident memory of every process after the first `warm` minutes and at the end, each the median of a tenth of the time between them;
restarts; the longest time without a row in metrics.jsonl; and how the training ended.

`ok` is whether no process grew by 2% or more, nothing was restarted, the rows came within 60 seconds of each other, and the training
ended within 10 seconds, saved, with exit code 130 and no process left. Exit code 1 if not.
"""

from __future__ import annotations

import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from agents.storage.checkpoint import list_checkpoints
from benchmarks.options import BenchmarkError, Row, parse, report
from benchmarks.train_process import kill_training, log_rows, start_training, wait_for
from system.errors import InputError

LOG_SECONDS = 5.0
MOST_GROWTH = 0.02
MOST_SILENCE = 60.0
END_SECONDS = 10.0


def measure(arguments: list[str]) -> Iterator[Row]:
    """The row."""
    options = parse(arguments, rounds=1, seconds=1.0, own=("minutes", "warm"))
    minutes, warm = options.number("minutes", 30.0), options.number("warm", 5.0)
    if warm >= minutes:
        raise InputError(f"warm={warm:g} is no part of minutes={minutes:g}: give more minutes.")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        process = start_training(run, [*options.overrides, f"log_seconds={LOG_SECONDS}", "total_frames=1000000000000"])
        try:
            wait_for(lambda: bool(log_rows(run)), process)
            deadline = time.monotonic() + 60 * minutes
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise BenchmarkError(f"the training ended by itself with exit code {process.returncode}")
                time.sleep(1)
            children = psutil.Process(process.pid).children(recursive=True)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            code = process.wait(120)
            ending = time.monotonic() - sent
            _, alive = psutil.wait_procs(children, END_SECONDS)
        finally:
            kill_training(process)
        row = summarize(log_rows(run), 60.0 * warm) | {
            "exit_code": code,
            "ending_seconds": ending,
            "processes_left": len(alive),
            "saved": bool(list_checkpoints(run / "checkpoints")),
        }
    ok = row["growth_max"] < MOST_GROWTH and not row["restarts"] and row["silence_max"] < MOST_SILENCE
    ok = ok and code == 130 and ending < END_SECONDS and not alive and row["saved"]
    yield {"case": "soak", "minutes": minutes, **row, "ok": ok}


def summarize(rows: list[dict[str, Any]], warm: float) -> Row:
    """Frames, memory by process, restarts and the longest silence of the rows of metrics.jsonl; memory without the first `warm` seconds."""
    last = rows[-1]["seconds"]
    tenth = (last - warm) / 10
    after = [row for row in rows if row["seconds"] >= warm]
    # At least one row, however slow the machine is.
    first_rows = [row for row in after if row["seconds"] < warm + tenth] or after[:1]
    last_rows = [row for row in rows if row["seconds"] >= last - tenth]
    memory = {
        key.removeprefix("memory/"): [
            float(statistics.median(row[key] for row in part if key in row)) for part in (first_rows, last_rows)
        ]
        for key in rows[-1]
        if key.startswith("memory/")
    }
    return {
        "frames": rows[-1]["frames"],
        "memory_mib": memory,
        "growth_max": max(after / before - 1 for before, after in memory.values()),
        "restarts": rows[-1]["restarts"],
        "silence_max": max(later["seconds"] - earlier["seconds"] for earlier, later in pairwise(rows)),
    }


def main(arguments: Sequence[str]) -> int:
    """Prints the row. Returns 2 for bad input, 1 when a requirement did not hold."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
