"""The content of a run folder: its files, and the configuration with which a run is resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from agents.cli.terminal import warn
from agents.learning.nonfinite import NonFiniteError, for_json
from agents.run.layout import (
    CONFIG,
    DIAGNOSIS,
    PROVENANCE,
    RESULT,
    THRESHOLDS,
    VOCABULARY,
    check_free,
    may_change,
)
from agents.run.metrics import Statistics
from agents.run.provenance import provenance
from agents.setup.plugins import load_saved_plugins
from agents.storage.checkpoint import CHECKPOINTS, env_from_dict, list_checkpoints, newest_intact
from conf.allowlist import check_external_names, external_names
from conf.command_line import format_argument
from conf.composition import flatten
from conf.loading import load_train, save_train, to_dict, train_from_dict
from conf.schema import FORMER_VALUES, MAY_CHANGE_ON_RESUME, TrainConfig
from envs.scores import normalising_scores
from envs.spec import EnvSpec
from system.errors import InputError
from system.files import read_json, write_json
from system.nested import leaf_at
from system.plain_yaml import read_yaml
from system.words import count


def resumed_config(
    config: TrainConfig,
    given: dict[str, Any],
    explicit: Collection[str] = (),
    say: Callable[[str], object] = warn,
) -> TrainConfig:
    """The configuration of the run in `config.run`, with the keys of `given` that may change on resume.

    A run of an earlier version keeps the values that presets had in that version (conf.schema.FORMER_VALUES).

    Args:
        config: The configuration of the command line.
        given: Dotted keys that the command line sets (conf.loading.changed_keys).
        explicit: Keys that the command line names itself (conf.loading.explicit_keys); a preset sets the others.
        say: Receives a sentence for each value that the run keeps.

    Raises InputError, with both values of each key, if `given` describes another experiment.
    """
    folder = Path(config.run)
    load_saved_plugins(read_yaml(folder / CONFIG), config.allow, str(folder / CONFIG))
    saved = load_train(folder / CONFIG)
    tree, wanted = to_dict(saved), flatten(to_dict(config))
    known = flatten(tree)
    different = {key: wanted[key] for key in given if not may_change(key) and known.get(key) != wanted.get(key)}
    kept = {
        key: known[key]
        for key, value in different.items()
        if key not in explicit and key in FORMER_VALUES and FORMER_VALUES[key].get(value) == known.get(key)
    }
    for key, value in kept.items():
        say(f"resume=true keeps {key}={value} of this run: new runs have {different.pop(key)}.")
    if different:
        listed = [f"{key}={value} (the run has {known.get(key)})" for key, value in different.items()]
        if len(listed) == 1:
            raise InputError(f"resume=true cannot change {listed[0]}: leave this key out, or start another run.")
        raise InputError(f"resume=true cannot change {len(listed)} keys: leave them out, or start another run.", listed)
    for key in given:
        if key in MAY_CHANGE_ON_RESUME:
            *path, leaf = key.split(".")
            leaf_at(tree, tuple(path))[leaf] = wanted[key]
    if any(key.startswith(THRESHOLDS) for key in given):
        tree["stop_at"] = config.stop_at
    tree["run"], tree["resume"], tree["allow"] = config.run, True, config.allow
    check_external_names(saved.env, [*config.allow, *external_names(config.env)], str(folder / CONFIG))
    table = saved.context.table
    if table not in ("", config.context.table, *config.allow) and not list_checkpoints(folder / CHECKPOINTS):
        raise InputError(
            f"{folder / CONFIG}: context.table names {table}, which would be read, because the run has no checkpoint yet: if you know it, "
            f"add {format_argument('allow', [table])} to the command, else do not use this run."
        )
    return train_from_dict(tree, str(folder / CONFIG))


def is_finished(config: TrainConfig) -> bool:
    """Whether the run in `config.run` is finished, so that resuming it with `config` would play no frame.

    A run whose result or newest checkpoint is missing or damaged is not finished: a resume writes its result again.
    Raises InputError if `total_frames` was lowered below the frames played, or if no checkpoint is intact.
    """
    folder = Path(config.run)
    found = list_checkpoints(folder / CHECKPOINTS)
    if not found:
        return False
    content = newest_intact(found).content
    env = env_from_dict(content["env"])
    statistics = Statistics(env.tasks, normalising_scores(env))
    try:
        counters = content["learner"]["counters"]
        frames, updates = int(counters["steps"]) * env.action_repeat, int(counters["updates"])
        statistics.load_state_dict(content["statistics"])
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError):
        # `restore` raises the InputError with the reason.
        return False
    if config.total_frames < frames and config.total_frames != load_train(folder / CONFIG).total_frames:
        raise InputError(
            f"total_frames={config.total_frames} is less than the {count(frames, 'frame')} that run={folder} has played: give more."
        )
    written = read_json(folder / RESULT) or {}
    if not written.get("finished") or written.get("updates") != updates:
        return False
    return frames >= config.total_frames or statistics.reaches(thresholds(config))


def thresholds(config: TrainConfig) -> dict[str, float]:
    """Least means over tasks at which the run ends early, by measure; `stop_at_success` is an alias."""
    alias = {"success": config.stop_at_success} if config.stop_at_success else {}
    return alias | dict(config.stop_at or {})


def create_run_folder(config: TrainConfig, env: EnvSpec) -> Path:
    """Creates the folder and writes the files that are known at the start: config, provenance and vocabulary.

    Raises InputError if the folder holds a run and `resume` is off, or if it cannot be written.
    """
    folder = Path(config.run)
    check_free(folder, resume=config.resume)
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        # The config is written last, because it marks the folder as a run.
        write_json(folder / PROVENANCE, provenance())
        write_json(folder / VOCABULARY, {"tasks": list(env.tasks), "words": list(env.vocabulary)})
        save_train(config, folder / CONFIG)
    except OSError as error:
        raise InputError(f"run={folder} cannot be written ({error.strerror}): give another run=.") from error
    return folder


def load_newest_checkpoint(folder: Path, say: Callable[[str], object]) -> dict[str, Any] | None:
    """Content of the newest intact checkpoint, or None if the run has no checkpoint. Warns of damaged ones after it.

    They are renamed to `<name>.damaged`, so that they are kept but not read as checkpoints. Raises InputError if all are damaged.
    """
    found = list_checkpoints(folder / CHECKPOINTS)
    if not found:
        return None
    newest = newest_intact(found, say)
    for error in newest.damaged:
        # If renaming fails, the folder is not writable, which `create_run_folder` reports.
        with contextlib.suppress(OSError):
            error.path.rename(error.path.with_name(error.path.name + ".damaged"))
    return newest.content


def write_diagnosis(folder: Path, error: NonFiniteError, config: TrainConfig, env: EnvSpec) -> Path:
    """Writes diagnosis.json: the values that were not finite, the tasks and the relevant options. Replaces an earlier diagnosis."""
    path = folder / DIAGNOSIS
    options = {"learner": to_dict(config.learner), "precision": config.precision, "core": config.core.name}
    write_json(path, for_json({"error": str(error), "tasks": list(env.tasks), **error.diagnosis, "options": options}))
    return path
