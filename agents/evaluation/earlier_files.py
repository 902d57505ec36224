"""Keeps earlier evaluations: files of an evaluation with other settings are renamed after those settings before they are replaced."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from system.errors import InputError
from system.files import open_ordinary, read_json, write_json

Settings = Mapping[str, Any]

_MOST = 2**63
_MOST_HASHED_BYTES = 2**20


def settings_of(content: Any) -> dict[str, Any] | None:
    """The settings of the content of an evaluation.json, also of an earlier version; None if it is no evaluation."""
    try:
        played, tasks = content["provenance"], content["tasks"]
        found = {key: played.get(key) for key in ("sha256", "engine", "slots")}
        episodes = played.get("episodes", max(row["episodes"] for row in tasks.values()))
        found |= {"episodes": episodes, "seed": played["seed"], "greedy": played["greedy"]}
        found |= {
            "tasks": list(tasks),
            "probes": list(content.get("probes", {})),
            "contexts": played.get("contexts", "both"),
        }
        found |= {"noise": list(content["noise"])} if "noise" in content else {}
        sound = _is_count(episodes) and _is_count(played["seed"]) and type(played["greedy"]) is bool
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found if sound else None


def label(settings: Settings) -> str:
    """The settings as a part of a file name: `episodes200-seed0-greedy`."""
    parts = [f"{key}{settings[key]}" for key in ("episodes", "seed") if key in settings]
    return "-".join([*parts, *(["greedy" if settings["greedy"] else "sampled"] if "greedy" in settings else [])])


def keep_earlier(path: Path, content: Mapping[str, Any]) -> Path | None:
    """Renames the evaluation at `path` unless it has the same settings as `content`, which is about to be written there.

    A kept evaluation with the same settings is replaced. Returns the new path; None if nothing was renamed.
    """
    if not os.path.lexists(path) or (path.is_file() and path.stat().st_size == 0):
        return None
    settings = settings_of(read_json(path))
    if settings is not None and settings == settings_of(content):
        return None
    names = [label(settings), _unique_label(settings)] if settings else [f"unreadable-{_digest(_first_bytes(path))}"]
    target = _target(path, names, lambda kept: settings is not None and settings == settings_of(read_json(kept)))
    os.replace(path, target)
    return target


def keep_folder(folder: Path, settings: Settings) -> Path | None:
    """Moves the files in `folder` (videos, probes) aside unless they were made with `settings`, and writes `settings` to `<folder>.json`.

    Returns the folder they were moved to; None if nothing was moved. Raises InputError if the disk refuses.
    """
    note = folder.with_name(f"{folder.name}.json")
    earlier, target = read_json(note) or {}, None
    try:
        if earlier != settings and folder.is_dir() and any(folder.iterdir()):
            # Settings that cannot be trusted do not name a folder.
            known = {key: value for key, value in earlier.items() if type(value) in (int, bool, str)}
            numbers = [known[key] for key in ("episodes", "seed") if key in known]
            is_safe = bool(known) and all(map(_is_count, numbers))
            names = [_unique_label(known) if is_safe else "earlier"]
            target = _target(folder, names, lambda kept: is_safe and kept.is_dir() and not kept.is_symlink())
            target.mkdir(exist_ok=True)
            for path in folder.iterdir():
                os.replace(path, target / path.name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, dict(settings))
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): make room, or move it away.") from error
    return target


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _target(path: Path, names: Sequence[str], is_usable: Callable[[Path], bool]) -> Path:
    """The first path `<stem>-<name><suffix>` that is not there or usable; the last of `names` also with a number."""
    numbered = (f"{names[-1]}-{number}" for number in itertools.count(2))
    targets = (path.with_name(f"{path.stem}-{name}{path.suffix}") for name in itertools.chain(names, numbered))
    return next(target for target in targets if not os.path.lexists(target) or is_usable(target))


def _unique_label(settings: Settings) -> str:
    return f"{label(settings)}-{_digest(json.dumps(settings, sort_keys=True).encode())}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a file of any size, for a digest; empty if it cannot be read."""
    try:
        with open(open_ordinary(path), "rb") as file:
            return file.read(_MOST_HASHED_BYTES)
    except OSError:
        return b""
