"""Reads run folders into `Results`, and decides which runs can be compared. The reports see no JSON file of a run, but `Results` alone.

The files may come from another program, so each is checked before use. A run that cannot be used, or cannot be compared with the others,
becomes a `Problem` with a reason.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ablation.analysis.results import Array, Curve, Measure, Problem, Results, Run
from agents.run.layout import AGENT, CONFIG, PROVENANCE, RESULT
from conf.command_line import command_of, format_argument
from conf.composition import flatten
from conf.loading import load_train, to_dict
from conf.schema import MAY_CHANGE_ON_RESUME, TrainConfig
from envs.spec import Score
from envs.suites import get_suite
from system.errors import InputError
from system.files import parse_json, read_json, read_lines
from system.plain_data import COUNT, FINITE, SECONDS, PlainDataError, Test, check_form, plain_copy

GRID_FILE, CELL_FILE, EVALUATION_FILE = "grid.json", "cell.json", "evaluation.json"

SCORE = Measure(name="score", label="human-normalised score (random 0, human 100)", best=100.0, floor=0.0)
MAXIMUM = Measure(name="score", label="normalised score (published minimum 0, maximum 100)", best=100.0, floor=0.0)
OPTIMAL = Measure(name="score", label="normalised return (best without context 0, optimal 1)", best=1.0, floor=0.0)
_SCORES = {"human": SCORE, "maximum": MAXIMUM, "optimal": OPTIMAL}
"""Measure by `Score.reference`, which is the same for all tasks of a suite."""
SUCCESS = Measure(name="success", label="success", best=1.0, floor=0.0)
RETURN = Measure(name="return", label="return", best=None)

HOUSEKEEPING_KEYS = set(MAY_CHANGE_ON_RESUME) - {
    *("total_frames", "stop_at", "stop_at_success", "precision", "runtime.name", "log_frames")
}
"""Keys that change neither what is learned nor what is reported. The keys that are subtracted change one of these."""

_KEYS_OF_ONE_RUN = {"seed", "log_frames"} | HOUSEKEEPING_KEYS
"""Keys in which runs of one variant may differ."""

_MOST_VALUES = 20_000_000
"""Largest number of values in a JSON file."""

_MOST_ROWS = 10_000
"""A metrics.jsonl of at least twice as many rows is thinned, but not below this number, which is far more than a curve shows."""

_SUCCESS = Test("a share, or null", lambda value: value is None or FINITE.passes(value))
_VALUE = Test("text, a number, or null", lambda value: value is None or isinstance(value, str | int | float))
_FOLDER = Test(
    "the name of a folder",
    lambda value: isinstance(value, str) and value not in ("", ".", "..") and not {"/", "\0"} & set(value),
)
Form: TypeAlias = Mapping[str, Any]

_RESULT_FORM = {
    "finished": bool,
    "updates": COUNT,
    "frames": COUNT,
    "parameters": COUNT,
    "seconds": SECONDS,
    "frames_per_second": SECONDS,
}
_EVALUATION_FORM = {
    "tasks": {str: {"episodes": COUNT, "mean": FINITE, "success": _SUCCESS}},
    "provenance": {"updates": COUNT, "seed": COUNT, "greedy": bool},
}
_PROBES_FORM = {"probes": {str: {"tasks": {str: {"mean": FINITE, "success": _SUCCESS}}}}}
_PROVENANCE_FORM = {section: {str: _VALUE} for section in ("git", "versions", "machine")}
_AGENT_FORM = {"multiply_adds": {str: COUNT}}
_CELL_FORM = {"variant": str}
_GRID_FORM = {"cells": [{"name": _FOLDER, "variant": str, "seed": COUNT}], "command": [str]}


class Scale(NamedTuple):
    """A value of the measure is (what the files hold - offset) * factor."""

    offset: float
    factor: float


class Record(NamedTuple):
    """The files of a run folder, read and checked.

    Attributes:
        variant: As cell.json states it; empty without that file.
        config, result, evaluation, provenance, agent: The content of these files.
        rows: Of metrics.jsonl (`read_log`).
    """

    folder: Path
    variant: str
    config: TrainConfig
    result: dict[str, Any]
    evaluation: dict[str, Any]
    provenance: dict[str, Any]
    agent: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Evaluation of each task."""
        tasks: dict[str, dict[str, Any]] = self.evaluation["tasks"]
        return tasks

    @property
    def episodes(self) -> set[int]:
        """The different numbers of evaluation episodes that tasks have; one number in a usual evaluation."""
        return {row["episodes"] for row in self.tasks.values()}


