"""Checkpoints: tensors and plain data, written atomically with a checksum, read without executing anything.

A file `checkpoint-<updates>.pt` holds everything that is needed to resume a run or to evaluate it elsewhere. This is the learner, counters,
positions of the random streams, statistics, configuration, and the spec of the environments (tasks in order, vocabulary, spaces).
`<updates>` is the number of the checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents.storage.checkpoint_schema import BEST_FORM, FORM, KEPT_FORM
from agents.storage.exported import WEIGHTS
from agents.storage.tensor_file import crafted_error, read_tensors, write_tensors
from agents.storage.torch_zip import DamagedCheckpointError
from envs.spec import ArraySpec, EnvSpec, Score
from system.errors import InputError
from system.plain_data import PlainDataError, check_form

FORMAT = "mimpala-checkpoint"
SCHEMA = 3
"""Version of the format. 3 has a checksum; 2 is the same without one, and still readable."""
_WITHOUT_CHECKSUM = 2

CHECKPOINTS, BEST = "checkpoints", "best"
"""The folder of a run's checkpoints, and the name of the best checkpoint: `run=<folder>/best`."""

_NAME = re.compile(r"checkpoint-(\d{12})\.pt")
_TUPLES = ("tasks", "vocabulary", "action_counts", "symbol_counts", "action_sizes", "action_low", "action_high")
"""Fields of EnvSpec that are tuples."""
# Earlier versions wrote no faults and no state of a runtime.
_REQUIRED_KEYS = {"config", *FORM} - {"faults", "runtime"}


class Intact(NamedTuple):
    """The newest intact checkpoint, and the newer ones that are damaged, newest first."""

    path: Path
    content: dict[str, Any]
    damaged: list[DamagedCheckpointError]


def save_checkpoint(folder: Path, updates: int, content: dict[str, Any]) -> Path:
    """Writes checkpoint number `updates` atomically and returns its path. Raises OSError if the disk refuses; earlier ones stay."""
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, updates)
    write_tensors(path, {"format": FORMAT, "schema": SCHEMA, **content})
    return path


def remove_checkpoints(folder: Path, keep: int, also: Collection[int] = ()) -> None:
    """Removes all but the `keep` newest checkpoints and those with the numbers `also`, and the temporary files of killed saves.

    A symbolic link is removed, not its target. Raises OSError if the disk refuses.
    """
    kept = {checkpoint_path(folder, updates) for updates in also}
    old = [path for path in list_checkpoints(folder)[:-keep] if path not in kept]
    for path in (*old, *folder.glob(".checkpoint-*.pt.tmp")):
        path.unlink(missing_ok=True)


