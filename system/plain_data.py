"""Plain data, the allowed content of untrusted files: dicts, lists, tuples, text and numbers."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from system.files import is_text

MOST_VALUES = 1_000_000
MOST_LEVELS = 32
LARGEST_INTEGER = 2**64
_NOTHING: Mapping[type, Callable[[Any], Any]] = MappingProxyType({})


class PlainDataError(ValueError):
    """Data that is not plain. The message completes the sentence "it holds ..."."""


def plain_copy(data: Any, *, also: Mapping[type, Callable[[Any], Any]] = _NOTHING, most: int = MOST_VALUES) -> Any:
    """A copy of plain data without shared parts.

    PlainDataError if the data is not plain, is nested too deeply, or has more than `most` values. Lists that hold another list twice grow
    exponentially with their depth when they are copied, so a value counts once per occurrence. `also` has further types that are allowed,
    subclasses excluded, each with the function that copies a value or raises PlainDataError.
    """
    left = most

    def copy(data: Any, level: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise PlainDataError(f"more than {most:,} values")
        if level > MOST_LEVELS:
            raise PlainDataError(f"data nested more than {MOST_LEVELS} levels deep")
        kind = type(data)
        if kind is dict or kind is OrderedDict:
            # Not `data.items()`, which a pickle may have replaced.
            return {copy_key(key): copy(value, level + 1) for key, value in dict.items(data)}
        if kind is list or kind is tuple:
            return kind(copy(value, level + 1) for value in data)
        if kind is str and not data.isascii() and not is_text(data):
            raise PlainDataError("a text with half of a character")
        if kind is int and abs(data) > LARGEST_INTEGER:
            raise PlainDataError("an integer of more than 64 bits")
        if kind in also:
            return also[kind](data)
        if data is None or kind in (bool, float, str, int):
            return data
        raise PlainDataError(f"a value of type {kind.__name__}")

    def copy_key(key: Any) -> Any:
        if type(key) is not str and type(key) is not int:
            raise PlainDataError(f"a key of type {type(key).__name__}")
        return copy(key, 0)

    return copy(data, 0)


@dataclass(frozen=True, slots=True)
class Test:
    """A condition on a value: its description in words, and the predicate."""

    what: str
    passes: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    # Larger integers raise when they are converted to float.
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and abs(value) <= sys.float_info.max


COUNT = Test("a count", lambda value: type(value) is int and 0 <= value <= 2**53)
NUMBER = Test("a number", _is_number)
FINITE = Test("a finite number", _is_finite)
MEASURED = Test("a number from -1e30 to 1e30", lambda value: _is_finite(value) and abs(value) <= 1e30)
"""Sums, differences and means of such numbers are finite, too."""
POSITIVE = Test("a number from 1e-30 to 1e30", lambda value: _is_finite(value) and 1e-30 <= value <= 1e30)
"""Logarithms of such numbers are far from the limits of float."""
SECONDS = Test("a time", lambda value: _is_finite(value) and value >= 0)


def check_form(value: Any, form: Any, where: str = "", *, complete: bool = True) -> None:
    """Checks plain data against a form; PlainDataError with the path `where` and what the form has there.

    A form is a type or a Test; `[x]`: a list of any number of x; `(x, y)`: a list of these in order; `{str: x}`: a mapping with any names
    of that type to x; `{"name": x}`: a mapping with x at that name, and any values at other names.
    `complete`: every name of the form is required.
    """
    if isinstance(form, dict):
        _require(isinstance(value, dict), where, "a mapping")
        by_type = any(isinstance(key, type) for key in form)
        for key, item in value.items():
            found = type(key) if by_type else key
            _require(found in form or not by_type, where, "names of one kind")
            if found in form:
                check_form(item, form[found], f"{where} {key}".lstrip(), complete=complete)
        missing = set() if by_type else form.keys() - value.keys()
        _require(not (missing and complete), where, f"a mapping with {min(missing, default='')}")
    elif isinstance(form, list | tuple):
        _require(isinstance(value, list | tuple), where, "a list")
        _require(isinstance(form, list) or len(value) == len(form), where, f"a list of {len(form)}")
        for number, item in enumerate(value):
            check_form(item, form[0] if isinstance(form, list) else form[number], where, complete=complete)
    elif isinstance(form, Test):
        _require(form.passes(value), where, form.what)
    else:
        _require(isinstance(value, form), where, f"a value of type {form.__name__}")


def _require(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise PlainDataError(f"something else than {what}{f' at {where}' if where else ''}")
