"""Earlier evaluations are kept: what is written goes under its usual name, and what is there with other settings is renamed after these."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.errors import InputError
from system.files import open_ordinary, read_json, write_json

Settings = Mapping[str, Any]

_MOST = 2**63
_MOST_TOLD_APART = 2**20


def settings_of(content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The settings of an evaluation.json, earlier ones included; None where it is none."""
    try:
        assert content is not None
        played, tasks = content["provenance"], content["tasks"]
        found = {key: played.get(key) for key in ("sha256", "engine", "slots")}
        episodes = played.get("episodes", max(row["episodes"] for row in tasks.values()))
        found |= {"episodes": episodes, "seed": played["seed"], "greedy": played["greedy"]}
        found |= {"tasks": list(tasks), "probes": list(content.get("probes", {}))}
        numbers = (found["episodes"], found["seed"])
        sound = all(type(number) is int and 0 <= number < _MOST for number in numbers) and type(found["greedy"]) is bool
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return found if sound else None


def label(settings: Settings) -> str:
    """For a file name: `episodes200-seed0-greedy`."""
    parts = [f"{key}{settings[key]}" for key in ("episodes", "seed") if key in settings]
    return "-".join([*parts, *(["greedy" if settings["greedy"] else "sampled"] if "greedy" in settings else [])])


def keep_earlier(path: Path, content: Mapping[str, Any]) -> Path | None:
    """Renames the evaluation at `path` unless it has the settings of `content`, which is about to be written there.

    Returns:
        Its new name; None where nothing was kept. One with the same settings that was kept before is replaced.
    """
    if not os.path.lexists(path) or (path.is_file() and path.stat().st_size == 0):
        return None
    settings = settings_of(read_json(path))
    if settings is not None and settings == settings_of(content):
        return None
    digest = _digest(json.dumps(settings, sort_keys=True).encode() if settings else _bytes(path))
    if settings:
        names = [label(settings), f"{label(settings)}-{digest}"]
    else:
        names = [f"unreadable-{digest}"]
    for name in (*names, *(f"{names[-1]}-{number}" for number in range(2, 10_000))):
        target = path.with_name(f"{path.stem}-{name}{path.suffix}")
        if not os.path.lexists(target) or (settings is not None and settings == settings_of(read_json(target))):
            os.replace(path, target)
            return target
    return None


def keep_folder(folder: Path, settings: Settings) -> Path | None:
    """Moves what is in `folder` (videos, probes) aside unless it was made with `settings`, and notes these beside it.

    Returns:
        Where it went; None where nothing had to.

    Raises:
        InputError: the disk refuses.
    """
    try:
        return _keep_folder(folder, settings)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): make room, or move it away.") from error


def _keep_folder(folder: Path, settings: Settings) -> Path | None:
    note = folder.with_name(f"{folder.name}.json")
    earlier, target = read_json(note), None
    if earlier != settings and folder.is_dir() and any(folder.iterdir()):
        known = {key: value for key, value in (earlier or {}).items() if type(value) in (int, bool, str)}
        numbers = [known[key] for key in ("episodes", "seed") if key in known]
        safe = bool(known) and all(type(number) is int and 0 <= number < _MOST for number in numbers)
        name = f"{label(known)}-{_digest(json.dumps(known, sort_keys=True).encode())}" if safe else "earlier"
        target = folder.with_name(f"{folder.name}-{name}")
        number = 1
        while target.is_symlink() or (target.exists() and not (safe and target.is_dir())):
            number += 1
            target = folder.with_name(f"{folder.name}-{name}-{number}")
        target.mkdir(exist_ok=True)
        for path in folder.iterdir():
            os.replace(path, target / path.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, dict(settings))
    return target


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _bytes(path: Path) -> bytes:
    """As many as tell apart what somebody else has left there, which may be of any size."""
    try:
        with open(open_ordinary(path), "rb") as file:
            return file.read(_MOST_TOLD_APART)
    except OSError:
        return b""
