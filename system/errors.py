"""The exceptions that end a program with a message, and exceptions as messages between processes."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Collection, Iterable
from typing import NamedTuple, Self

MOST_LETTERS = 4000


class InputError(ValueError):
    """Bad input from the user: a config value, a checkpoint, a path, an engine that is not installed.

    The message is one sentence that names the key, the value and the fix. Entry points print it without a traceback
    and exit with code 2. Any other exception is a defect of the program and keeps its traceback.

    Further `lines`, such as a list of differences, are printed below the sentence. Both may quote a file. So they are cut to MOST_LETTERS,
    and control characters are escaped.
    """

    def __init__(self, message: str, lines: Iterable[str] = ()) -> None:
        super().__init__("\n  ".join(_shown(text) for text in (message, *lines)))


class RunError(RuntimeError):
    """Ends a run after it has saved what it could. Entry points print the message and the notes, and exit with code 1."""


class ErrorReport(NamedTuple):
    """An exception as a message to another process. `text` is its traceback; of an InputError the sentence."""

    text: str
    is_input_error: bool

    @classmethod
    def of(cls, error: Exception, *plain: type[Exception]) -> Self:
        """The report of an exception that was caught. Of the classes `plain` it holds the message without a traceback, too."""
        is_input_error = isinstance(error, InputError)
        is_plain = is_input_error or isinstance(error, plain)
        return cls(str(error) if is_plain else "".join(traceback.format_exception(error)), is_input_error)

    def exception(self, otherwise: type[Exception], before: str = "") -> Exception:
        """The exception to raise in this process: the InputError, or an `otherwise` whose message begins with `before`."""
        return InputError(self.text) if self.is_input_error else otherwise(before + self.text)


def _shown(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return shown if len(shown) <= MOST_LETTERS else f"{shown[:MOST_LETTERS]}..."


def unknown_name(key: str, value: object, names: Iterable[object]) -> InputError:
    """The error for a name that is not among `names`."""
    return InputError(f"{key}={value} is unknown: choose one of {', '.join(map(str, names))}.")


def unknown_task(task: str, kind: str, suite: str, tasks: Iterable[str], presets: Collection[str]) -> InputError:
    """The error for a task that a suite does not have. It suggests similar names, or else the presets. `kind` is the suite's word for its
    tasks, such as "game".
    """
    close = difflib.get_close_matches(task, [*tasks, *presets], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}" if close else f"presets are {', '.join(presets)}"
    return InputError(f"env.tasks={task} is no {kind} or preset of suite {suite}: {hint}?")
