"""Plain data: what may be in a file that somebody else has written. Dicts, lists, tuples, text, numbers, and tensors where they belong."""

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
    """Data that is not plain; the message is the end of a sentence that begins with `it holds`."""


def plain_copy(data: Any, *, tensors: bool = False, most: int = MOST_VALUES) -> Any:
    """A copy that consists of nothing but plain data and shares nothing with itself.

    A list may hold another one twice, and that another: written out, a few such levels fill any memory. Values are counted as
    often as they are met, so that whoever goes through the copy afterwards meets no more than `most` of them.

    Args:
        tensors: whether there may be tensors; only dense ones whose elements all lie in memory.

    Raises:
        PlainDataError: there is anything else, or too much, or nested too deeply.
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
            # Not its methods: what a pickle has built may have other ones.
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
    # A stride of 0 makes many elements out of one.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise PlainDataError("a tensor with more elements than it has memory")
    return tensor.detach()


@dataclass(frozen=True, slots=True)
class Test:
    """A part of a form: what a value has to be, in words, and whether it is that."""

    what: str
    passes: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    # Longer integers are no floats, and raise where they are made into one.
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and abs(value) <= sys.float_info.max


COUNT = Test("a count", lambda value: type(value) is int and 0 <= value <= _LARGEST_COUNT)
NUMBER = Test("a number", _is_number)
FINITE = Test("a finite number", _is_finite)
MEASURED = Test("a number from -1e30 to 1e30", lambda value: _is_finite(value) and abs(value) <= 1e30)
"""Whose sums, differences and means are finite, too."""
POSITIVE = Test("a number from 1e-30 to 1e30", lambda value: _is_finite(value) and 1e-30 <= value <= 1e30)
"""Whose logarithms are far from the ends of their range."""
SECONDS = Test("a time", lambda value: _is_finite(value) and value >= 0)


def check_form(value: Any, form: Any, where: str = "", *, complete: bool = True) -> None:
    """Whether plain data has a form: a type or a Test; `[x]`, any number of x; `(x, y)`, these in order; `{str: x}`, x under any names;
    `{"name": x}`, x under that name, and anything under others.

    Args:
        where: of the value, in words.
        complete: whether every name of the form has to be there.

    Raises:
        PlainDataError: it has not.
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
