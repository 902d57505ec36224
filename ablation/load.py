"""From run folders to `Results`: what each run tells of itself, which of them can be compared, and why the others cannot."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ablation.analysis.results import Curve, Measure, Problem, Results, Run
from ablation.grid.grid import NOT_OF_THE_EXPERIMENT
from ablation.run_files import read_about, read_evaluation, read_grid, read_result
from agents.run.folder import CONFIG
from conf.loading import flatten, load_train, to_dict
from conf.schema import TrainConfig
from conf.typed import argument
from envs.spec import Score
from envs.suites import get_suite
from system.errors import InputError
from system.files import parse_json, read_lines
from system.plain_data import FINITE

SCORE = Measure(name="score", label="human-normalised score (random 0, human 100)", best=100.0, floor=0.0)
OPTIMAL = Measure(name="score", label="normalised return (best without context 0, optimal 1)", best=1.0, floor=0.0)
SUCCESS = Measure(name="success", label="success", best=1.0, floor=0.0)
RETURN = Measure(name="return", label="return", best=None)

_OF_THE_RUN = {"seed", "log_frames"} | NOT_OF_THE_EXPERIMENT
"""Keys in which runs of one variant may differ."""


_MOST_ROWS = 10_000
"""Of a log that are kept, at least, where it has more: far more than a curve shows."""


class Record(NamedTuple):
    """What a run folder holds: its files, read. variant: from cell.json, else empty. rows: of metrics.jsonl."""

    folder: Path
    name: str
    variant: str
    config: TrainConfig
    result: dict[str, Any]
    evaluation: dict[str, Any]
    provenance: dict[str, Any]
    agent: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.config.seed

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """What evaluation.json has of each task."""
        return list(self.evaluation["tasks"].values())


def load_grid(folder: Path, measure: str = "auto") -> Results:
    """The results of a grid that ablate.py has filled.

    Raises:
        InputError: it is none, or none of its runs can be reported on.
    """
    grid = read_grid(folder)
    if not grid.get("cells"):
        raise InputError(
            f"report={folder} is not a folder that ablate.py has filled (no valid grid.json): give the folder of a grid, or run folders as "
            "folders=[...]."
        )
    return load_runs([folder / row["name"] for row in grid["cells"]], measure, " ".join(grid["command"]))


def load_folders(folders: Sequence[str], measure: str = "auto") -> Results:
    """The results of run folders, or of all runs right inside of folders.

    Raises:
        InputError: a folder does not exist, or none of the runs can be reported on.
    """
    found: list[Path] = []
    for name in folders:
        folder = Path(name)
        if not folder.is_dir():
            raise InputError(f"folders=[{name}] does not exist: give run folders, or folders of them.")
        inside = sorted(path for path in folder.iterdir() if (path / CONFIG).exists())
        found += [folder] if (folder / CONFIG).exists() or not inside else inside
    return load_runs(found, measure)


def load_runs(folders: Sequence[Path], measure: str = "auto", command: str = "") -> Results:
    """The results of these run folders, in which whatever cannot be compared with the rest is a `Problem`.

    Raises:
        InputError: nothing is left, or the measure that is asked for is unknown for a run.
    """
    problems: list[Problem] = []
    records: list[Record] = []
    for folder in dict.fromkeys(path.resolve() for path in folders):
        try:
            records.append(read_record(folder))
        except InputError as error:
            problems.append(Problem(folder.name, str(error)))
    for sieve in (alike, single):
        records, dropped = sieve(records)
        problems += dropped
    if not records:
        told = " ".join(f"{problem.run}: {problem.reason}" for problem in problems[:3])
        raise InputError(f"No run can be reported on. {told}".rstrip())
    kind, values = choose_measure(records, measure)
    names = variants(records)
    tasks = tuple(records[0].evaluation["tasks"])
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    runs = [
        make_run(record, variant, {task: values(record, task) for task in tasks}, kind)
        for record, variant in zip(records, names, strict=True)
    ]
    return Results(
        suite=records[0].config.env.name,
        measure=kind,
        tasks=tasks,
        variants=tuple(order),
        runs=tuple(sorted(runs, key=lambda run: (order[run.variant], run.seed))),
        problems=tuple(problems),
        command=command,
    )


def read_record(folder: Path) -> Record:
    """Reads a run folder.

    Raises:
        InputError: the run is missing, has not come to its end, was not evaluated, or has a file that cannot be read; one sentence.
    """
    if not (folder / CONFIG).exists():
        raise InputError(f"its folder has no {CONFIG}: the run has not started.")
    config = load_train(folder / CONFIG)
    result = read_result(folder)
    if not result:
        raise InputError(
            f"its training is not finished: continue it with python train.py {argument('run', str(folder))} resume=true."
        )
    evaluation = read_evaluation(folder)
    if not evaluation:
        raise InputError(f"it has no evaluation: make one with python evaluate.py {argument('run', str(folder))}.")
    if evaluation["provenance"]["updates"] != result["updates"]:
        raise InputError(
            f"its training continued after its evaluation: make a new one with python evaluate.py {argument('run', str(folder))}."
        )
    variant, provenance, agent = read_about(folder)
    return Record(folder, folder.name, variant, config, result, evaluation, provenance, agent, read_log(folder))


def alike(records: Sequence[Record]) -> tuple[list[Record], list[Problem]]:
    """Those that played the same: the largest group, and why the others are not in it."""
    kept, problems = list(records), []
    for what, key in _COMPARABLE:
        counts = Counter(key(record) for record in kept)
        # The first of equally many.
        usual = max(counts, key=lambda value: counts[value], default=None)
        problems += [
            Problem(record.name, f"its {what} is {key(record)}, but that of most runs is {usual}.")
            for record in kept
            if key(record) != usual
        ]
        kept = [record for record in kept if key(record) == usual]
    return kept, problems


_COMPARABLE: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("suite", lambda record: record.config.env.name),
    ("list of tasks", lambda record: ", ".join(record.evaluation["tasks"])),
    ("suite's configuration", lambda record: _text(flatten(to_dict(record.config.env)))),
    ("total_frames", lambda record: f"{record.config.total_frames:,}"),
    ("number of evaluation episodes", lambda record: _text({row["episodes"] for row in record.tasks})),
    ("evaluation seed", lambda record: str(record.evaluation["provenance"]["seed"])),
    ("way of acting in the evaluation", lambda record: _way(record.evaluation["provenance"]["greedy"])),
)
"""What has to be the same for numbers to be compared."""


def single(records: Sequence[Record]) -> tuple[list[Record], list[Problem]]:
    """One run for each variant and seed: the first one."""
    kept: dict[tuple[str, int], Record] = {}
    problems = []
    for record, variant in zip(records, variants(records), strict=True):
        first = kept.setdefault((variant, record.seed), record)
        if first is not record:
            problems.append(
                Problem(
                    record.name,
                    f"it is a second run of {variant} with seed {record.seed}: the report has {first.name}.",
                )
            )
    return list(kept.values()), problems


def variants(records: Sequence[Record]) -> list[str]:
    """What each record is a repetition of: as cell.json has it, else its fusion and those keys in which runs of one fusion differ."""
    if all(record.variant for record in records):
        return [record.variant for record in records]
    flat = [flatten(to_dict(record.config)) for record in records]
    groups: dict[str, list[dict[str, Any]]] = {}
    for config in flat:
        groups.setdefault(config["fusion.name"], []).append(config)
    differing = [
        key
        for key in flat[0]
        if key not in _OF_THE_RUN and any(len({_text(c.get(key)) for c in group}) > 1 for group in groups.values())
    ]
    return [" ".join([c["fusion.name"], *(f"{key}={_text(c.get(key))}" for key in differing)]) for c in flat]


def choose_measure(records: Sequence[Record], wanted: str) -> tuple[Measure, Callable[[Record, str], _Values]]:
    """What the runs are compared by, and a function that reads it.

    Raises:
        InputError: `wanted` is not known for every run.
    """
    tasks = list(records[0].evaluation["tasks"])
    known = {"return": RETURN}
    if all(row["success"] is not None for record in records for row in record.tasks):
        known["success"] = SUCCESS
    scores = reference_scores(records[0].config)
    if all(task in scores for task in tasks):
        human = all(scores[task].reference == "human" for task in tasks)
        known["score"] = SCORE if human else OPTIMAL
    name = next(name for name in ("score", "success", "return") if name in known) if wanted == "auto" else wanted
    if name not in known:
        raise InputError(
            f"measure={name} is not known for suite {records[0].config.env.name}: choose one of {', '.join(known)}."
        )
    kind = known[name]
    evaluated, logged = ("success", "success") if name == "success" else ("mean", "return")

    def values(record: Record, task: str) -> _Values:
        probes = record.evaluation.get("probes", {})
        found = _Values(
            float(record.evaluation["tasks"][task][evaluated]),
            {probe: float(section["tasks"][task][evaluated]) for probe, section in probes.items()},
            np.array([row.get(f"tasks/{task}/{logged}", np.nan) for row in record.rows], np.float64),
        )
        return found.scaled(scores[task], kind) if name == "score" else found

    return kind, values


class _Values(NamedTuple):
    """Of one run on one task: in the evaluation, under each probe, and during training [N]."""

    value: float
    probed: Mapping[str, float]
    curve: Any

    def scaled(self, score: Score, measure: Measure) -> _Values:
        """On the scale on which `score.random` is 0 and `score.human` is `measure.best`."""
        assert measure.best is not None
        unit = measure.best / (score.human - score.random)
        return _Values(
            (self.value - score.random) * unit,
            {probe: (value - score.random) * unit for probe, value in self.probed.items()},
            (self.curve - score.random) * unit,
        )


def reference_scores(config: TrainConfig) -> Mapping[str, Score]:
    """Those of the suite. Whatever the configuration says, which is a file's, nothing is imported, read or made for them."""
    try:
        return get_suite(config.env.name).scores(config.env)
    except InputError:
        return {}


