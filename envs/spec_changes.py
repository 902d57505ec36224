"""Describes the differences between the environments that an agent was trained on and the installed ones."""

from __future__ import annotations

from collections.abc import Mapping

from envs.spec import ArraySpec, EnvSpec

MOST_CHANGES = 3
"""Maximum number of changes that a sentence names."""

_VALUES = ("image_kind", "symbol_counts", "instruction_length", "action_repeat")


def task_changes(before: EnvSpec, now: EnvSpec) -> list[str]:
    """A description of the tasks that differ, or []."""
    if before.tasks == now.tasks:
        return []
    if sorted(before.tasks) == sorted(now.tasks):
        number, (old, new) = next(
            (number, pair)
            for number, pair in enumerate(zip(before.tasks, now.tasks, strict=True))
            if pair[0] != pair[1]
        )
        return [f"task {number} was {old} and is {new}, in another order"]
    gone = [task for task in before.tasks if task not in now.tasks]
    added = [task for task in now.tasks if task not in before.tasks]
    parts = [f"{word} {_few(tasks)}" for word, tasks in (("without", gone), ("with", added)) if tasks]
    return [f"there were {len(before.tasks)} tasks and are {len(now.tasks)}, {' and '.join(parts)}"]


def _few(names: list[str]) -> str:
    return ", ".join(names[:MOST_CHANGES]) + (" ..." if len(names) > MOST_CHANGES else "")


def interface_changes(before: EnvSpec, now: EnvSpec) -> list[str]:
    """The differences of observations and actions, each with its old and new shape or value; tasks are ignored."""
    changes = []
    for name in sorted(before.observation.keys() | now.observation.keys()):
        old, new = (_array(spec.observation, name) for spec in (before, now))
        if old != new:
            changes.append(f"observation {name} was {old} and is {new}")
    for name in _VALUES:
        old, new = (_value(getattr(spec, name)) for spec in (before, now))
        if old != new:
            changes.append(f"{name} was {old} and is {new}")
    if before.vocabulary != now.vocabulary:
        changes.append(_words(before.vocabulary, now.vocabulary))
    old, new = _actions(before), _actions(now)
    if old != new:
        changes.append(f"actions were {old} and are {new}")
    return changes


def _array(arrays: Mapping[str, ArraySpec], name: str) -> str:
    found = arrays.get(name)
    return f"{found.dtype} {list(found.shape)}" if found else "not there"


def _value(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _words(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    if len(before) != len(now):
        return f"the vocabulary had {len(before)} words and has {len(now)}"
    number = next(number for number, (old, new) in enumerate(zip(before, now, strict=True)) if old != new)
    return f"word {number} of the vocabulary was {before[number]} and is {now[number]}"


def _actions(spec: EnvSpec) -> str:
    """Kind and number of actions, with the bounds of continuous ones."""
    if spec.action_kind == "multi_discrete":
        return f"multi-discrete {list(spec.action_sizes)}"
    if spec.action_kind == "continuous":
        return f"continuous, from {list(spec.action_low)} to {list(spec.action_high)}"
    return f"{spec.num_actions} discrete ones"


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
