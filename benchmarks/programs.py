"""Programs that take turns: each is started once and stopped by SIGSTOP while another one runs.

So start-up happens once, every program is warm in every turn, and exactly one program runs at a time. A stopped program keeps its
buffers, pipes and caches, except the processor's caches. But the pause counts as time in the unrolls in progress and in the next log row.
Hence a turn starts with an uncounted part, which lasts until every unroll from before the pause has reached the learner. Then the speed
is measured between two log rows, by the program's counter and clock, and time shares are means over the same period.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from agents.setup.plan import make_plan
from benchmarks import bench_dir
from benchmarks.cases import ROOT, configured
from benchmarks.options import BenchmarkError

SHARES = ("env", "inference", "learner", "wait")
_SETTLE_SECONDS = 0.4
"""Shortest uncounted part of a turn."""
_POLL_SECONDS = 0.05
_LOG_SECONDS = 0.2
_START_SECONDS = 300.0
_STALL_SECONDS = 60.0
_END_SECONDS = 5.0
_GROUP_SECONDS = 2.0


class Turn(NamedTuple):
    """One turn of a program: steps per second, cores used by its processes, and for train.py the time shares."""

    steps_per_second: float
    cores_used: float
    shares: dict[str, float]


class StepCounter(Protocol):
    """Reads the steps of a program."""

    def points(self) -> list[tuple[float, float]]:
        """New points (seconds, steps) since the last call; both never decrease, from any origin."""

    def shares(self) -> dict[str, float]:
        """Mean time shares over the points since the last call of this method."""


class Program:
    """A program in a new process group, stopped except during its turns.

    Args:
        command: The words of the command.
        counter: Reads its steps.
        folder: For its output.
        in_flight: Most steps that have started but are not counted when it is stopped.
        environment: Variables in addition to this process's environment.
        root: Working directory.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        counter: StepCounter,
        folder: Path,
        *,
        in_flight: int = 0,
        environment: dict[str, str] | None = None,
        root: Path = ROOT,
    ) -> None:
        self.name = name
        self._counter = counter
        self._in_flight = in_flight
        self._steps = 0.0
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                list(command),
                cwd=root,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await(_START_SECONDS, lambda: bool(self._points()))
            self._signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    def turn(self, seconds: float) -> Turn:
        """Continues the program for `seconds`, or until there are two log rows, and stops it.

        Raises:
            BenchmarkError: The program ended or made no progress.
        """
        self._points()
        settled = self._steps + self._in_flight
        self._signal(signal.SIGCONT)
        time.sleep(_SETTLE_SECONDS)
        self._await(_STALL_SECONDS, lambda: bool(self._points()) and self._steps > settled)
        self._counter.shares()
        points: list[tuple[float, float]] = []
        began, cpu_began = time.perf_counter(), cpu_seconds(self._process.pid)

        def enough() -> bool:
            points.extend(self._points())
            return time.perf_counter() - began >= seconds and len(points) > 1 and points[-1][1] > points[0][1]

        self._await(seconds + _STALL_SECONDS, enough)
        wall, cpu = time.perf_counter() - began, cpu_seconds(self._process.pid) - cpu_began
        self._signal(signal.SIGSTOP)
        (first, first_steps), (last, last_steps) = points[0], points[-1]
        return Turn((last_steps - first_steps) / (last - first), cpu / wall, self._counter.shares())

    def terminate(self) -> None:
        """Sends SIGTERM to the process group."""
        terminate_group(self._process)

    def close(self) -> None:
        """Ends the process group: SIGTERM, then SIGKILL."""
        end_group(self._process)

    def _points(self) -> list[tuple[float, float]]:
        points = self._counter.points()
        self._steps = points[-1][1] if points else self._steps
        return points

    def _await(self, seconds: float, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self._process.poll() is not None:
                raise BenchmarkError(
                    f"{self.name} ended with exit code {self._process.returncode}: {last_line(self._output)}"
                )
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} made no progress in {seconds:.0f} s: {last_line(self._output)}")
            time.sleep(_POLL_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        _signal_group(self._process, number)


class Programs:
    """Starts programs one after the other, each with a temporary folder, and ends all of them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mimpala-benchmark-")
        self._started: list[Program] = []

    def training(
        self, name: str, arguments: Sequence[str], module: str = "train", own: Sequence[str] = (), root: Path = ROOT
    ) -> Program:
        """Starts `python train.py <arguments>` without an end, display or checkpoints.

        Args:
            module: Replaces train; must have the same command line.
            own: Further arguments of that module.
            root: The checkout of the module.
        """
        config, env = configured(arguments)
        slots, workload = config.runtime.slots_per_actor, make_plan(config, env).run
        # Full and partly filled buffers, the current batch, and the batch after the last log row.
        unrolls = workload.num_actors * workload.buffers_per_actor + 2 * workload.unrolls_per_batch
        in_flight = unrolls * slots * config.learner.unroll_length if config.runtime.name != "serial" else 0
        folder = self._make_folder()
        run = folder / "run"
        settings = [f"log_seconds={_LOG_SECONDS}", "checkpoint_seconds=1e9", "total_frames=1000000000000"]
        command = [sys.executable, "-m", module, *own, *settings, *arguments, f"run={run}", "display=false"]
        counter = MetricsCounter(run / "metrics.jsonl")
        return self._add(Program(name, command, counter, folder, in_flight=in_flight, root=root))

    def other(self, name: str, command: Sequence[str], pattern: re.Pattern[str] | None) -> Program:
        """Starts any other program. It prints its steps in the form of `pattern`, or its environments count in files (FileCounter)."""
        folder = self._make_folder()
        if pattern:
            counter: StepCounter = OutputCounter(folder / "output", pattern)
        else:
            counter = FileCounter(folder)
        return self._add(Program(name, command, counter, folder, environment={"BENCH_DIR": str(folder)}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._started:
            program.terminate()
        for program in self._started:
            program.close()
        self._folder.cleanup()

    def _make_folder(self) -> Path:
        folder = Path(self._folder.name) / str(len(self._started))
        folder.mkdir()
        return folder

    def _add(self, program: Program) -> Program:
        self._started.append(program)
        return program


class MetricsCounter:
    """Reads the rows of metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._lines = NewLines(path)
        self._rows: list[dict[str, float]] = []

    def points(self) -> list[tuple[float, float]]:
        """See StepCounter: seconds and steps of the rows."""
        rows = [json.loads(line) for line in self._lines.read()]
        self._rows += rows
        return [(row["seconds"], row["steps"]) for row in rows]

    def shares(self) -> dict[str, float]:
        """See StepCounter."""
        rows, self._rows = self._rows, []
        if len(rows) < 2:
            return {}
        lasted = [after["seconds"] - before["seconds"] for before, after in pairwise(rows)]
        return {
            name: sum(row[f"time/{name}"] * seconds for row, seconds in zip(rows[1:], lasted, strict=True))
            / sum(lasted)
            for name in SHARES
        }


class FileCounter:
    """Reads the steps in a folder of bench_dir."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def points(self) -> list[tuple[float, float]]:
        """See StepCounter: one point for now; none before the first step."""
        steps = bench_dir.read_steps(self._folder)
        return [(time.perf_counter(), steps)] if steps else []

    def shares(self) -> dict[str, float]:
        """None: such a program does not report them."""
        return {}


class OutputCounter:
    """Reads lines of output that match a pattern, whose first group is the number of steps so far."""

    def __init__(self, path: Path, pattern: re.Pattern[str]) -> None:
        self._lines = NewLines(path)
        self._pattern = pattern

    def points(self) -> list[tuple[float, float]]:
        """See StepCounter: one point for each line, at the time of this call."""
        matches = [self._pattern.search(line.decode(errors="replace")) for line in self._lines.read()]
        return [(time.perf_counter(), float(match[1].replace(",", ""))) for match in matches if match]

    def shares(self) -> dict[str, float]:
        """None: such a program does not report them."""
        return {}


class NewLines:
    """Reads the complete lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read(self) -> list[bytes]:
        """The lines since the last call; none while the file is missing."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._position += len(complete)
        return complete.splitlines()


def terminate_group(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM to the process group that `process` leads, also if it is stopped."""
    _signal_group(process, signal.SIGTERM)
    _signal_group(process, signal.SIGCONT)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group that `process` leads: SIGTERM, then SIGKILL."""
    terminate_group(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    # multiprocessing's tracker removes named semaphores once all other processes of the group have ended.
    deadline = time.monotonic() + _GROUP_SECONDS
    while _signal_group(process, 0) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def last_line(output: Path) -> str:
    """The last line that a program printed, to name in an error."""
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Returns whether the group has a process, be it a zombie."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
        return True
    return False


def cpu_seconds(group: int) -> float:
    """Processor seconds of all living processes of a process group."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses can contain blanks. Then follow state, parent, group, ..., utime and stime as 12th and 13th field.
            fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
