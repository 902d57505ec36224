"""The text of --help: flags, the choices of each group, and every key with its value and meaning, from the docstrings of the schemas."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from conf.fields import choices_of

_WIDTH = 110


def help_text(about: str | None, config: Any, choices: Mapping[str, Sequence[str]], flags: Mapping[str, str]) -> str:
    """The help of a program.

    Args:
        about: Its description.
        config: Its configuration, a dataclass object with the values to show.
        choices: Names of each group; empty for a program without groups.
        flags: Spellings of each flag, with its meaning.
    """
    lines = [(about or "").strip(), ""]
    if flags:
        lines += ["Flags:", *(line for flag, meaning in flags.items() for line in _entry(flag, meaning)), ""]
    if choices:
        lines += ["Groups, chosen by <group>=<name>:"]
        lines += [line for group, names in choices.items() for line in _entry(group, ", ".join(names))]
        lines += [""]
    lines += ["Keys, with their values here:"]
    for key in describe(config):
        names = f" ({', '.join(key.choices)})" if key.choices else ""
        lines += _entry(f"{key.name}={_format(key.value)}", key.meaning + names)
    return "\n".join(lines)


class Key(NamedTuple):
    """A dotted key of a configuration, its value, its meaning in one line, and the names that it may have; empty for other values."""

    name: str
    value: Any
    meaning: str
    choices: tuple[str, ...]


def describe(config: Any, prefix: str = "") -> Iterator[Key]:
    """Every key of a configuration object."""
    schema: Any = type(config)
    known = meanings(schema)
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from describe(value, f"{name}.")
        else:
            switches = ("true", "false") if isinstance(value, bool) else ()
            yield Key(name, value, known.get(field.name, ""), choices_of(field) or switches)


@functools.cache
def meanings(schema: Any) -> dict[str, str]:
    """The meaning of each attribute in one line, from the docstrings of a schema and its bases."""
    found: dict[str, str] = {}
    for kind in reversed(schema.__mro__):
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        listed = text.partition("\nAttributes:\n")[2]
        for entry in re.split(r"\n(?=    \S)", f"\n{listed}"):
            names, colon, meaning = entry.strip().partition(": ")
            if colon and re.fullmatch(r"\w+(, \w+)*", names):
                found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def _entry(head: str, meaning: str) -> list[str]:
    # Long words, such as paths, stay in one piece.
    wrapped = textwrap.wrap(meaning, _WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    return [f"  {head}", *(f"      {line}" for line in wrapped)]


def _format(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_format, value))}]"
    return str(value)
