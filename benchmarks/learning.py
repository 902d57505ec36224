"""Wall-clock seconds until tasks are learned.

Usage:
    python -m benchmarks.learning [key=value ...]

    - seeds=5: Runs of each case, with seeds 0, 1, ...
    - cases=[A,B]: Tasks or presets of the suite, one for each run; `default` is the suite's default tasks.
    - threshold=0.9: Mean over tasks of the success over the last 100 episodes, at least 100 of every task.
    - limit_seconds=120: A run that has not reached the threshold by then is ended and counts as failed.
    - key=value: Any other key of train.py, for all runs.

Every run is a new process of train.py, one after the other. Its seconds count from the start of the process, including imports and the
start of actors. Cases take turns. Prints one line of JSON for each run, and then one for each case. There a failed run counts as slower
than any other: a median or maximum that is a failed run is null.
"""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents.run.layout import RESULT
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.suites import make_spec
from system.errors import InputError

ROOT = Path(__file__).parents[1]
DEFAULT = "default"
CASES = ("BabyAI-GoToRedBallGrey-v0", "MiniGrid-DoorKey-5x5-v0", DEFAULT)
POLL_SECONDS = 0.2
END_SECONDS = 15.0
"""Time to save after SIGTERM."""


class Options(NamedTuple):
    """The keys of the module; `overrides` are keys of train.py."""

    seeds: int
    cases: tuple[str, ...]
    threshold: float
    limit_seconds: float
    overrides: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns 2 for bad input, 1 when a run ended with an error."""
    try:
        options = parse(arguments)
        configs = {case: compose_train(keys_of(case, options)) for case in options.cases}
        for config in configs.values():
            make_spec(config.env)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: dict[str, list[dict[str, Any]]] = {case: [] for case in options.cases}
    for seed in range(options.seeds):
        for case in options.cases:
            row = measure(case, seed, options)
            rows[case].append(row)
            print(json.dumps(row), flush=True)
    for case, config in configs.items():
        print(json.dumps(summary(case, rows[case], config, options)), flush=True)
    return int(any(row["exit_code"] not in (0, 130, None) for runs in rows.values() for row in runs))


def parse(arguments: Sequence[str]) -> Options:
    """Parses the command line; InputError for bad values."""
    own = {"seeds": "5", "cases": ",".join(CASES), "threshold": "0.9", "limit_seconds": "120"}
    overrides = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in own:
            own[key] = value
        elif key in ("seed", "run", "resume", "stop_at_success", "env.tasks"):
            raise InputError(f"{argument} is set for every run by this benchmark: give seeds=, cases= or threshold=.")
        else:
            overrides.append(argument)
    cases = tuple(case.strip() for case in own["cases"].strip("[]").split(","))
    if not all(cases) or len(set(cases)) != len(cases):
        raise InputError(f"cases={own['cases']} is no list of different tasks: give one like [{CASES[0]},{DEFAULT}].")
    try:
        seeds, threshold, limit = int(own["seeds"]), float(own["threshold"]), float(own["limit_seconds"])
    except ValueError as error:
        raise InputError(f"seeds, threshold and limit_seconds are numbers ({error}): give seeds=5.") from error
    if not (seeds >= 1 and 0 < threshold <= 1 and 0 < limit < float("inf")):
        raise InputError(
            f"seeds={seeds}, threshold={threshold}, limit_seconds={limit} are out of range: give at least one seed, a threshold "
            "above 0 and up to 1, and a limit above 0."
        )
    return Options(seeds, cases, threshold, limit, tuple(overrides))


def keys_of(case: str, options: Options) -> list[str]:
    """The arguments of train.py for one case."""
    tasks = [] if case == DEFAULT else [f"env.tasks=[{case}]"]
    return [*options.overrides, *tasks, f"stop_at_success={options.threshold}", "display=false"]


def measure(case: str, seed: int, options: Options) -> dict[str, Any]:
    """The row of one run; `seconds` and `frames` are None if it did not reach the threshold."""
    with tempfile.TemporaryDirectory(prefix="learning-") as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "train.py", *keys_of(case, options), f"seed={seed}", f"run={run}"]
        # time.time(), because it is compared with the modification time of a file.
        began = time.time()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            wait(process, options.limit_seconds)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return outcome(case, seed, run, began, process.returncode, options)


def wait(process: subprocess.Popen[bytes], limit_seconds: float) -> None:
    """Returns when the run has ended; ends it after `limit_seconds`."""
    deadline = time.monotonic() + limit_seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)


def outcome(case: str, seed: int, run: Path, began: float, exit_code: int, options: Options) -> dict[str, Any]:
    """The row of a run from the files of its folder."""
    metrics, result = run / "metrics.jsonl", run / RESULT
    log = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.exists() else []
    final = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    # The last row is written when the threshold is reached. Saving and ending the actors, which follow, are not learning time.
    seconds = metrics.stat().st_mtime - began if log else None
    reached = final.get("ended_by") == "stop_at_success" and seconds is not None and seconds <= options.limit_seconds
    lags = [row["policy_lag_mean"] for row in log]
    return {
        "case": case,
        "seed": seed,
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


def summary(case: str, rows: Sequence[dict[str, Any]], config: TrainConfig, options: Options) -> dict[str, Any]:
    """The row of a case: median, fastest and slowest run, and the configuration."""
    return {
        "case": case,
        "threshold": options.threshold,
        "limit_seconds": options.limit_seconds,
        "seeds": len(rows),
        "reached": sum(row["reached"] for row in rows),
        **spread("seconds", [row["seconds"] for row in rows]),
        **spread("frames", [row["frames"] for row in rows]),
        "updates_median": median([row["updates"] for row in rows]),
        "frames_per_second_median": median([row["frames_per_second"] for row in rows]),
        "policy_lag_mean": median([row["policy_lag_mean"] for row in rows]),
        "passes": config.learner.passes,
        "replay_fraction": config.learner.replay_fraction,
        "batch_size": config.learner.batch_size,
        "unroll_length": config.learner.unroll_length,
        "overrides": list(options.overrides),
    }


def spread(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """Median, smallest and largest value; None counts as larger than any number."""
    known = [value for value in values if value is not None]
    return {
        f"{name}_median": median(values, missing=float("inf")),
        f"{name}_min": min(known, default=None),
        f"{name}_max": max(known) if known and len(known) == len(values) else None,
    }


def median(values: Sequence[float | None], missing: float | None = None) -> float | None:
    """The median of the known values, or of all with `missing` for None; None if it is not finite."""
    numbers = [missing if value is None else value for value in values]
    known = [number for number in numbers if number is not None]
    middle = statistics.median(known) if known else float("inf")
    return middle if middle < float("inf") else None


if __name__ == "__main__":
    # Without a handler SIGTERM ends this process at once, and the run and its folder remain.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main(sys.argv[1:]))
