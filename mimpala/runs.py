"""Lists run folders, and compares two:

    mimpala runs [--json] [folder ...]     all runs in these folders (default: runs) and below, the latest one last
    mimpala runs diff [--json] <run> <run> the keys in which two runs differ, and their figures

A state is one of: running, finished, interrupted, paused, failed (ended by an error), stopped (its end is not recorded, as of a killed
run), and damaged (its configuration cannot be read). Success, score and return are means over tasks, of the last 100 training episodes
and of evaluation.json. Nothing that a run names is imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ablation.run_files import newest_log_step, read_evaluation, read_keys
from agents.cli.exit_codes import DONE, exit_code, print_text
from agents.cli.signals import raise_at_signals, run_program
from agents.cli.tables import FittedTable, Row
from agents.cli.terminal import TextConsole, warn
from agents.run.layout import CONFIG, RESULT
from agents.run.lock import is_locked
from system.errors import InputError
from system.files import finite_or_null, read_json
from system.plain_data import COUNT, FINITE
from system.words import count, shorten, shorten_all

_DEFAULT = "runs"
_FIGURES = ("state", "frames", "seconds", "frames_per_second", "parameters", "training", "evaluation")
_LARGE = 1e6
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


class Measured(NamedTuple):
    """A mean over tasks: `score`, `success` or `return`, and its value."""

    measure: str
    value: float

    def __str__(self) -> str:
        if self.measure == "success":
            return f"success {self.value:.1%}"
        digits = ".1f" if self.measure == "score" else ".2f"
        return f"{self.measure} {self.value:{digits if abs(self.value) < _LARGE else '.3g'}}"


class ListedRun(NamedTuple):
    """What is known of a run without its checkpoints.

    Attributes:
        problem: Why a damaged run, or its evaluation, cannot be read; empty for others.
        config: Dotted keys; empty for a damaged run.
        total_frames: At which training ends; None if unknown, as other missing numbers are.
        seconds, frames_per_second, parameters: Of result.json.
        training, evaluation: None if there is none.
        changed: Seconds since the epoch of the last log step, or of the start.
    """

    folder: Path
    state: str
    problem: str
    config: Mapping[str, Any]
    frames: int
    total_frames: int | None
    seconds: float | None
    frames_per_second: float | None
    parameters: float | None
    training: Measured | None
    evaluation: Measured | None
    changed: float


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 done, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(lambda: run(arguments), interrupted="interrupted")


def run(arguments: Sequence[str]) -> int:
    """Prints a list, a comparison or the help. Returns the exit code."""
    if {"--help", "-h"} & set(arguments):
        return print_text((__doc__ or "").strip())
    words = [word for word in arguments if word != "--json"]
    if unknown := [word for word in words if word.startswith("-") and not Path(word).exists()]:
        raise InputError(f"mimpala runs {unknown[0]} is unknown: see mimpala runs --help.")
    if words[:1] == ["diff"]:
        if len(words) != 3:
            raise InputError("mimpala runs diff compares two runs: give two run folders.")
        return compare(Path(words[1]), Path(words[2]), as_json="--json" in arguments)
    found = sorted(find_runs(words or [_DEFAULT]), key=lambda one: one.changed)
    if "--json" in arguments:
        return print_text(json.dumps(finite_or_null([_plain(one) for one in found]), indent=2))
    if not found:
        TextConsole().say(f"no run in {', '.join(words or [_DEFAULT])}")
        return DONE
    TextConsole().print(list_table(found))
    for one in found:
        if one.problem:
            warn(one.problem)
    return DONE


def find_runs(folders: Sequence[str]) -> Iterator[ListedRun]:
    """The runs in these folders and below. InputError if a folder is missing. Links to folders are not followed."""
    for name in folders:
        if not os.path.isdir(name):
            raise InputError(f"{name} is no folder: give run folders, or folders of them.")
        for place, inside, files in os.walk(name):
            if CONFIG in files:
                # A run folder has no run inside.
                inside.clear()
                if listed := read_run(Path(place)):
                    yield listed


def read_run(folder: Path) -> ListedRun | None:
    """The run in a folder; None if its configuration is of another program."""
    path, problem, damaged = folder / CONFIG, "", False
    config: dict[str, Any] = {}
    try:
        config = read_keys(folder)
        if not config:
            return None
    except InputError as error:
        problem, damaged = str(error), True
    try:
        evaluation = _evaluated(read_evaluation(folder))
    except InputError as error:
        problem, evaluation = problem or str(error), None
    step = newest_log_step(folder)
    log = folder / "metrics.jsonl"
    result = read_json(folder / RESULT) or {}
    if not COUNT.passes(result.get("updates")) or result["updates"] < step.updates:
        # A run that was continued has the result of its earlier end until the next one.
        result = {"parameters": result.get("parameters")}
    numbers = {key: value for key, value in result.items() if FINITE.passes(value)}
    return ListedRun(
        folder=folder,
        state="damaged" if damaged else _state(folder, config, result),
        problem=problem,
        config=config,
        frames=step.frames,
        total_frames=config.get("total_frames"),
        seconds=numbers.get("seconds"),
        frames_per_second=numbers.get("frames_per_second"),
        parameters=numbers.get("parameters"),
        training=Measured(step.measure, step.value) if step.measure else None,
        evaluation=evaluation,
        changed=os.lstat(log if log.exists() else path).st_mtime,
    )


def _state(folder: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    if is_locked(folder):
        return "running"
    frames = int(result["frames"]) if COUNT.passes(result.get("frames")) else 0
    ended_by = str(result.get("ended_by"))
    # It was continued with a larger total_frames, and had no log step since.
    if ended_by == "total_frames" and frames < config["total_frames"]:
        return "stopped"
    if result.get("finished") is True:
        return "finished"
    return {"signal": "interrupted", "pause": "paused", "error": "failed"}.get(ended_by, "stopped")


def _evaluated(content: Mapping[str, Any]) -> Measured | None:
    """The mean over tasks of an evaluation, of the first known one of score, success and return."""
    if not content:
        return None
    scores = content.get("scores")
    aggregate = scores.get("aggregate") if isinstance(scores, dict) else None
    score = aggregate.get("mean") if isinstance(aggregate, dict) else None
    score = score.get("score") if isinstance(score, dict) else score
    if score is not None and FINITE.passes(score):
        return Measured("score", float(score))
    rows = content["tasks"].values()
    key = "mean" if any(row["success"] is None for row in rows) else "success"
    return Measured("return" if key == "mean" else key, sum(row[key] for row in rows) / len(rows))


def list_table(runs: Sequence[ListedRun]) -> FittedTable:
    """One row for each run."""
    rows = [
        Row(
            str(one.folder),
            [
                one.state,
                _share(one),
                str(one.training or "-"),
                str(one.evaluation or "-"),
                _age(time.time() - one.changed),
                *(shorten(str(one.config.get(key, "-")), 20) for key in ("env.name", "fusion.name", "seed")),
            ],
        )
        for one in runs
    ]
    title = f"{count(len(runs), 'run')}, the latest last"
    return FittedTable(
        ["run", "state", "frames", "training", "evaluation", "age", "suite", "fusion", "seed"], rows, title=title
    )


def _share(one: ListedRun) -> str:
    share = f" ({one.frames / one.total_frames:.0%})" if one.total_frames else ""
    return f"{one.frames:,}{share}"


def _age(seconds: float) -> str:
    """In the largest unit that gives a whole number of at least 1."""
    name, size = next((unit for unit in _UNITS if seconds >= unit[1]), _UNITS[-1])
    return f"{max(0, int(seconds // size))} {name}"


def compare(*folders: Path, as_json: bool = False) -> int:
    """Prints the keys in which two runs differ, and their figures. Returns the exit code."""
    runs = []
    for folder in folders:
        found = read_run(folder) if (folder / CONFIG).exists() else None
        if not found or found.problem:
            raise InputError(
                f"{folder} is no run that can be read{': ' + found.problem if found else ''}: give a run folder."
            )
        runs.append(found)
    keys = sorted(set().union(*(one.config for one in runs)) - {"run", "resume"})
    values = {key: [one.config.get(key) for one in runs] for key in keys}
    differing = {key: pair for key, pair in values.items() if pair[0] != pair[1]}
    if as_json:
        figures = [{key: value for key, value in _plain(one).items() if key in _FIGURES} for one in runs]
        return print_text(json.dumps(finite_or_null({"keys": differing, "figures": figures}), indent=2))
    console = TextConsole()
    room = max(12, (console.width - 24) // 2)
    for title, rows in (
        ("keys that differ", {key: list(map(_typed, pair)) for key, pair in differing.items()}),
        ("figures", {key: [_text(getattr(one, key)) for one in runs] for key in _FIGURES}),
    ):
        if not rows:
            console.say("no key differs")
            continue
        listed = [Row(key, shorten_all(texts, room)) for key, texts in rows.items()]
        console.print(FittedTable([title, *shorten_all(list(map(str, folders)), room)], listed))
    return DONE


def _typed(value: Any) -> str:
    """A value of the configuration; `-` without one."""
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def _text(value: Any) -> str:
    """A figure."""
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:g}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _plain(one: ListedRun) -> dict[str, Any]:
    """A run as plain data, with the keys of its configuration that the table shows."""
    named = {
        name: one.config.get(key) for name, key in (("suite", "env.name"), ("fusion", "fusion.name"), ("seed", "seed"))
    }
    measured = {
        name: found and {"measure": found.measure, "value": found.value}
        for name, found in (("training", one.training), ("evaluation", one.evaluation))
    }
    rest = {key: value for key, value in one._asdict().items() if key not in ("config", *measured)}
    return rest | {"folder": str(one.folder)} | named | measured


if __name__ == "__main__":
    run_program(main)
