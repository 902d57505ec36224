"""What a training makes of kill -9 and of Ctrl-C at random moments:  python -m benchmarks.kills [key=value ...]

    cases=[actors,tree,signals]   `actors`: one training, whose actors are killed one by one. `tree`: a training that is killed as a
                          whole, or only its learner, again and again, and each time goes on with resume=true. `signals`: new
                          trainings, each ended by a Ctrl-C to its whole process group
    kills=100             of each case
    seconds=3             between two kills of actors, on average; the other cases end a training within 5 times as many
    key=value             any key of train.py, for all

Prints one line of JSON for each case; `ok` says whether everything held that must. Exit code 1 if anything did not.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from agents.storage.checkpoint import list_checkpoints, load_checkpoint
from benchmarks.options import BenchmarkError, Options, Row, parse, report
from system.errors import unknown_name
from system.files import read_json

ROOT = Path(__file__).parents[1]
TRAINING = (
    *("env=conditional", "context=task", "fusion=mi", "runtime=local", "runtime.num_actors=2", "display=false"),
    *("runtime.max_restarts=1000000", "log_seconds=0.5", "checkpoint_seconds=1"),
)
INTERPRETER_SECONDS = 0.5
"""Time in which Python may not have come to the program yet, and ends by a Ctrl-C in its own way."""

END_SECONDS = 10.0
"""Time in which the children of a learner that was killed have ended."""

STILL_SECONDS = 120.0
"""A training that has learned nothing for so long hangs, however busy the machine is."""


def measure(arguments: list[str]) -> Iterator[Row]:
    """A row for each case."""
    options = parse(arguments, rounds=1, seconds=3.0, own=("cases", "kills"))
    kills = options.numbers("kills", (100,))[0]
    for case in options.words("cases", tuple(CASES)):
        if case not in CASES:
            raise unknown_name("cases", case, CASES)
        with tempfile.TemporaryDirectory() as folder:
            yield CASES[case](options, kills, Path(folder) / "run")


def actors(options: Options, kills: int, run: Path) -> Row:
    """Kills actors of one training until it has been `kills` times, and lets it end."""
    chance, process = random.Random(0), train(run, options, "total_frames=1000000000")
    recoveries: list[float] = []
    try:
        wait_for(lambda: len(rows(run)) > 4, process)
        before = typical_speed(run)
        for number in range(kills):
            time.sleep(chance.uniform(0.0, 2 * options.seconds))
            learner = psutil.Process(process.pid)
            victims = [child for child in learner.children(recursive=True) if is_actor(child, learner)]
            if victims:
                chance.choice(victims).kill()
            killed, count = time.monotonic(), len(rows(run))
            wait_for(lambda number=number: (rows(run)[-1].get("restarts", 0)) > number, process)
            wait_for(
                lambda count=count: any(row["frames_per_second"] > before / 2 for row in rows(run)[count:]), process
            )
            recoveries.append(time.monotonic() - killed)
        process.send_signal(signal.SIGINT)
        interrupted = process.wait(60)
        frames = rows(run)[-1]["frames"]
        process = train(run, options, "resume=true", f"total_frames={int(frames) + 100_000}")
        code = process.wait(600)
    finally:
        end(process)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    updates = [row["updates"] for row in rows(run)]
    row = {
        "case": "actors",
        "kills": kills,
        "restarts": result["restarts"],
        "unrolls_dropped": result["unrolls_dropped"],
        "exit_codes": [interrupted, code],
        "success": result["mean"]["success"],
        "recovery_seconds_median": statistics.median(recoveries),
        "recovery_seconds_max": max(recoveries),
        "updates_increase": updates == sorted(set(updates)),
        "shared_memory_left": left_in_shared_memory(),
    }
    ok = row["exit_codes"] == [130, 0] and row["restarts"] >= kills and row["updates_increase"]
    return row | {"ok": bool(ok and not row["shared_memory_left"] and result["finished"])}


def tree(options: Options, kills: int, run: Path) -> Row:
    """Kills a whole training, or its learner alone, at random moments from its first second on, and resumes it."""
    chance, failures, orphans, reached = random.Random(0), 0, 0, [0]
    for number in range(kills):
        process = train(run, options, "resume=true", "total_frames=1000000000")
        try:
            if number % 2:
                wait_for(lambda: len(list_checkpoints(run / "checkpoints")) > 0, process)
            time.sleep(chance.uniform(0.0, 5 * options.seconds))
            failures += process.poll() is not None
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            if number % 3:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _, alive = psutil.wait_procs(children, END_SECONDS)
            orphans += len(alive)
        finally:
            end(process)
        saved = list_checkpoints(run / "checkpoints")
        if saved:
            reached.append(load_checkpoint(saved[-1])["learner"]["counters"]["updates"])
    process = train(run, options, "resume=true", f"total_frames={int(rows(run)[-1]['frames']) + 100_000}")
    try:
        code = process.wait(600)
    finally:
        end(process)
    updates = [row["updates"] for row in rows(run)]
    row = {
        "case": "tree",
        "kills": kills,
        "failures": failures + (code != 0),
        "updates": reached[-1],
        "counters_monotone": reached == sorted(reached) and updates == sorted(set(updates)),
        "orphans": orphans,
        "shared_memory_left": left_in_shared_memory(),
    }
    return row | {
        "ok": not row["failures"] and row["counters_monotone"] and not orphans and not row["shared_memory_left"]
    }


def signals(options: Options, kills: int, run: Path) -> Row:
    """Ends new trainings as a terminal's Ctrl-C does, at random moments from the first import on. Those that have begun must be saved."""
    chance, codes, begun, unsaved, orphans = random.Random(0), Counter[int](), 0, 0, 0
    first, last = INTERPRETER_SECONDS, 5 * options.seconds
    seconds, said = [], run.with_name("stderr")
    for number in range(kills):
        folder = run.with_name(f"run-{number}")
        with said.open("ab") as errors:
            process = train(folder, options, "total_frames=1000000000", stderr=errors)
        try:
            # At random, but spread over all of the time: however few there are, some come while the training starts.
            time.sleep(first + (last - first) * (number + chance.random()) / kills)
            children = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)
            asked = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                codes[process.wait(STILL_SECONDS)] += 1
            seconds.append(time.monotonic() - asked)
            _, alive = psutil.wait_procs(children, END_SECONDS)
            orphans += len(alive)
        finally:
            end(process)
        if folder.exists():
            begun += 1
            result = read_json(folder / "result.json") or {}
            unsaved += result.get("ended_by") != "signal" or not list_checkpoints(folder / "checkpoints")
    row = {
        "case": "signals",
        "kills": kills,
        "begun": begun,
        "unsaved": unsaved,
        "exit_codes": dict(codes),
        "said": said.read_text(encoding="utf-8")[-1000:],
        "end_seconds_median": statistics.median(seconds),
        "end_seconds_max": max(seconds),
        "orphans": orphans,
        "shared_memory_left": left_in_shared_memory(),
    }
    ok = codes == {130: kills} and begun and not (unsaved or row["said"] or orphans or row["shared_memory_left"])
    return row | {"ok": bool(ok)}