def make_run(record: Record, variant: str, values: Mapping[str, _Values], measure: Measure) -> Run:
    """The `Run` of a record."""
    probes = next(iter(values.values())).probed
    return Run(
        folder=record.folder,
        name=record.name,
        variant=variant,
        seed=record.seed,
        values={task: found.value for task, found in values.items()},
        probed={probe: {task: found.probed[probe] for task, found in values.items()} for probe in probes},
        curve=Curve(
            frames=np.array([row["frames"] for row in record.rows], np.float64),
            seconds=np.array([row["seconds"] for row in record.rows], np.float64),
            values={task: found.curve for task, found in values.items()},
        ),
        episodes=min(row["episodes"] for row in record.tasks),
        parameters=int(record.result["parameters"]),
        multiply_adds=int(record.agent.get("multiply_adds", {}).get("apply", 0)),
        frames=int(record.result["frames"]),
        seconds=float(record.result["seconds"]),
        frames_per_second=float(record.result["frames_per_second"]),
        config=flatten(to_dict(record.config)),
        provenance=record.provenance,
    )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """What curves are made of, of the lines of metrics.jsonl; what cannot be read is left out.

    Of more than 2 * _MOST_ROWS lines it is every second one, or every fourth, and so on, and the newest.
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
            if len(rows) == 2 * _MOST_ROWS:
                rows, step = rows[::2], 2 * step
    if newest is not None and rows[-1] is not newest:
        rows.append(newest)
    return rows


def _curve_row(line: str) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if (
        not isinstance(row, dict)
        or "frames" not in row
        or "seconds" not in row
        or not all(map(_is_readable, row.items()))
    ):
        return None
    columns = ("frames", "seconds")
    return {key: value for key, value in row.items() if key in columns or key.endswith(("/return", "/success"))}


def _is_readable(item: tuple[str, Any]) -> bool:
    """Whether the value of a column is what curves are made of, where it is one of theirs."""
    key, value = item
    return FINITE.passes(value) or not (key in ("frames", "seconds") or key.startswith("tasks/"))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items())
    if isinstance(value, set):
        return " or ".join(sorted(map(str, value)))
    return json.dumps(value) if isinstance(value, list) else str(value)


def _way(greedy: bool) -> str:
    return "greedy" if greedy else "sampled"
