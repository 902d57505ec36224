"""Tags of metrics in a tracker, `<group>/<name>` or `<group>/<name>/<task>`, made from the keys of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

GROUPS = ("return", "success", "score", "evaluation", "optimisation", "policy", "diagnostics", "speed", "faults")
"""The groups in the order in which trackers show them."""

MEAN = "mean"
"""Stands for a task's name in a tag of the mean over tasks."""

_NAMES = {
    "loss/entropy": "policy/entropy",
    "loss/clipped": "policy/surrogate_clipped",
    "loss/gradient_norm": "optimisation/gradient_norm",
    "loss/learning_rate": "optimisation/learning_rate",
}
_OF_TASKS = {
    **{figure: figure for figure in ("return", "success", "score")},
    **{figure: f"speed/{figure}" for figure in ("length", "episodes", "frames", "updates")},
    **{figure: f"faults/{figure}" for figure in ("interrupted", "surges", "restarts")},
    **{figure: f"optimisation/{figure}" for figure in ("popart_mu", "popart_sigma")},
}
"""Figure of a task -> what stands before the task's name in its tag."""
_STARTS = (
    ("score/", "score/"),
    ("evaluation/", "evaluation/"),
    ("loss/", "optimisation/loss_"),
    ("gradient_norm/", "optimisation/gradient_norm_"),
    ("value/", "optimisation/value_"),
    ("policy/", "policy/"),
    ("diagnostics/", "diagnostics/"),
    ("policy_lag", "policy/policy_lag"),
    ("replay_", "policy/replay_"),
    ("time/", "speed/time_"),
    ("memory/", "speed/memory_"),
    ("frames_per_second", "speed/frames_per_second"),
    *((counter, f"speed/{counter}") for counter in ("seconds", "steps", "updates")),
    ("restarts/", "faults/restarts_by_"),
)
"""Start of a key -> what replaces it, for all keys that are not figures of a task. The first match counts."""
_COUNTS_OF_FAULTS = ("updates_refused", "saves_failed")


def tags(row: Mapping[str, float]) -> dict[str, float]:
    """The values of a row of metrics.jsonl by their tags, in the order of GROUPS. `frames` is left out, because it is the step."""
    named = {_tag(key): value for key, value in row.items() if key != "frames"}
    return {tag: named[tag] for tag in in_order(named)}


def in_order(tags: Iterable[str]) -> list[str]:
    """The tags in the order of GROUPS."""
    return sorted(tags, key=lambda tag: GROUPS.index(tag.partition("/")[0]))


def _tag(key: str) -> str:
    """The tag of a key. A task's name may hold slashes."""
    if key in _NAMES:
        return _NAMES[key]
    start, _, rest = key.partition("/")
    if start == MEAN:
        return f"{_OF_TASKS[rest]}/{MEAN}"
    if start == "tasks":
        task, _, figure = rest.rpartition("/")
        return f"{_OF_TASKS[figure]}/{task}"
    if key not in _COUNTS_OF_FAULTS:
        for prefix, replacement in _STARTS:
            if key.startswith(prefix):
                return replacement + key.removeprefix(prefix)
    return f"faults/{key}"
