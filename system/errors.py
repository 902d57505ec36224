"""The one exception for a user's mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LETTERS = 4000


class InputError(ValueError):
    """Bad input from the user: a config value, a checkpoint, a path, an engine that is not installed.

    The message is one sentence that names the key, the value and the fix. Entry points print it without a traceback
    and exit with code 2. Everything else that is raised is a defect of the program and keeps its traceback.

    A message may quote what stands in a file: it is cut to MOST_LETTERS, and what a terminal would obey is written out.

    Args:
        message: the sentence.
        lines: what it is about, a line each below it, where there is too much for one sentence.
    """

    def __init__(self, message: str, lines: Iterable[str] = ()) -> None:
        super().__init__("\n  ".join(_shown(text) for text in (message, *lines)))


def _shown(text: str) -> str:
    shown = text if text.isprintable() else "".join(map(_visible, text))
    return shown if len(shown) <= MOST_LETTERS else f"{shown[:MOST_LETTERS]}..."


def _visible(letter: str) -> str:
    return letter if letter.isprintable() else ascii(letter)[1:-1]


def unknown_name(key: str, value: object, names: object) -> InputError:
    """The error for a name that is not in a table, listing the names that are."""
    listed = ", ".join(str(name) for name in names) if hasattr(names, "__iter__") else str(names)
    return InputError(f"{key}={value} is unknown: choose one of {listed}.")


def unknown_task(task: str, kind: str, suite: str, tasks: Iterable[str], presets: Iterable[str]) -> InputError:
    """The error for a task that a suite does not have: the names that are close to it, or else the presets.

    Args:
        kind: what the suite calls its tasks, as "game", and where it matters what they are played on.
        tasks, presets: the names there are.
    """
    presets = list(presets)
    close = difflib.get_close_matches(task, [*tasks, *presets], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}" if close else f"presets are {', '.join(presets)}"
    return InputError(f"env.tasks={task} is no {kind} or preset of suite {suite}: {hint}?")
