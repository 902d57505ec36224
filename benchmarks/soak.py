"""A training that is watched for a long time:  python -m benchmarks.soak [minutes=30] [warm=5] [key=value of train.py ...]

Trains the default suite, or whatever the keys say, for so many minutes, stops it with Ctrl-C, and prints one line of JSON: the resident
memory of every process after the first `warm` minutes and at the end, each the median of a tenth of the time; what was started again;
the longest time without a row in metrics.jsonl; and how it ended. `ok` says whether no process grew by 2% or more, nothing was started
again, the rows came, and the run ended within 10 seconds, saved, with exit code 130 and no process left. Exit code 1 if not.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from agents.storage.checkpoint import list_checkpoints
from benchmarks.kills import end, rows
from benchmarks.options import BenchmarkError, Row, parse, report
from system.errors import InputError

ROOT = Path(__file__).parents[1]
LOG_SECONDS = 5.0
MOST_GROWTH = 0.02
MOST_SILENCE = 60.0
END_SECONDS = 10.0


def measure(arguments: list[str]) -> Iterator[Row]:
    """The row."""
    options = parse(arguments, rounds=1, seconds=1.0, own=("minutes", "warm"))
    minutes, warm = options.numbers("minutes", (30,))[0], options.numbers("warm", (5,))[0]
    if warm >= minutes:
        raise InputError(f"warm={warm} leaves nothing of minutes={minutes}: give more minutes.")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "train.py"), *options.overrides, f"run={run}", "display=false"]
        process = subprocess.Popen(
            [*command, f"log_seconds={LOG_SECONDS}", "total_frames=1000000000000"], start_new_session=True
        )
        try:
            deadline = time.monotonic() + 60 * minutes
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise BenchmarkError(f"the training ended by itself with exit code {process.returncode}")
                time.sleep(1)
            children = psutil.Process(process.pid).children(recursive=True)
            told = time.monotonic()
            process.send_signal(signal.SIGINT)
            code = process.wait(120)
            ending = time.monotonic() - told
            _, alive = psutil.wait_procs(children, END_SECONDS)
        finally:
            end(process)
        found = rows(run)
        row = judged(found, 60.0 * warm) | {
            "exit_code": code,
            "ending_seconds": ending,
            "processes_left": len(alive),
            "saved": bool(list_checkpoints(run / "checkpoints")),
        }
    ok = row["growth_max"] < MOST_GROWTH and not row["restarts"] and row["silence_max"] < MOST_SILENCE
    ok = ok and code == 130 and ending < END_SECONDS and not alive and row["saved"]
    yield {"case": "soak", "minutes": minutes, **row, "ok": ok}


def judged(found: list[dict[str, Any]], warm: float) -> Row:
    """What the rows of a run say of it.

    Args:
        found: of metrics.jsonl.
        warm: seconds that do not count.
    """
    last = found[-1]["seconds"]
    part = (last - warm) / 10
    begin = [row for row in found if warm <= row["seconds"] < warm + part]
    end_of_run = [row for row in found if row["seconds"] >= last - part]
    names = [key for key in found[-1] if key.startswith("memory/")]
    memory = {
        name.removeprefix("memory/"): [
            float(statistics.median(row[name] for row in some if name in row)) for some in (begin, end_of_run)
        ]
        for name in names
    }
    return {
        "frames": found[-1]["frames"],
        "memory_mib": memory,
        "growth_max": max(after / before - 1 for before, after in memory.values()),
        "restarts": found[-1]["restarts"],
        "silence_max": max(later["seconds"] - earlier["seconds"] for earlier, later in pairwise(found)),
    }


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; 2 for bad input, 1 when something did not hold."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
