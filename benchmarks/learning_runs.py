"""One run of a program on a task, until its success reaches a threshold: train.py, or any other program."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from agents.run.layout import RESULT
from benchmarks import bench_dir
from benchmarks.cases import ROOT
from benchmarks.options import Row
from benchmarks.programs import NewLines, end_group, last_line
from system.errors import InputError

TASK, SEED = "{task}", "{seed}"
"""Their values replace them in the words of another program."""
GROUPS = ("frames", "success")
"""Groups of the pattern for a program that prints its progress; a group `updates` is optional."""
_POLL_SECONDS = 0.05
_END_SECONDS = 15.0
"""Time to save after SIGTERM."""


class Goal(NamedTuple):
    """When a run has learned its task, and when it has failed."""

    threshold: float
    limit_seconds: float


class Training:
    """train.py of a checkout. Its keys do not include the seed and the run folder."""

    def __init__(self, keys: Sequence[str], root: Path = ROOT) -> None:
        self.keys = [*keys]
        self.root = root

    def run(self, seed: int, goal: Goal) -> Row:
        """The row of one run; `seconds` and `frames` are None if it did not reach the threshold."""
        with tempfile.TemporaryDirectory(prefix="learning-") as folder:
            run = Path(folder) / "run"
            command = [sys.executable, "train.py", *self.keys, f"seed={seed}", f"run={run}"]
            # time.time(), because it is compared with the modification time of a file.
            began = time.time()
            process = subprocess.Popen(command, cwd=self.root, stdout=subprocess.DEVNULL)
            try:
                _wait(process, goal.limit_seconds)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            return training_row(run, began, process.returncode, goal)


class OtherProgram:
    """A program that counts in the folder BENCH_DIR (bench_dir.py), or prints its progress in the form of `pattern`.

    It is started for one run and ended when the run has reached the threshold.

    Args:
        words: Its command line.
        pattern: Has the groups of GROUPS.
    """

    def __init__(self, words: Sequence[str], task: str, pattern: re.Pattern[str] | None) -> None:
        self._words = [word.replace(TASK, task) for word in words]
        self._pattern = pattern

    def run(self, seed: int, goal: Goal) -> Row:
        """The row of one run; `seconds` and `frames` are None if it did not reach the threshold."""
        with tempfile.TemporaryDirectory(prefix="learning-") as name:
            folder = Path(name)
            output = folder / "output"
            progress: Progress = Printed(output, self._pattern) if self._pattern else Counted(folder)
            began = time.perf_counter()
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [word.replace(SEED, str(seed)) for word in self._words],
                    cwd=ROOT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", "BENCH_DIR": name},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            try:
                last, seconds, exit_code = _watch(process, progress, began, goal)
            finally:
                end_group(process)
            reached = last.reaches(goal)
            return {
                "reached": reached,
                "seconds": round(seconds, 2) if reached else None,
                "frames": last.frames if reached else None,
                "exit_code": exit_code,
                "error": last_line(output) if exit_code else None,
                "success": last.success,
                "frames_played": last.frames,
                "updates": last.updates,
                "frames_per_second": last.frames / seconds,
            }


class Reading(NamedTuple):
    """The state of a run. `success` is over the last 100 episodes, None before as many; `updates` is None if they are not counted."""

    frames: int = 0
    success: float | None = None
    updates: int | None = None

    def reaches(self, goal: Goal) -> bool:
        """Whether the success is at the threshold."""
        return self.success is not None and self.success >= goal.threshold


class Progress(Protocol):
    """Reads how far a program is."""

    def readings(self) -> list[Reading]:
        """The new readings since the last call, in order."""


class Counted:
    """Progress in a folder of bench_dir."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def readings(self) -> list[Reading]:
        """See Progress: one for now."""
        # The success first: an episode has counted its steps before it is written.
        success = bench_dir.read_success(self._folder)
        return [Reading(bench_dir.read_steps(self._folder), success, bench_dir.read_updates(self._folder))]


class Printed:
    """Progress in the lines of output that match a pattern."""

    def __init__(self, output: Path, pattern: re.Pattern[str]) -> None:
        self._lines = NewLines(output)
        self._pattern = pattern

    def readings(self) -> list[Reading]:
        """See Progress: one for each line."""
        matches = [self._pattern.search(line.decode(errors="replace")) for line in self._lines.read()]
        return [self._reading(match) for match in matches if match]

    @staticmethod
    def _reading(match: re.Match[str]) -> Reading:
        try:
            numbers = {name: float(text.replace(",", "")) for name, text in match.groupdict().items() if text}
            updates = numbers.get("updates")
            return Reading(int(numbers["frames"]), numbers["success"], None if updates is None else int(updates))
        except (KeyError, ValueError) as error:
            raise InputError(
                f'pattern= matches "{match[0]}" without numbers: let its groups match digits only.'
            ) from error


def training_row(run: Path, began: float, exit_code: int, goal: Goal) -> Row:
    """The row of a training that began at `began` seconds since the epoch, from the files of its folder."""
    metrics, result = run / "metrics.jsonl", run / RESULT
    log = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.exists() else []
    final = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    # The last row is written when the threshold is reached. Saving and ending the actors, which follow, are not learning time.
    seconds = metrics.stat().st_mtime - began if log else None
    reached = final.get("ended_by") == "stop_at_success" and seconds is not None and seconds <= goal.limit_seconds
    lags = [row["policy_lag_mean"] for row in log]
    return {
        "reached": reached,
        "seconds": round(seconds, 2) if reached and seconds is not None else None,
        "frames": final.get("frames") if reached else None,
        "ended_by": final.get("ended_by"),
        "exit_code": exit_code,
        "success": final.get("mean", {}).get("success"),
        "frames_played": final.get("frames"),
        "updates": final.get("updates"),
        "frames_per_second": final.get("frames_per_second"),
        "training_seconds": final.get("seconds"),
        "policy_lag_mean": statistics.fmean(lags) if lags else None,
        "policy_lag_max": max((row["policy_lag_max"] for row in log), default=None),
        "replay_age_mean": log[-1].get("replay_age_mean") if log else None,
    }


def _wait(process: subprocess.Popen[bytes], limit_seconds: float) -> None:
    """Returns when the run has ended; ends it after `limit_seconds`."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(limit_seconds)
        return
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)


def _watch(
    process: subprocess.Popen[bytes], progress: Progress, began: float, goal: Goal
) -> tuple[Reading, float, int | None]:
    """Returns when the run has reached the goal, has ended, or is over its limit.

    Args:
        began: time.perf_counter() at the start of the process.

    Returns:
        The reading that reached the threshold or the last one; its seconds; the exit code, None if the program still runs.
    """
    last = Reading()
    while True:
        exit_code, seconds = process.poll(), time.perf_counter() - began
        for last in progress.readings():
            if last.reaches(goal):
                return last, seconds, exit_code
        if exit_code is not None or seconds >= goal.limit_seconds:
            return last, seconds, exit_code
        time.sleep(_POLL_SECONDS)
