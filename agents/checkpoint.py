"""Checkpoints: tensors and plain data, written whole or not at all, read without running anything.

A file `checkpoint-<updates>.pt` holds everything to go on with a run or to evaluate it elsewhere: learner, counters, positions of
the random streams, statistics, the configuration, and what the environments were (tasks in order, vocabulary, spaces).
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from agents.archive import check_archive
from agents.checkpoint_content import check_content
from agents.plain_data import PlainDataError, plain_copy
from envs.errors import InputError
from envs.spec import ArraySpec, EnvSpec, Score

FORMAT = "mimpala-checkpoint"
SCHEMA = 2
"""2: grids without pooling, and fusions that store W times their reach; weights of schema 1 would mean something else."""

_NAME = re.compile(r"checkpoint-(\d{12})\.pt")
_KEYS = {"format", "schema", "config", "env", "learner", "positions", "statistics", "rng", "seconds", "versions"}


def save_checkpoint(folder: Path, updates: int, content: dict[str, Any], keep: int) -> Path:
    """Writes checkpoint number `updates` and removes all but the newest `keep`.

    The file appears under its name only when all of it is on the disk.

    Raises:
        OSError: the disk refuses; earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"checkpoint-{updates:012d}.pt"
    temporary = folder / f".{path.name}.tmp"
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, "schema": SCHEMA, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_directory(folder)
    # What a kill in the middle of an earlier save has left goes, too.
    for old in (*list_checkpoints(folder)[:-keep], *folder.glob(".checkpoint-*.pt.tmp")):
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a folder, oldest first."""
    found = [(int(match.group(1)), path) for path in folder.glob("*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def find_checkpoint(run: Path) -> Path:
    """The checkpoint meant by a run folder (its newest) or by a file (itself).

    Raises:
        InputError: there is none.
    """
    if run.is_file():
        return run
    if not run.exists():
        raise InputError(f"run={run} does not exist: give a run folder or a checkpoint file.")
    found = list_checkpoints(run / "checkpoints") or list_checkpoints(run)
    if not found:
        raise InputError(f"run={run} holds no checkpoint: give the folder of a run that has saved one.")
    return found[-1]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint. Nothing in the file can run code: only tensors and plain data are accepted.

    Raises:
        InputError: the file is missing, truncated, not a checkpoint, or of another schema.
    """
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist: give a run folder or a checkpoint file.")
    check_archive(path)
    try:
        content = plain_copy(torch.load(path, map_location="cpu", weights_only=True), tensors=True)
    except PlainDataError as error:
        raise _crafted(path, error) from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} holds more than tensors and plain data and was not loaded: do not trust it."
        ) from error
    except Exception as error:
        # torch reports a damaged archive in many ways; none of them is the program's fault.
        raise InputError(f"checkpoint {path} is damaged ({type(error).__name__}): use an earlier one.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"checkpoint {path} was not written by mimpala: give a run folder or a checkpoint file of it.")
    if type(content.get("schema")) is not int or content["schema"] != SCHEMA:
        raise InputError(
            f"checkpoint {path} has schema {content.get('schema')} and this version reads schema {SCHEMA}: "
            "use the version of mimpala that wrote it."
        )
    missing = _KEYS - content.keys()
    if missing:
        raise InputError(f"checkpoint {path} lacks {', '.join(sorted(missing))}: use an earlier one.")
    try:
        check_content(content)
    except PlainDataError as error:
        raise _crafted(path, error) from error
    return content


def _crafted(path: Path, error: PlainDataError) -> InputError:
    return InputError(f"checkpoint {path} is damaged or crafted (it holds {error}): use an earlier one.")


def env_to_dict(env: EnvSpec) -> dict[str, Any]:
    """An EnvSpec as plain data."""
    return dataclasses.asdict(dataclasses.replace(env, observation=dict(env.observation), scores=dict(env.scores)))


def env_from_dict(data: dict[str, Any]) -> EnvSpec:
    """The inverse of `env_to_dict`; InputError when the data is not such a description."""
    try:
        env = EnvSpec(
            **{
                **data,
                "tasks": tuple(data["tasks"]),
                "vocabulary": tuple(data["vocabulary"]),
                "action_counts": tuple(data["action_counts"]),
                **{key: tuple(data[key]) for key in ("symbol_counts", "action_sizes", "action_low", "action_high")},
                "observation": {
                    key: ArraySpec(shape=tuple(array["shape"]), dtype=array["dtype"])
                    for key, array in data["observation"].items()
                },
                "scores": {task: Score(**score) for task, score in data["scores"].items()},
            }
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint's description of its environments is damaged ({error}): use an earlier one."
        ) from error
    tasks, counts = env.tasks, env.action_counts
    if not tasks or len(set(tasks)) < len(tasks) or len(counts) != len(tasks):
        raise InputError("the checkpoint's description of its environments is damaged (its tasks): use an earlier one.")
    if not all(1 <= count <= env.num_actions for count in counts):
        raise InputError(
            "the checkpoint's description of its environments is damaged (its actions): use an earlier one."
        )
    return env


def _sync_directory(folder: Path) -> None:
    """Makes the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
