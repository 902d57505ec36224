"""Reads run folders into `Results`, and decides which runs can be compared. The reports see no JSON file of a run, but `Results` alone.

A run that cannot be used, or cannot be compared with the others, becomes a `Problem` with a reason.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablation.analysis.results import Array, Curve, Measure, Problem, Results, Run
from ablation.run_files import Record, read_choices, read_grid, read_record, read_training
from agents.run.layout import CONFIG
from conf.command_line import quote_argument
from conf.composition import flatten
from conf.loading import to_dict
from conf.schema import MAY_CHANGE_ON_RESUME, TrainConfig
from envs.spec import Score
from envs.suites import get_suite
from system.errors import InputError

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


class Scale(NamedTuple):
    """A value of the measure is (what the files hold - offset) * factor."""

    offset: float
    factor: float


def load_grid(folder: Path, measure: str = "auto") -> Results:
    """Results of a grid of ablate.py. InputError if the folder is none, or no run can be reported on."""
    grid = read_grid(folder)
    if not grid:
        raise InputError(
            f"report={folder} is not a folder that ablate.py has filled (no valid grid.json): give the folder of a grid, or run folders as "
            "folders=[...]."
        )
    command = " ".join(map(quote_argument, grid["command"]))
    results = load_runs([folder / row["name"] for row in grid["cells"]], measure, command)
    return dataclasses.replace(results, choices=read_choices(folder))


def load_folders(folders: Sequence[str], measure: str = "auto", *, evaluated: bool = True) -> Results:
    """Results of run folders, or of all run folders directly inside the given folders. InputError if one is missing.

    Without `evaluated`, of their training alone (`read_training`).
    """
    found: list[Path] = []
    for name in folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"folders=[{name}] does not exist: give run folders, or folders of them.")
        inside = sorted(path for path in folder.iterdir() if (path / CONFIG).exists())
        found += [folder] if (folder / CONFIG).exists() or not inside else inside
    return load_runs(found, measure, evaluated=evaluated)


def load_runs(folders: Sequence[Path], measure: str = "auto", command: str = "", *, evaluated: bool = True) -> Results:
    """Results of these run folders; runs that cannot be compared with the rest become `Problem`s. InputError if none is left."""
    read, comparable = (read_record, _COMPARABLE) if evaluated else (read_training, _COMPARABLE[:2])
    problems: list[Problem] = []
    records: list[Record] = []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        try:
            records.append(read(folder))
        except InputError as error:
            problems.append(Problem(folder.name, str(error)))
    # Repeated ones last: a run that is not comparable must not hide a further one of its seed.
    checks: list[Callable[[Sequence[Record]], list[str]]] = [partial(_unlike_most, *entry) for entry in comparable]
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
    ("group of contexts", lambda record: str(record.evaluation["provenance"].get("contexts", "both"))),
)
"""Properties that must be equal for results to be comparable, learning curves in the first two: the name in messages, and a function that
reads it from a record."""


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
        return {task: (row[evaluated] - scales[task].offset) * scales[task].factor for task, row in tasks.items()}

    def column(key: str) -> Array:
        return np.array([row.get(key, np.nan) for row in record.rows], np.float64)

    return Run(
        name=record.folder.name,
        variant=variant,
        seed=record.config.seed,
        values=measured(record.tasks),
        unseen=measured(record.evaluation.get("unseen", {}).get("tasks", {})),
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


def _text(value: Any) -> str:
    """A value of the configuration as messages and names of variants show it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items())
    return json.dumps(value) if isinstance(value, list) else str(value)