def make_room(folder: Path, also: Collection[int]) -> Path | None:
    """Removes the oldest checkpoint that may go, and returns its path; None if none may go. Raises OSError if the disk refuses.

    The newest intact checkpoint and those with the numbers `also` stay.
    """
    kept = {checkpoint_path(folder, updates) for updates in also}
    found = list_checkpoints(folder)
    if len(found) < 2:
        return None
    # If none is intact, none is worth keeping: no run could resume from it.
    with contextlib.suppress(InputError):
        kept.add(newest_intact(found).path)
    oldest = next((path for path in found if path not in kept), None)
    if oldest is not None:
        oldest.unlink()
    return oldest


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a folder, oldest first."""
    found = [(int(match.group(1)), path) for path in folder.glob("*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_intact(found: Sequence[Path], warn: Callable[[str], object] = lambda sentence: None) -> Intact:
    """The newest intact checkpoint of `found`, whose order is from old to new. Warns of damaged ones after it.

    Raises InputError if all are damaged, or if the newest intact one cannot be used for another reason.
    """
    damaged: list[DamagedCheckpointError] = []
    for path in reversed(found):
        try:
            if path.is_symlink() or not path.is_file():
                raise DamagedCheckpointError(path, "is no ordinary file")
            content = load_checkpoint(path)
        except DamagedCheckpointError as error:
            damaged.append(error)
        else:
            if damaged:
                warn(f"checkpoint {_listed(damaged)}: {path} is used instead.")
            return Intact(path, content, damaged)
    raise InputError(f"no checkpoint is intact ({_listed(damaged)}): put back a copy, or start another run.")


def find_checkpoint(run: Path, warn: Callable[[str], object], *, key: str = "run") -> Path:
    """The checkpoint that `run` names: a file, a run folder (its newest intact checkpoint), or `<run folder>/best`; or the weights of an
    exported agent, which `run` names as their folder.

    Warns of damaged checkpoints that were skipped. Raises InputError, with `key` as the name of the argument, if there is no checkpoint.
    """
    if run.is_file():
        return run
    wants_best = run.name == BEST and not run.exists()
    folder = run.parent if wants_best else run
    if not folder.exists():
        raise InputError(f"{key}={run} does not exist: give a run folder or a checkpoint file.")
    # `run` may also be a folder that holds checkpoints itself.
    found = list_checkpoints(folder / CHECKPOINTS) or list_checkpoints(folder)
    if not found and (folder / WEIGHTS).exists():
        return folder / WEIGHTS
    if not found:
        raise InputError(f"{key}={run} holds no checkpoint: give the folder of a run that has saved one.")
    newest = newest_intact(found, warn)
    if not wants_best:
        return newest.path
    number = kept_checkpoints(newest.content)["best"].get("updates", -1)
    path = checkpoint_path(newest.path.parent, number)
    if not path.is_file():
        raise InputError(
            f"{key}={run} is not there: the run has no best checkpoint until every task has ended an episode."
        )
    return path


def kept_checkpoints(content: dict[str, Any]) -> dict[str, Any]:
    """The section `kept` of a checkpoint: which checkpoints stay besides the newest (agents/run/checkpoint_saver.py).

    Its parts are `best`, empty or with the number of the best checkpoint in `updates`; `milestones`, their numbers; and `frames`, those of
    this checkpoint. Raises InputError if the section has another form.
    """
    # Schema 2 has no such section.
    kept: dict[str, Any] = content.get("kept", {"best": {}, "milestones": [], "frames": 0})
    try:
        check_form(kept, KEPT_FORM)
        if kept["best"]:
            check_form(kept["best"], BEST_FORM)
    except PlainDataError as error:
        raise InputError(
            f"the checkpoint's section kept is not readable (it holds {error}): use an earlier one."
        ) from error
    return kept


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint. Only tensors and plain data are accepted, so nothing in the file can run code.

    InputError as `read_tensors`, and if the file is not a checkpoint or has another schema.
    """
    content, has_checksum = read_tensors(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"checkpoint {path} was not written by mimpala: give a run folder or a checkpoint file of it.")
    schema = content.get("schema")
    if type(schema) is not int or schema not in (_WITHOUT_CHECKSUM, SCHEMA):
        raise InputError(
            f"checkpoint {path} has schema {schema} and this version reads schemas {_WITHOUT_CHECKSUM} and {SCHEMA}: "
            "use the version of mimpala that wrote it."
        )
    if not has_checksum and schema != _WITHOUT_CHECKSUM:
        raise DamagedCheckpointError(path, "is truncated or damaged (its checksum is not there)")
    missing = _REQUIRED_KEYS - content.keys()
    if missing:
        raise InputError(f"checkpoint {path} lacks {', '.join(sorted(missing))}: use an earlier one.")
    try:
        # Missing keys are accepted; their users report them.
        check_form(content, FORM, complete=False)
    except PlainDataError as error:
        raise crafted_error(path, error) from error
    return content


def env_to_dict(env: EnvSpec) -> dict[str, Any]:
    """An EnvSpec as plain data."""
    observation, scores, rates = dict(env.observation), dict(env.scores), dict(env.frame_rates)
    return dataclasses.asdict(dataclasses.replace(env, observation=observation, scores=scores, frame_rates=rates))


def env_from_dict(data: dict[str, Any]) -> EnvSpec:
    """The inverse of `env_to_dict`. Raises InputError if the data does not describe environments."""

    def damaged(reason: object) -> InputError:
        return InputError(
            f"the checkpoint's description of its environments is damaged ({reason}): use an earlier one."
        )

    try:
        arrays, scores = data["observation"].items(), data["scores"].items()
        tuples = {key: tuple(data[key]) for key in _TUPLES}
        observation = {key: ArraySpec(shape=tuple(array["shape"]), dtype=array["dtype"]) for key, array in arrays}
        nested = {"observation": observation, "scores": {task: Score(**score) for task, score in scores}}
        env = EnvSpec(**(data | tuples | nested))
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(error) from error
    tasks, counts = env.tasks, env.action_counts
    if not tasks or len(set(tasks)) < len(tasks) or len(counts) != len(tasks):
        raise damaged("its tasks")
    if not all(1 <= count <= env.num_actions for count in counts):
        raise damaged("its actions")
    return env


def _listed(damaged: Sequence[DamagedCheckpointError]) -> str:
    return ", ".join(f"{error.path} {error.reason}" for error in damaged)


def checkpoint_path(folder: Path, updates: int) -> Path:
    """The path of checkpoint number `updates`."""
    return folder / f"checkpoint-{updates:012d}.pt"
