"""The one exception for a user's mistake."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from the user: a config value, a checkpoint, a path, an engine that is not installed.

    The message is one sentence that names the key, the value and the fix. Entry points print it without a traceback
    and exit with code 2. Everything else that is raised is a defect of the program and keeps its traceback.
    """


def unknown_name(key: str, value: object, names: object) -> InputError:
    """The error for a name that is not in a table, listing the names that are."""
    listed = ", ".join(str(name) for name in names) if hasattr(names, "__iter__") else str(names)
    return InputError(f"{key}={value} is unknown: choose one of {listed}.")