def load_grid(folder: Path, measure: str = "auto") -> Results:
    """Results of a grid of ablate.py. InputError if the folder is none, or no run can be reported on."""
    grid = read_grid(folder)
    if not grid:
        raise InputError(
            f"report={folder} is not a folder that ablate.py has filled (no valid grid.json): give the folder of a grid, or run folders as "
            "folders=[...]."
        )
    return load_runs([folder / row["name"] for row in grid["cells"]], measure, " ".join(grid["command"]))


def load_folders(folders: Sequence[str], measure: str = "auto") -> Results:
    """Results of run folders, or of all run folders directly inside the given folders. InputError if one is missing."""
    found: list[Path] = []
    for name in folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"folders=[{name}] does not exist: give run folders, or folders of them.")
        inside = sorted(path for path in folder.iterdir() if (path / CONFIG).exists())
        found += [folder] if (folder / CONFIG).exists() or not inside else inside
    return load_runs(found, measure)


def load_runs(folders: Sequence[Path], measure: str = "auto", command: str = "") -> Results:
    """Results of these run folders; runs that cannot be compared with the rest become `Problem`s. InputError if none is left."""
    problems: list[Problem] = []
    records: list[Record] = []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        try:
            records.append(read_record(folder))
        except InputError as error:
            problems.append(Problem(folder.name, str(error)))
    # Repeated ones last: a run that is not comparable must not hide a further one of its seed.
    checks: list[Callable[[Sequence[Record]], list[str]]] = [partial(_unlike_most, *entry) for entry in _COMPARABLE]
    for find in (*checks, _repeated):
        reasons = find(records) if records else []
        problems += [Problem(record.folder.name, why) for record, why in zip(records, reasons, strict=True) if why]
        records = [record for record, why in zip(records, reasons, strict=True) if not why]
    if not records:
        listed = " ".join(f"{problem.run}: {problem.reason}" for problem in problems[:3])
        raise InputError(f"No run can be reported on. {listed}".rstrip())
    chosen, scales = choose_measure(records, measure)
    names = name_variants(records)
    order = list(dict.fromkeys(names))
    runs = [make_run(record, variant, chosen, scales) for record, variant in zip(records, names, strict=True)]
    return Results(
        suite=records[0].config.env.name,
        measure=chosen,
        tasks=tuple(records[0].tasks),
        variants=tuple(order),
        runs=tuple(sorted(runs, key=lambda run: (order.index(run.variant), run.seed))),
        problems=tuple(problems),
        command=command,
    )


def read_record(folder: Path) -> Record:
    """Reads a run folder. InputError, with one sentence, if the run is missing, not finished, not evaluated, or has an unreadable file."""
    if not (folder / CONFIG).exists():
        raise InputError(f"its folder has no {CONFIG}: the run has not started.")
    config, run = load_train(folder / CONFIG), format_argument("run", str(folder))
    result = read_result(folder)
    if not result.get("finished"):
        raise InputError(f"its training is not finished: continue it with {command_of('train')} {run} resume=true.")
    evaluation = read_evaluation(folder)
    if not evaluation:
        raise InputError(f"it has no evaluation: make one with {command_of('evaluate')} {run}.")
    if evaluation["provenance"]["updates"] != result["updates"]:
        raise InputError(
            f"its training continued after its evaluation: make a new one with {command_of('evaluate')} {run}."
        )
    cell, provenance, agent = (
        _read(folder / name, {}, form)
        for name, form in ((CELL_FILE, _CELL_FORM), (PROVENANCE, _PROVENANCE_FORM), (AGENT, _AGENT_FORM))
    )
    return Record(folder, cell.get("variant", ""), config, result, evaluation, provenance, agent, read_log(folder))


