"""Wall-clock seconds until tasks are learned.

Usage:
    python -m benchmarks.learning [key=value ...]

    - seeds=5: Runs of each case, with seeds 0, 1, ...
    - cases=[A,B]: Tasks or presets of the suite, one for each run; `default` is the suite's default tasks.
    - threshold=0.9: Mean over tasks of the success over the last 100 episodes, at least 100 of every task.
    - limit_seconds=120: A run that has not reached the threshold by then is ended and counts as failed.
    - case="name: key=value ...": train.py with these keys, on each of `cases`. It can be given several times, as the next two.
    - checkout="before: <folder> key=value ...": train.py of another checkout of this project, under this Python.
    - command="peer: <program> --task {task} --seed {seed}": Another program, which does not end by itself. A task of `cases` and a seed
      replace {task} and {seed}. It counts its steps and episodes in the folder BENCH_DIR (benchmarks/bench_dir.py).
    - pattern="(?P<frames>[0-9]+) frames, success (?P<success>[0-9.]+)": With this, the programs of `command` print their frames, their
      success over the last 100 episodes and, if they want, their `updates` instead.
    - key=value: Any other key of train.py, for all its runs. A case or checkout may replace it.

Without case= and command= this checkout runs, with checkout= beside the other one.

Every run is a new process, one after the other. Its seconds count from the start of the process, including imports and the start of
actors. Cases take turns. Prints one line of JSON for each run, and then one for each case: how many runs reached the threshold, and their
seconds, frames and updates (steps of the optimiser). There a failed run counts as slower than any other: a median or maximum that is a
failed run is null.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agents.cli.signals import INTERRUPTED
from benchmarks.cases import (
    THIS_CHECKOUT,
    merged,
    named,
    other_checkouts,
    other_programs,
    pattern_of,
    refuse_shared_names,
)
from benchmarks.learning_runs import GROUPS, SEED, TASK, Goal, OtherProgram, Training
from benchmarks.options import BenchmarkError, Row, report, split
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.suites import make_spec
from system.errors import InputError

DEFAULT = "default"
TASKS = ("BabyAI-GoToRedBallGrey-v0", "MiniGrid-DoorKey-5x5-v0", DEFAULT)
OWN = ("seeds", "cases", "threshold", "limit_seconds", "case", "checkout", "command", "pattern")
LEARNER_KEYS = ("passes", "replay_fraction", "batch_size", "unroll_length")
"""Keys of the learner in the row of a case."""
SET_HERE = ("seed", "run", "resume", "stop_at_success", "env.tasks")
"""Keys of train.py that the benchmark sets."""


class Options(NamedTuple):
    """The command line.

    Attributes:
        given: Values of OWN as they were given.
        overrides: Keys of train.py for all its runs.
    """

    seeds: int
    tasks: tuple[str, ...]
    goal: Goal
    given: dict[str, list[str]]
    overrides: tuple[str, ...]


class Case(NamedTuple):
    """A program on a task.

    Attributes:
        arguments: Those that distinguish it: keys of train.py, or the words of another program.
        config: Of train.py in this checkout; None for any other program.
    """

    name: str
    program: Training | OtherProgram
    arguments: list[str]
    config: TrainConfig | None = None


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per run, then one per case; BenchmarkError at the end if a run ended with an error."""
    options = parse(arguments)
    cases = make_cases(options)
    rows: dict[str, list[Row]] = {case.name: [] for case in cases}
    for seed in range(options.seeds):
        for case in cases:
            row = {"case": case.name, "seed": seed, **case.program.run(seed, options.goal)}
            rows[case.name].append(row)
            yield row
    for case in cases:
        yield summary(case, rows[case.name], options)
    failed = [row for runs in rows.values() for row in runs if row["exit_code"] not in (0, INTERRUPTED, None)]
    if failed:
        row = failed[0]
        reason = f": {row['error']}" if row.get("error") else ""
        raise BenchmarkError(f"{row['case']} with seed {row['seed']} ended with exit code {row['exit_code']}{reason}")


