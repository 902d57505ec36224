"""Describes the differences between the environments that an agent was trained on and the installed ones."""

from __future__ import annotations

from collections.abc import Mapping

from envs.spec import EnvSpec
from system.words import count

MOST_CHANGES = 3
"""Maximum number of changes that a sentence names."""

_VALUES = ("image_kind", "symbol_counts", "instruction_length", "action_repeat")


def task_changes(before: EnvSpec, now: EnvSpec) -> list[str]:
    """A description of the tasks that differ, or []."""
    if before.tasks == now.tasks:
        return []
    if sorted(before.tasks) == sorted(now.tasks):
        number = _first_difference(before.tasks, now.tasks)
        return [f"task {number} was {before.tasks[number]} and is {now.tasks[number]}, in another order"]
    gone = [task for task in before.tasks if task not in now.tasks]
    added = [task for task in now.tasks if task not in before.tasks]
    parts = [f"{word} {_few(tasks)}" for word, tasks in (("without", gone), ("with", added)) if tasks]
    return [f"the number of tasks was {len(before.tasks)} and is {len(now.tasks)}, {' and '.join(parts)}"]


def _few(names: list[str]) -> str:
    return ", ".join(names[:MOST_CHANGES]) + (" ..." if len(names) > MOST_CHANGES else "")


def _first_difference(before: tuple[str, ...], now: tuple[str, ...]) -> int:
    return next(number for number, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)


def interface_changes(before: EnvSpec, now: EnvSpec) -> list[str]:
    """The differences of observations and actions, each with its old and new shape or value; tasks are ignored."""
    arrays = sorted(before.observation.keys() | now.observation.keys())
    olds, news = _values(before, arrays), _values(now, arrays)
    changes = [f"{name} was {olds[name]} and is {news[name]}" for name in olds if olds[name] != news[name]]
    if len(before.vocabulary) != len(now.vocabulary):
        changes.append(f"the vocabulary had {count(len(before.vocabulary), 'word')} and has {len(now.vocabulary)}")
    elif before.vocabulary != now.vocabulary:
        number = _first_difference(before.vocabulary, now.vocabulary)
        old, new = before.vocabulary[number], now.vocabulary[number]
        changes.append(f"word {number} of the vocabulary was {old} and is {new}")
    if _actions(before) != _actions(now):
        changes.append(f"actions were {_actions(before)} and are {_actions(now)}")
    return changes


def _values(spec: EnvSpec, arrays: list[str]) -> dict[str, str]:
    """The named arrays of the observation, and _VALUES, as texts."""
    values = {}
    for name in arrays:
        array = spec.observation.get(name)
        values[f"observation {name}"] = f"{array.dtype} {list(array.shape)}" if array else "not there"
    for name in _VALUES:
        value = getattr(spec, name)
        values[name] = str(list(value) if isinstance(value, tuple) else value)
    return values


def _actions(spec: EnvSpec) -> str:
    """Kind and number of actions, with the bounds of continuous ones."""
    if spec.action_kind == "multi_discrete":
        return f"multi-discrete {list(spec.action_sizes)}"
    if spec.action_kind == "continuous":
        return f"continuous, from {list(spec.action_low)} to {list(spec.action_high)}"
    return f"{count(spec.num_actions, 'discrete one')}"


def listed(changes: list[str]) -> str:
    """The first MOST_CHANGES changes as one text."""
    return "; ".join(changes[:MOST_CHANGES]) + ("; and more" if len(changes) > MOST_CHANGES else "")


def other_versions(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In brackets, as `gymnasium 1.0 (now 1.1)`, the packages whose version differs; "" if there are none."""
    differing = [
        f"{name} {version} (now {now.get(name, 'none')})"
        for name, version in before.items()
        if now.get(name) != version
    ]
    return f" ({', '.join(differing)})" if differing else ""
