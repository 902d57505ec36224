"""The names of the tasks of the suite `gymnasium`: `Name-v0`, `package.module:Name-v0`, and either with options, `Name-v0(level=1)`."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from system.errors import InputError

_MOST_LETTERS = 1000


class TaskCall(NamedTuple):
    """The parts of a task's name: the module to import first ("" for none), and argument and keyword arguments of `gymnasium.make`."""

    module: str
    name: str
    options: dict[str, Any]


def parse_task(task: str) -> TaskCall:
    """Parses a task's name. Options are literals, so nothing is evaluated. InputError for anything but a list of `name=literal`."""
    head, bracket, rest = task.partition("(")
    module, _, name = head.rpartition(":")
    return TaskCall(module, name, _options(task, rest) if bracket else {})


def module_of(task: str) -> str:
    """The module in a task's name; "" for none. Never raises."""
    return task.partition("(")[0].rpartition(":")[0]


def _options(task: str, text: str) -> dict[str, Any]:
    try:
        if len(text) > _MOST_LETTERS:
            raise ValueError("they are too long")
        call = ast.parse(f"f({text}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("no list of name=value")
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise InputError(
            f"env.tasks={task} has options that cannot be read: write name=value, and values as numbers, truth values, "
            "None, texts in quotes, or lists, tuples and dicts of them."
        ) from error
    if None in options:
        raise InputError(f"env.tasks={task} has options under **, which have no name: write name=value.")
    return {str(name): value for name, value in options.items()}
