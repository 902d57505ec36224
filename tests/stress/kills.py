"""How a training survives kill -9 and Ctrl-C at random moments:  python -m tests.stress.kills [key=value ...]

    cases=[actors,tree,signals]   `actors`: one training whose actors are killed one by one. `tree`: a training that is killed as a whole,
                          or only its learner, many times, and resumed with resume=true each time. `signals`: new trainings, each
                          ended by a Ctrl-C to its process group
    kills=100             of each case
    seconds=3             between two kills of actors, on average; the other cases end a training within 5 times as many
    frames=100000         of the resumed training that follows the last kill and runs to its end
    key=value             any key of train.py, for all trainings

Prints one line of JSON for each case; `ok` is whether every requirement held. Exit code 1 if one did not.
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
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from agents.storage.checkpoint import list_checkpoints, load_checkpoint
from benchmarks.options import Options, Row, parse, report
from benchmarks.train_process import HANG_SECONDS, kill_training, log_rows, start_training, wait_for
from system.errors import unknown_name
from system.files import read_json

TRAINING = (
    *("env=conditional", "context=task", "fusion=mi", "runtime=local", "runtime.num_actors=2"),
    *("runtime.max_restarts=1000000", "log_seconds=0.5", "checkpoint_seconds=1"),
)
ENDLESS = "total_frames=1000000000"
INTERPRETER_SECONDS = 0.5
"""Start-up time of Python, in which Ctrl-C ends the interpreter before the program can handle it."""

END_SECONDS = 10.0
"""Time that the children of a killed learner have to end."""


def measure(arguments: list[str]) -> Iterator[Row]:
    """A row for each case."""
    options = parse(arguments, rounds=1, seconds=3.0, own=("cases", "kills", "frames"))
    kills = options.numbers("kills", (100,))[0]
    for case in options.words("cases", tuple(CASES)):
        if case not in CASES:
            raise unknown_name("cases", case, CASES)
        with tempfile.TemporaryDirectory() as folder:
            yield CASES[case](options, kills, Path(folder) / "run")


def kill_actors(options: Options, kills: int, run: Path) -> Row:
    """Kills `kills` actors of one training, interrupts it, and resumes it to the end."""
    rng, process = random.Random(0), train(run, options, ENDLESS)
    recoveries: list[float] = []
    try:
        wait_for(lambda: len(log_rows(run)) > 4, process)
        speed = typical_speed(run)
        for number in range(kills):
            time.sleep(rng.uniform(0.0, 2 * options.seconds))
            learner = psutil.Process(process.pid)
            victims = [child for child in learner.children(recursive=True) if is_actor(child, learner)]
            if victims:
                rng.choice(victims).kill()
            killed, count = time.monotonic(), len(log_rows(run))
            wait_for(partial(restarted, run, number + 1), process)
            wait_for(partial(reached_speed, run, count, speed / 2), process)
            recoveries.append(time.monotonic() - killed)
        process.send_signal(signal.SIGINT)
        interrupted = process.wait(60)
        frames = log_rows(run)[-1]["frames"]
        process = train(run, options, "resume=true", f"total_frames={int(frames) + more_frames(options)}")
        code = process.wait(600)
    finally:
        kill_training(process)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    updates = [row["updates"] for row in log_rows(run)]
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


def kill_tree(options: Options, kills: int, run: Path) -> Row:
    """Kills a whole training, or its learner alone, at random moments from its first second on, and resumes it."""
    rng, failures, orphans, saved_updates = random.Random(0), 0, 0, [0]
    for number in range(kills):
        process = train(run, options, "resume=true", ENDLESS)
        try:
            if number % 2:
                wait_for(lambda: len(list_checkpoints(run / "checkpoints")) > 0, process)
            time.sleep(rng.uniform(0.0, 5 * options.seconds))
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
            kill_training(process)
        checkpoints = list_checkpoints(run / "checkpoints")
        if checkpoints:
            saved_updates.append(load_checkpoint(checkpoints[-1])["learner"]["counters"]["updates"])
    frames = max((int(row["frames"]) for row in log_rows(run)), default=0)
    process = train(run, options, "resume=true", f"total_frames={frames + more_frames(options)}")
    try:
        code = process.wait(600)
    finally:
        kill_training(process)
    updates = [row["updates"] for row in log_rows(run)]
    row = {
        "case": "tree",
        "kills": kills,
        "failures": failures + (code != 0),
        "updates": saved_updates[-1],
        "counters_monotone": saved_updates == sorted(saved_updates) and updates == sorted(set(updates)),
        "orphans": orphans,
        "shared_memory_left": left_in_shared_memory(),
    }
    return row | {
        "ok": not row["failures"] and row["counters_monotone"] and not orphans and not row["shared_memory_left"]
    }


def interrupt(options: Options, kills: int, run: Path) -> Row:
    """Sends Ctrl-C to new trainings at random moments from the first import on. A training that has created its folder must save."""
    rng, codes, started, unsaved, orphans = random.Random(0), Counter[int](), 0, 0, 0
    first, last = INTERPRETER_SECONDS, 5 * options.seconds
    seconds, stderr_path = [], run.with_name("stderr")
    for number in range(kills):
        folder = run.with_name(f"run-{number}")
        with stderr_path.open("ab") as stderr:
            process = train(folder, options, ENDLESS, stderr=stderr)
        try:
            # Random within equal parts of the time, so that even a few signals hit the start of a training.
            time.sleep(first + (last - first) * (number + rng.random()) / kills)
            children = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)
            sent = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                codes[process.wait(HANG_SECONDS)] += 1
            seconds.append(time.monotonic() - sent)
            _, alive = psutil.wait_procs(children, END_SECONDS)
            orphans += len(alive)
        finally:
            kill_training(process)
        if folder.exists():
            started += 1
            result = read_json(folder / "result.json") or {}
            unsaved += result.get("ended_by") != "signal" or not list_checkpoints(folder / "checkpoints")
    row = {
        "case": "signals",
        "kills": kills,
        "begun": started,
        "unsaved": unsaved,
        "exit_codes": dict(codes),
        "said": stderr_path.read_text(encoding="utf-8")[-1000:],
        "end_seconds_median": statistics.median(seconds),
        "end_seconds_max": max(seconds),
        "orphans": orphans,
        "shared_memory_left": left_in_shared_memory(),
    }
    ok = codes == {130: kills} and started and not (unsaved or row["said"] or orphans or row["shared_memory_left"])
    return row | {"ok": bool(ok)}


CASES = {"actors": kill_actors, "tree": kill_tree, "signals": interrupt}


def train(run: Path, options: Options, *arguments: str, stderr: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Starts the training of all cases, with the keys of the command line and `arguments`."""
    return start_training(run, [*TRAINING, *options.overrides, *arguments], stderr)