_COMPARABLE: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("suite", lambda record: record.config.env.name),
    ("list of tasks", lambda record: ", ".join(record.tasks)),
    ("suite's configuration", lambda record: _text(flatten(to_dict(record.config.env)))),
    ("total_frames", lambda record: f"{record.config.total_frames:,}"),
    ("number of evaluation episodes", lambda record: " or ".join(sorted(map(str, record.episodes)))),
    ("evaluation seed", lambda record: str(record.evaluation["provenance"]["seed"])),
    (
        "way of acting in the evaluation",
        lambda record: "greedy" if record.evaluation["provenance"]["greedy"] else "sampled",
    ),
)
"""Properties that must be equal for results to be comparable: the name in messages, and a function that reads it from a record."""


def _unlike_most(what: str, read: Callable[[Record], str], records: Sequence[Record]) -> list[str]:
    """For each run, why it cannot be compared with most of them by this property; empty if it can."""
    values = [read(record) for record in records]
    # most_common keeps the order of first occurrence among equal counts.
    ((usual, _),) = Counter(values).most_common(1)
    return ["" if value == usual else f"its {what} is {value}, but that of most runs is {usual}." for value in values]


def _repeated(records: Sequence[Record]) -> list[str]:
    """For each run, which earlier run has its variant and seed; empty if none has."""
    first: dict[tuple[str, int], str] = {}
    reasons = []
    for record, variant in zip(records, name_variants(records), strict=True):
        seed, name = record.config.seed, record.folder.name
        known = (variant, seed) in first
        earlier = first.setdefault((variant, seed), name)
        reasons.append(f"it is a second run of {variant} with seed {seed}: the report has {earlier}." if known else "")
    return reasons


def name_variants(records: Sequence[Record]) -> list[str]:
    """The variant of each run, from cell.json if all runs have one.

    Otherwise it is the name of the run's fusion, with its values of the keys in which runs of any one fusion differ.
    """
    if all(record.variant for record in records):
        return [record.variant for record in records]
    flat = [flatten(to_dict(record.config)) for record in records]
    groups: dict[str, list[dict[str, Any]]] = {}
    for config in flat:
        groups.setdefault(config["fusion.name"], []).append(config)
    differing = [
        key
        for key in flat[0]
        if key not in _KEYS_OF_ONE_RUN
        and any(len({_text(config.get(key)) for config in group}) > 1 for group in groups.values())
    ]
    return [
        " ".join([config["fusion.name"], *(f"{key}={_text(config.get(key))}" for key in differing)]) for config in flat
    ]


def choose_measure(records: Sequence[Record], wanted: str) -> tuple[Measure, dict[str, Scale]]:
    """The measure to compare runs by, and its scale for each task.

    `auto` is the first of score, success and return that is known for all runs. InputError if `wanted` is unknown.
    """
    first = records[0]
    known = {"return": RETURN}
    if all(row["success"] is not None for record in records for row in record.tasks.values()):
        known["success"] = SUCCESS
    # A task whose lowest and highest reference are equal has no scale.
    scores = {task: score for task, score in reference_scores(first.config).items() if score.human != score.random}
    if all(task in scores for task in first.tasks):
        known["score"] = _SCORES[scores[next(iter(first.tasks))].reference]
    name = next(name for name in ("score", "success", "return") if name in known) if wanted == "auto" else wanted
    if name not in known:
        raise InputError(
            f"measure={name} is not known for suite {first.config.env.name}: choose one of {', '.join(known)}."
        )
    measure, scales = known[name], dict.fromkeys(first.tasks, Scale(0.0, 1.0))
    if name == "score":
        for task in first.tasks:
            score = scores[task]
            scales[task] = Scale(score.random, (measure.best or 1.0) / (score.human - score.random))
    return measure, scales


def reference_scores(config: TrainConfig) -> Mapping[str, Score]:
    """Reference scores of the suite by task; empty if the configuration is invalid. Imports and creates no environment."""
    try:
        return get_suite(config.env.name).scores(config.env)
    except InputError:
        return {}


