"""The JSON files of run folders as somebody else may have written them: read, and held to the form that the rest relies on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents.run.folder import AGENT, PROVENANCE, RESULT
from system.errors import InputError
from system.files import read_json
from system.plain_data import COUNT, FINITE, SECONDS, PlainDataError, Test, check_form, plain_copy

GRID, CELL, EVALUATION = "grid.json", "cell.json", "evaluation.json"

_MOST_VALUES = 20_000_000

_SUCCESS = Test("a share, or null", lambda value: value is None or FINITE.passes(value))
_VALUE = Test("text, a number, or null", lambda value: value is None or isinstance(value, str | int | float))
_FOLDER = Test("the name of a folder", lambda value: isinstance(value, str) and _is_name(value))
_RESULT = {
    "finished": bool,
    "updates": COUNT,
    "frames": COUNT,
    "parameters": COUNT,
    "seconds": SECONDS,
    "frames_per_second": SECONDS,
}
_PLAYED = {str: {"mean": FINITE, "success": _SUCCESS}}
_EVALUATION = {
    "tasks": {str: {"episodes": COUNT, "mean": FINITE, "success": _SUCCESS}},
    "provenance": {"updates": COUNT, "seed": COUNT, "greedy": bool},
}
_PROBES = {"probes": {str: {"tasks": _PLAYED}}}
_PROVENANCE = {section: {str: _VALUE} for section in ("git", "versions", "machine")}
_AGENT = {"multiply_adds": {str: COUNT}}
_CELL = {"variant": str}
_GRID = {"cells": [{"name": _FOLDER, "variant": str, "seed": COUNT}], "command": [str]}


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a run that has come to its end; empty before. InputError when the file is none."""
    result = _read(folder / RESULT)
    if result.get("finished"):
        _check(folder / RESULT, result, _RESULT)
        return result
    return {}


def read_paused(folder: Path) -> int:
    """Frames at which a run has paused last; 0 for one that never has, or has ended in another way since."""
    result = _read(folder / RESULT)
    if result.get("ended_by") != "pause":
        return 0
    _check(folder / RESULT, result, _RESULT)
    return int(result["frames"])


def read_evaluation(folder: Path) -> dict[str, Any]:
    """What evaluate.py has found, every probe on every task; empty where it has not, or has stopped before its end. InputError when the
    file is none.
    """
    path = folder / EVALUATION
    evaluation = _read(path)
    if not evaluation or "stopped" in evaluation:
        return {}
    _check(path, evaluation, _EVALUATION)
    if "probes" in evaluation:
        _check(path, evaluation, _PROBES)
    known = {task: row["success"] is not None for task, row in evaluation["tasks"].items()}
    probed = [section["tasks"] for section in evaluation.get("probes", {}).values()]
    if not known or any({task: row["success"] is not None for task, row in rows.items()} != known for rows in probed):
        raise _error(path, "no task, or probes of other tasks")
    return evaluation


def read_about(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The variant of a cell (empty for other runs), the provenance and the size of the agent. InputError when a file is none."""
    forms = ((CELL, _CELL), (PROVENANCE, _PROVENANCE), (AGENT, _AGENT))
    cell, provenance, agent = (_read(folder / name) for name, _ in forms)
    for (name, form), content in zip(forms, (cell, provenance, agent), strict=True):
        _check(folder / name, content, form, complete=False)
    return cell.get("variant", ""), provenance, agent


def read_grid(folder: Path) -> dict[str, Any]:
    """Cells and command of a grid; empty where there is none. InputError when the file is none."""
    grid = _read(folder / GRID)
    if not grid.get("cells"):
        return {}
    _check(folder / GRID, grid, _GRID)
    return grid


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = plain_copy(read_json(path) or {}, most=_MOST_VALUES)
    except PlainDataError as error:
        raise _error(path, str(error)) from error
    return content


def _check(path: Path, content: dict[str, Any], form: Any, *, complete: bool = True) -> None:
    try:
        check_form(content, form, complete=complete)
    except PlainDataError as error:
        raise _error(path, str(error)) from error


def _error(path: Path, found: str) -> InputError:
    return InputError(
        f"{path} is damaged, or another program wrote it (it holds {found}): put back a copy, or leave the run out of the report."
    )


def _is_name(name: str) -> bool:
    """One part of a path, and not a way up."""
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name
