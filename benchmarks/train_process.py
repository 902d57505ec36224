"""train.py as a separate process: start it, read its log rows, wait for a condition, kill it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from benchmarks.options import BenchmarkError

ROOT = Path(__file__).parents[1]
HANG_SECONDS = 120.0
"""A condition that takes longer counts as a hang, however busy the machine is."""


def start_training(run: Path, arguments: Sequence[str], stderr: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Starts train.py with the run folder `run` as the leader of a new process group."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments, f"run={run}", "display=false"]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=stderr)


def kill_training(process: subprocess.Popen[bytes]) -> None:
    """Kills the process group unless the process has ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def log_rows(run: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl; none while the file is missing."""
    with contextlib.suppress(FileNotFoundError):
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]
    return []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Returns when the condition holds.

    Raises:
        BenchmarkError: The training ended, or the condition does not hold within HANG_SECONDS.
    """
    deadline = time.monotonic() + HANG_SECONDS
    while not condition():
        if process.poll() is not None:
            raise BenchmarkError(f"the training ended by itself with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise BenchmarkError(f"nothing happened for {HANG_SECONDS:g} seconds: the training hangs")
        time.sleep(0.05)
