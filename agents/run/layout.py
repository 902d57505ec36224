"""The folder of a run: its default name, the names of its files, and whether it holds a run.

Imports nothing slow, because train.py asks before it imports torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from conf.composition import flatten
from conf.loading import changed_keys, explicit_keys, to_dict
from conf.schema import MAY_CHANGE_ON_RESUME, TrainConfig
from system.errors import InputError
from system.plain_yaml import read_yaml

AGENT, CONFIG, DIAGNOSIS, INIT = "agent.json", "config.yaml", "diagnosis.json", "init.json"
RESULT, PROVENANCE, VOCABULARY = "result.json", "provenance.json", "vocabulary.json"


THRESHOLDS = "stop_at."
"""Start of the dotted keys of thresholds."""

_LONGEST = 120
"""Bytes in the default name of a run."""

_IN_EVERY_NAME = ("env", "fusion", "context", "seed")


def default_run(config: TrainConfig, overrides: Sequence[str]) -> str:
    """Default name of the run folder: suite, fusion, context, the experiment and other keys of the command line, and seed.

    It does not depend on the time or the order of the keys, so that a repeated run is noticed. Keys that may change on resume are left
    out. The middle of a long name becomes a hash of the whole. With `resume=true` it is the name without other keys, which earlier
    versions gave, if only that folder holds a run and its settings are the given ones.

    Args:
        config: Composed from `overrides`.
    """
    given = {
        key: value for key, value in explicit_keys(overrides).items() if key.removesuffix(".name") not in _IN_EVERY_NAME
    }
    parts = [config.env.name, config.fusion.name, config.context.name]
    former = f"runs/{'-'.join(parts)}-seed{config.seed}"
    parts += [str(given.pop("experiment"))] if "experiment" in given else []
    values = flatten(to_dict(config))
    for key, value in sorted(given.items()):
        name = f"{key}.name" if f"{key}.name" in values else key
        if not (may_change(key) or may_change(name)):
            parts.append(f"{key.removeprefix('env.')}={_text(values.get(name, value))}")
    name = file_name("-".join([*parts, f"seed{config.seed}"]))
    if len(whole := name.encode()) > _LONGEST:
        middle = f"~{hashlib.sha256(whole).hexdigest()[:8]}~"
        end = _LONGEST // 3
        parts = [part.decode(errors="ignore") for part in (whole[: _LONGEST - len(middle) - end], whole[-end:])]
        name = middle.join(parts)
    run = f"runs/{name}"
    if config.resume and not holds_run(Path(run)) and _has_settings(Path(former), overrides):
        return former
    return run


def may_change(key: str) -> bool:
    """Whether `resume=true` accepts another value of a dotted key."""
    return key in MAY_CHANGE_ON_RESUME or key.startswith(THRESHOLDS)


def _has_settings(folder: Path, overrides: Sequence[str]) -> bool:
    """Whether the folder holds a run that `overrides` describe."""
    if not holds_run(folder):
        return False
    try:
        saved = flatten(read_yaml(folder / CONFIG))
    except InputError:
        return False
    return all(saved.get(key) == value for key, value in changed_keys(overrides).items() if not may_change(key))


def file_name(text: str) -> str:
    """The text without brackets and quotes; other characters with a meaning in a shell become commas."""
    return re.sub(r"[^\w.=+,-]", ",", re.sub(r"[\[\]{}'\"]", "", text))


def _text(value: object) -> str:
    """A value as on the command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def holds_run(folder: Path) -> bool:
    """Whether the folder holds a run."""
    return (folder / CONFIG).exists()


def check_free(folder: Path, *, resume: bool) -> None:
    """Raises InputError if the folder holds a run and `resume` is off."""
    if holds_run(folder) and not resume:
        raise InputError(f"run={folder} already holds a run: add resume=true to continue it, or give another run=.")
