"""What training and evaluation leave behind, as Python objects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mimpala.location import use_own_packages

if TYPE_CHECKING:
    from mimpala.agent import Agent

Run: TypeAlias = "str | PathLike[str]"
"""A run folder, a checkpoint file, or a folder that `mimpala export` has written."""

LAST, BEST = "last", "best"


def checkpoint_of(run: Run, which: Run) -> str:
    """The value of `run=` that names the last or the best checkpoint of `run`, or the checkpoint file `which`."""
    if which == LAST:
        return os.fspath(run)
    return os.path.join(run, BEST) if which == BEST else os.fspath(which)


@dataclass(frozen=True)
class Result:
    """A run of training.

    Attributes:
        folder: The run folder (docs/run_folder.md).
        allow: Modules, files, folders and plugins that the overrides have named. `load` needs them as `allow`.
    """

    folder: Path
    allow: Sequence[str] = ()

    @cached_property
    def figures(self) -> dict[str, Any]:
        """result.json: `finished`, `frames`, `frames_per_second`, and by task the last episodes."""
        return _read_object(self.folder / "result.json")

    @cached_property
    def agent(self) -> Agent:
        """The agent of the last checkpoint."""
        use_own_packages("Result.agent")
        from mimpala.agent import load_agent

        return load_agent(self.folder, LAST, allow=self.allow)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation.

    Attributes:
        path: The file of the result.
    """

    path: Path

    @cached_property
    def figures(self) -> dict[str, Any]:
        """evaluation.json: `tasks` and `aggregate` with mean, success and their intervals, `scores`, `provenance`, and perhaps `probes`
        and `noise`."""
        return _read_object(self.path)

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """By task: `episodes`, `mean`, `interval`, `success`, `success_interval`, `returns` and more."""
        tasks: dict[str, dict[str, Any]] = self.figures["tasks"]
        return tasks


def read_metrics(run: Run) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, one for each log step, from old to new. Unreadable lines are left out.

    Raises InputError if the run has none.
    """
    use_own_packages("mimpala.read_metrics", ["system"])
    from system.errors import InputError
    from system.files import parse_json, read_lines

    rows = []
    try:
        for line in read_lines(Path(run, "metrics.jsonl")):
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    except OSError as error:
        raise InputError(f"run={run} has no metrics.jsonl ({error.strerror}): give the folder of a run.") from error
    return rows


def _read_object(path: Path) -> dict[str, Any]:
    use_own_packages("mimpala", ["system"])
    from system.errors import InputError
    from system.files import read_json

    content = read_json(path)
    if content is None:
        raise InputError(f"{path} is missing or damaged: train or evaluate again.")
    return content
