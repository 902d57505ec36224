"""Plain data, the allowed content of untrusted files: dicts, lists, tuples, text, numbers, and tensors in checkpoints."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from system.files import is_text

MOST_VALUES = 1_000_000
MOST_LEVELS = 32
LARGEST_INTEGER = 2**64


_LARGEST_COUNT = 2**53


class PlainDataError(ValueError):
    """Data that is not plain. The message completes the sentence "it holds ..."."""


def plain_copy(data: Any, *, tensors: bool = False, most: int = MOST_VALUES) -> Any:
    """A copy of plain data without shared parts.

    Lists that hold another list twice grow exponentially with their depth when they are copied. So a value counts once per occurrence,
    and the copy has at most `most` values.

    Args:
        tensors: Allow tensors; only dense ones whose elements are all in memory.

    Raises:
        PlainDataError: The data is not plain, has too many values, or is nested too deeply.
    """
    return _Copy(tensors, most).of(data, 0)


class _Copy:
    def __init__(self, tensors: bool, most: int) -> None:
        self._tensors, self._left, self._most = tensors, most, most

    def of(self, data: Any, level: int) -> Any:
        kind = type(data)
        self._left -= 1
        if self._left < 0:
            raise PlainDataError(f"more than {self._most:,} values")
        if level > MOST_LEVELS:
            raise PlainDataError(f"data nested more than {MOST_LEVELS} levels deep")
        if kind is dict or kind is OrderedDict:
            # Not `data.items()`, which a pickle may have replaced.
            return {self._key(key): self.of(value, level + 1) for key, value in dict.items(data)}
        if kind is list or kind is tuple:
            return kind(self.of(value, level + 1) for value in data)
        if data is None or kind in (bool, float):
            return data
        if kind is str:
            if not data.isascii() and not is_text(data):
                raise PlainDataError("a text with half of a character")
            return data
        if kind is int:
            if abs(data) > LARGEST_INTEGER:
                raise PlainDataError("an integer of more than 64 bits")
            return data
        if self._tensors and kind is Tensor:
            return _checked(data)
        raise PlainDataError(f"a value of type {kind.__name__}")

    def _key(self, key: Any) -> Any:
        if type(key) is not str and type(key) is not int:
            raise PlainDataError(f"a key of type {type(key).__name__}")
        return self.of(key, 0)


def _checked(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        raise PlainDataError("a tensor of a kind that no run saves")
    # With a stride of 0 a tensor repeats one element many times.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise PlainDataError("a tensor with more elements than it has memory")
    return tensor.detach()


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


COUNT = Test("a count", lambda value: type(value) is int and 0 <= value <= _LARGEST_COUNT)
NUMBER = Test("a number", _is_number)
FINITE = Test("a finite number", _is_finite)
MEASURED = Test("a number from -1e30 to 1e30", lambda value: _is_finite(value) and abs(value) <= 1e30)
"""Sums, differences and means of such numbers are finite, too."""
POSITIVE = Test("a number from 1e-30 to 1e30", lambda value: _is_finite(value) and 1e-30 <= value <= 1e30)
"""Logarithms of such numbers are far from the limits of float."""
SECONDS = Test("a time", lambda value: _is_finite(value) and value >= 0)


def check_form(value: Any, form: Any, where: str = "", *, complete: bool = True) -> None:
    """Checks plain data against a form.

    A form is a type or a Test; `[x]`: a list of any number of x; `(x, y)`: a list of these in order; `{str: x}`: a mapping with any names
    of that type to x; `{"name": x}`: a mapping with x at that name, and any values at other names.

    Args:
        where: Path of the value, for the message.
        complete: Every name of the form is required.

    Raises:
        PlainDataError: The data does not have the form.
    """
    if isinstance(form, dict):
        _require(isinstance(value, dict), where, "a mapping")
        (types, names) = ({}, form) if not any(isinstance(key, type) for key in form) else (form, {})
        for key, item in value.items():
            _require(not types or type(key) in types, where, "names of one kind")
            if key in names or types:
                check_form(
                    item, types[type(key)] if types else names[key], f"{where} {key}".lstrip(), complete=complete
                )
        missing = names.keys() - value.keys()
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