def make_run(record: Record, variant: str, measure: Measure, scales: Mapping[str, Scale]) -> Run:
    """The `Run` of a record."""
    # The keys of the measure in evaluation.json and in metrics.jsonl. A score is computed from the return.
    evaluated, logged = ("success", "success") if measure.name == "success" else ("mean", "return")

    def measured(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        return {task: (tasks[task][evaluated] - offset) * factor for task, (offset, factor) in scales.items()}

    def column(key: str) -> Array:
        return np.array([row.get(key, np.nan) for row in record.rows], np.float64)

    return Run(
        name=record.folder.name,
        variant=variant,
        seed=record.config.seed,
        values=measured(record.tasks),
        probed={probe: measured(section["tasks"]) for probe, section in record.evaluation.get("probes", {}).items()},
        curve=Curve(
            frames=column("frames"),
            seconds=column("seconds"),
            values={
                task: (column(f"tasks/{task}/{logged}") - offset) * factor for task, (offset, factor) in scales.items()
            },
        ),
        episodes=min(record.episodes),
        parameters=record.result["parameters"],
        multiply_adds=record.agent.get("multiply_adds", {}).get("apply", 0),
        frames=record.result["frames"],
        seconds=float(record.result["seconds"]),
        frames_per_second=float(record.result["frames_per_second"]),
        config=flatten(to_dict(record.config)),
        provenance=record.provenance,
    )


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a run that is finished or paused; empty for any other run. InputError if the file is invalid."""

    def has_ended(result: dict[str, Any]) -> bool:
        return bool(result.get("finished")) or result.get("ended_by") == "pause"

    return _read(folder / RESULT, _RESULT_FORM, applies=has_ended)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """evaluation.json; empty if it is missing or was stopped early. InputError if it is invalid: every probe must have every task."""
    path = folder / EVALUATION_FILE
    evaluation = _read(path, _EVALUATION_FORM, _PROBES_FORM, lambda content: "stopped" not in content)
    if not evaluation:
        return {}
    known = {task: row["success"] is not None for task, row in evaluation["tasks"].items()}
    probed = [section["tasks"] for section in evaluation.get("probes", {}).values()]
    if not known or any({task: row["success"] is not None for task, row in rows.items()} != known for rows in probed):
        raise _damaged(path, "no task, or probes of other tasks")
    return evaluation


def read_grid(folder: Path) -> dict[str, Any]:
    """grid.json; empty if it is missing or has no cells. InputError if the file is invalid."""
    return _read(folder / GRID_FILE, _GRID_FORM, applies=lambda grid: grid.get("cells"))


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl with the columns that curves need; unreadable lines are skipped.

    Of a file with 2 * _MOST_ROWS rows or more, only every 2nd, 4th, 8th, ... row is kept, and the newest row.
    """
    rows: list[dict[str, Any]] = []
    number, step, newest = 0, 1, None
    with contextlib.suppress(OSError):
        for line in read_lines(folder / "metrics.jsonl"):
            if (newest := _curve_row(line)) is None:
                continue
            if number % step == 0:
                rows.append(newest)
            number += 1
            # Halve the rows that were kept, and from now on skip twice as many.
            if len(rows) == 2 * _MOST_ROWS:
                rows, step = rows[::2], 2 * step
    if newest is not None and rows[-1] is not newest:
        rows.append(newest)
    return rows


def _curve_row(line: str) -> dict[str, Any] | None:
    """The columns of a row that curves need; None if the line is unreadable, or a number in them is not finite."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    times = ("frames", "seconds")
    if not isinstance(row, dict) or not all(key in row for key in times):
        return None
    if not all(FINITE.passes(value) for key, value in row.items() if key in times or key.startswith("tasks/")):
        return None
    return {key: value for key, value in row.items() if key in times or key.endswith(("/return", "/success"))}


def _read(
    path: Path, form: Form, optional: Form | None = None, applies: Callable[[dict[str, Any]], object] = bool
) -> dict[str, Any]:
    """The content of a JSON file; empty if the file is missing or unreadable, or its content does not apply.

    InputError if it is not plain data of this form (`check_form`), or the names in `optional` that it has are not of that form.
    """
    try:
        content: dict[str, Any] = plain_copy(read_json(path) or {}, most=_MOST_VALUES)
        if not content or not applies(content):
            return {}
        known = {name: part for name, part in (optional or {}).items() if name in content}
        check_form(content, {**form, **known})
    except PlainDataError as error:
        raise _damaged(path, str(error)) from error
    return content


def _damaged(path: Path, found: str) -> InputError:
    return InputError(
        f"{path} is damaged, or another program wrote it (it holds {found}): put back a copy, or leave the run out of the report."
    )


def _text(value: Any) -> str:
    """A value of the configuration as messages and names of variants show it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items())
    return json.dumps(value) if isinstance(value, list) else str(value)