def parse(arguments: Sequence[str]) -> Options:
    """Parses the command line; InputError for bad values."""
    given, overrides = split(arguments, OWN)
    own = {"seeds": "5", "threshold": "0.9", "limit_seconds": "120"} | {
        key: values[-1] for key, values in given.items()
    }
    # No other program knows the default tasks.
    listed = own.get("cases", ",".join(TASKS[:-1] if "command" in given else TASKS))
    tasks = tuple(task.strip() for task in listed.strip("[]").split(","))
    if not all(tasks) or len(set(tasks)) != len(tasks):
        raise InputError(f"cases={listed} is no list of different tasks: give one like [{TASKS[0]},{TASKS[1]}].")
    try:
        seeds, threshold, limit = int(own["seeds"]), float(own["threshold"]), float(own["limit_seconds"])
    except ValueError as error:
        raise InputError(f"seeds, threshold and limit_seconds are numbers ({error}): give seeds=5.") from error
    if not (seeds >= 1 and 0 < threshold <= 1 and 0 < limit < float("inf")):
        raise InputError(
            f"seeds={seeds}, threshold={threshold}, limit_seconds={limit} are out of range: give at least one seed, a threshold "
            "above 0 and up to 1, and a limit above 0."
        )
    return Options(seeds, tasks, Goal(threshold, limit), given, tuple(overrides))


def make_cases(options: Options) -> list[Case]:
    """Every program on every task, the programs of one task together; InputError for bad values."""
    given, overrides = options.given, options.overrides
    own = {name: merged(overrides, words) for name, words in named("case", given).items()}
    if not own and "command" not in given:
        own = {THIS_CHECKOUT: list(overrides)}
    checkouts = other_checkouts(given, overrides)
    refuse_shared_names(own, checkouts)
    commands = other_programs(given, own.keys() | checkouts.keys())
    for name, words in commands.items():
        check_command(name, words, options.tasks)
    if overrides and not own and not checkouts:
        raise InputError(f'{overrides[0]} is for train.py, which is no case: add case="mimpala:" or leave it out.')
    pattern = pattern_of(given, GROUPS)
    several = any(key in given for key in ("case", "checkout", "command"))
    cases = []
    for task in options.tasks:
        on_task = f": {task}" if several else ""
        for name, words in own.items():
            keys = keys_of(task, words, options.goal)
            config = compose_train(keys)
            make_spec(config.env)
            cases.append(Case(name + on_task if several else task, Training(keys), words, config))
        for name, (root, words) in checkouts.items():
            training = Training(keys_of(task, words, options.goal), root)
            cases.append(Case(name + on_task, training, [str(root), *words]))
        for name, words in commands.items():
            cases.append(Case(name + on_task, OtherProgram(words, task, pattern), words))
    return cases


def keys_of(task: str, words: Sequence[str], goal: Goal) -> list[str]:
    """The arguments of train.py for a task; InputError if one of `words` is a key that the benchmark sets."""
    for word in words:
        if word.partition("=")[0] in SET_HERE:
            raise InputError(f"{word} is set for every run by this benchmark: give seeds=, cases= or threshold=.")
    tasks = [] if task == DEFAULT else [f"env.tasks=[{task}]"]
    return [*words, *tasks, f"stop_at_success={goal.threshold}", "display=false"]


def check_command(name: str, words: Sequence[str], tasks: Sequence[str]) -> None:
    """Raises InputError unless the words of another program depend on task and seed, and every task is one by itself."""
    for placeholder in (TASK, SEED):
        if not any(placeholder in word for word in words):
            raise InputError(f'command="{name}: ..." has no {placeholder}: put it where the program takes its value.')
    if DEFAULT in tasks:
        raise InputError(f'cases={DEFAULT} is no task for command="{name}: ...": name single tasks in cases=.')


def summary(case: Case, rows: Sequence[Row], options: Options) -> Row:
    """The row of a case: median, fastest and slowest run, and its arguments."""
    learner = case.config.learner if case.config else None
    return {
        "case": case.name,
        "threshold": options.goal.threshold,
        "limit_seconds": options.goal.limit_seconds,
        "seeds": len(rows),
        "reached": sum(row["reached"] for row in rows),
        **spread("seconds", [row["seconds"] for row in rows]),
        **spread("frames", [row["frames"] for row in rows]),
        **spread("updates", [row["updates"] if row["reached"] else None for row in rows]),
        "frames_per_second_median": median([row["frames_per_second"] for row in rows]),
        "policy_lag_mean": median([row.get("policy_lag_mean") for row in rows]),
        **({key: getattr(learner, key) for key in LEARNER_KEYS} if learner else {}),
        "arguments": case.arguments,
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


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