def more_frames(options: Options) -> int:
    """Frames of the training that follows the last kill."""
    return options.numbers("frames", (100_000,))[0]


def restarted(run: Path, times: int) -> bool:
    """Whether the last log row counts so many restarts."""
    return int(log_rows(run)[-1].get("restarts", 0)) >= times


def reached_speed(run: Path, after: int, frames_per_second: float) -> bool:
    """Whether one of the log rows from index `after` on has more frames per second."""
    return any(row["frames_per_second"] > frames_per_second for row in log_rows(run)[after:])


def typical_speed(run: Path) -> float:
    """Median frames per second of the rows so far, without the first."""
    return float(statistics.median(row["frames_per_second"] for row in log_rows(run)[1:]))


def is_actor(process: psutil.Process, learner: psutil.Process) -> bool:
    """Whether it was forked by the learner's fork server, whose command line it shares; the server itself is a child of the learner."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "multiprocessing.forkserver" in " ".join(process.cmdline()) and process.ppid() != learner.pid
    return False


def left_in_shared_memory() -> list[str]:
    """Files of torch or of this program in shared memory."""
    shared = Path("/dev/shm")
    return sorted(path.name for path in shared.iterdir() if "torch" in path.name or "mimpala" in path.name)


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns 2 for bad input, 1 when a requirement did not hold."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
