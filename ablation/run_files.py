"""Reads the files of a run folder. They may come from another program, so each is checked before use."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ablation.analysis.results import Choice, TuningRun
from agents.run.layout import AGENT, CONFIG, PROVENANCE, RESULT
from conf.command_line import command_of, format_argument
from conf.composition import flatten
from conf.loading import load_train
from conf.schema import TrainConfig
from system.errors import InputError
from system.files import parse_json, read_json, read_lines
from system.plain_data import COUNT, FINITE, MEASURED, SECONDS, PlainDataError, Test, check_form, plain_copy
from system.plain_yaml import MOST_CONFIG_VALUES, read_yaml

GRID_FILE, CELL_FILE, EVALUATION_FILE, TUNING_FILE = "grid.json", "cell.json", "evaluation.json", "tuning.json"

_MOST_VALUES = 20_000_000
"""Largest number of values in a JSON file."""

_MOST_ROWS = 10_000
"""A metrics.jsonl of at least twice as many rows is thinned, but not below this number, which is far more than a curve shows."""

_TAIL_BYTES = 2**20
"""Size of the end of metrics.jsonl that is searched for its last line."""

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
_UNSEEN_FORM = {"unseen": {"tasks": {str: {"mean": FINITE, "success": _SUCCESS}}}}
_PROVENANCE_FORM = {section: {str: _VALUE} for section in ("git", "versions", "machine")}
_AGENT_FORM = {"multiply_adds": {str: COUNT}}
_CELL_FORM = {"variant": str}
_CONFIG_FORM = {"env": {"name": str}, "fusion": {"name": str}, "seed": int, "total_frames": COUNT}
_COUNT_OR_NULL = Test("a count, or null", lambda value: value is None or COUNT.passes(value))
_NUMBER_OR_NULL = Test("a number, or null", lambda value: value is None or MEASURED.passes(value))
_VALUES = Test("values by key, or null", lambda value: value is None or isinstance(value, dict))
_TUNING_FORM = {
    "choices": [
        {
            "variant": str,
            "seed": _COUNT_OR_NULL,
            "measure": str,
            "chosen": _VALUES,
            "runs": [
                {
                    "run": str,
                    "seed": COUNT,
                    "values": {str: object},
                    "value": _NUMBER_OR_NULL,
                    "frames": COUNT,
                    "reason": str,
                }
            ],
        }
    ]
}
_GRID_FORM = {"cells": [{"name": _FOLDER, "variant": str, "seed": COUNT}], "command": [str]}


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


def read_training(folder: Path) -> Record:
    """Reads a run folder without its evaluation, also of an unfinished run. The evaluation is replaced by the last training episodes.

    InputError, with one sentence, if the run is missing, has no log, or has an unreadable file.
    """
    if not (folder / CONFIG).exists():
        raise InputError(f"its folder has no {CONFIG}: the run has not started.")
    rows = read_log(folder)
    last = rows[-1] if rows else {}
    names = [key.removeprefix("tasks/").removesuffix("/return") for key in last if re.fullmatch("tasks/.+/return", key)]
    if not names:
        raise InputError("its metrics.jsonl has no episode yet: wait for its first log step.")
    tasks = {
        task: {"episodes": 0, "mean": last[f"tasks/{task}/return"], "success": last.get(f"tasks/{task}/success")}
        for task in names
    }
    cell, agent = (_read(folder / name, {}, form) for name, form in ((CELL_FILE, _CELL_FORM), (AGENT, _AGENT_FORM)))
    result = {"parameters": 0, "frames": last["frames"], "seconds": last["seconds"], "frames_per_second": 0.0}
    evaluation = {"tasks": tasks}
    return Record(folder, cell.get("variant", ""), load_train(folder / CONFIG), result, evaluation, {}, agent, rows)


def read_keys(folder: Path) -> dict[str, Any]:
    """The dotted keys of config.yaml, of any version and with any plugins, because nothing that it names is looked up.

    Empty if another program wrote it. InputError if it is invalid.
    """
    path = folder / CONFIG
    content = read_yaml(path)
    if not isinstance(content, dict) or not {"env", "fusion"} <= content.keys():
        return {}
    try:
        content = plain_copy(content, most=MOST_CONFIG_VALUES)
        check_form(content, _CONFIG_FORM)
    except PlainDataError as error:
        raise _damaged(path, str(error)) from error
    return flatten(content)


def read_result(folder: Path) -> dict[str, Any]:
    """result.json of a run that is finished or paused; empty for any other run. InputError if the file is invalid."""

    def has_ended(result: dict[str, Any]) -> bool:
        return bool(result.get("finished")) or result.get("ended_by") == "pause"

    return _read(folder / RESULT, _RESULT_FORM, applies=has_ended)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """evaluation.json; empty if it is missing or was stopped early. InputError if it is invalid: every probe must have every task."""
    path = folder / EVALUATION_FILE
    evaluation = _read(path, _EVALUATION_FORM, _PROBES_FORM | _UNSEEN_FORM, lambda content: "stopped" not in content)
    if not evaluation:
        return {}
    known = {task: row["success"] is not None for task, row in evaluation["tasks"].items()}
    probed = [section["tasks"] for section in evaluation.get("probes", {}).values()]
    unseen = {task: row["success"] is not None for task, row in evaluation.get("unseen", {}).get("tasks", {}).items()}
    if not known or any({task: row["success"] is not None for task, row in rows.items()} != known for rows in probed):
        raise _damaged(path, "no task, or probes of other tasks")
    if not unseen.items() <= known.items():
        raise _damaged(path, "unseen contexts of other tasks")
    return evaluation


def read_grid(folder: Path) -> dict[str, Any]:
    """grid.json; empty if it is missing or has no cells. InputError if the file is invalid."""
    return _read(folder / GRID_FILE, _GRID_FORM, applies=lambda grid: grid.get("cells"))


def read_choices(folder: Path) -> tuple[Choice, ...]:
    """The content of tuning.json; empty if it is missing. InputError if the file is invalid."""
    rows = _read(folder / TUNING_FILE, {}, _TUNING_FORM).get("choices", [])
    names = [field.name for field in fields(Choice)]
    return tuple(
        Choice(**{key: row[key] for key in names if key != "runs"}, runs=tuple(map(_tuning_run, row["runs"])))
        for row in rows
    )


def _tuning_run(row: Mapping[str, Any]) -> TuningRun:
    return TuningRun(**{key: row[key] for key in TuningRun._fields})


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


class LogStep(NamedTuple):
    """The newest log step of a run: its updates, frames and speed, and the mean over tasks of the first one that is known of score, success
    and return. A number that is unknown is NaN.
    """

    updates: int = 0
    frames: int = 0
    frames_per_second: float = math.nan
    measure: str = ""
    value: float = math.nan


_MEASURES = {"score/mean": "score", "mean/success": "success", "mean/return": "return"}


def newest_log_step(folder: Path) -> LogStep:
    """The last line of metrics.jsonl; the defaults if it cannot be read."""
    try:
        *_, newest = read_lines(folder / "metrics.jsonl", last=_TAIL_BYTES)
        row = parse_json(newest)
        updates, frames = (int(row[key]) if COUNT.passes(row.get(key)) else 0 for key in ("updates", "frames"))
        numbers = {key: float(value) for key, value in row.items() if FINITE.passes(value)}
        key = next((key for key in _MEASURES if key in numbers), "")
        return LogStep(
            updates,
            frames,
            numbers.get("frames_per_second", math.nan),
            _MEASURES.get(key, ""),
            numbers.get(key, math.nan),
        )
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, AttributeError):
        return LogStep()


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