CASES = {"actors": actors, "tree": tree, "signals": signals}


def train(run: Path, options: Options, *more: str, stderr: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Starts train.py as the leader of a process group of its own."""
    command = [sys.executable, str(ROOT / "train.py"), *TRAINING, *options.overrides, f"run={run}", *more]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=stderr)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows(run: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    with contextlib.suppress(FileNotFoundError):
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        return [json.loads(line) for line in lines]
    return []


def typical_speed(run: Path) -> float:
    """Median frames per second of the rows so far, but for the first."""
    return float(statistics.median(row["frames_per_second"] for row in rows(run)[1:]))


def is_actor(process: psutil.Process, learner: psutil.Process) -> bool:
    """Whether it is a copy of the learner's fork server: what that server says of itself, but not the learner's own child."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "multiprocessing.forkserver" in " ".join(process.cmdline()) and process.ppid() != learner.pid
    return False


def left_in_shared_memory() -> list[str]:
    """Files of torch or of this program in shared memory."""
    shared = Path("/dev/shm")
    return sorted(path.name for path in shared.iterdir() if "torch" in path.name or "mimpala" in path.name)


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    """Until the condition holds.

    Raises:
        BenchmarkError: the training ended, or the condition does not come to hold.
    """
    deadline = time.monotonic() + STILL_SECONDS
    while not condition():
        if process.poll() is not None:
            raise BenchmarkError(f"the training ended by itself with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise BenchmarkError(f"nothing happened for {STILL_SECONDS:g} seconds: the training hangs")
        time.sleep(0.05)


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; 2 for bad input, 1 when something did not hold."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
