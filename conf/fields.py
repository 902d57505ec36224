"""Schema fields that declare their bounds or choices, as those of conf/schema.py, and the function that checks them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.names import SWITCHES
from system.errors import InputError, unknown_name
from system.words import count

_CHECK = "check"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Numbers:
    """Bounds of a number, or of each number of a list with `shortest` to `longest` elements.

    They include `least` and `most`, and exclude `above`, `below`, NaN, and infinity unless `infinite`.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    infinite: bool = False
    shortest: int = 0
    longest: int | None = None

    def check(self, key: str, value: float | list[float]) -> None:
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and not self.shortest <= len(values) <= (self.longest or len(values)):
            wanted = self.shortest if self.shortest == self.longest else f"{self.shortest} to {self.longest}"
            raise InputError(f"{key} has {count(len(values), 'number')}: give {wanted}.")
        if not all(map(self._contains, values)):
            raise InputError(f"{key}={value} is out of range: give {self._describe(plural=isinstance(value, list))}.")

    def _contains(self, value: float) -> bool:
        return (
            # Comparisons alone: math.isnan overflows for whole numbers above 1.8e308.
            value == value
            and (self.infinite or value not in (math.inf, -math.inf))
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def _describe(self, *, plural: bool) -> str:
        """What to give, in words: `a finite number of at least 1`, or `numbers from 0 to below 1`."""
        noun, article = ("numbers", "") if plural else ("number", "a ")
        if self.most is not None or self.below is not None:
            low = f"from {self.least} to" if self.above is None else f"above {self.above} and up to"
            high = f"{self.most}" if self.below is None else f"below {self.below}"
            return f"{article}{noun} {low} {high}"
        low = f"of at least {self.least}" if self.above is None else f"above {self.above}"
        return f"{article}{noun} {low}, or inf" if self.infinite else f"{article}finite {noun} {low}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """One of `names`, or a list of them; `optional` permits the empty text as well."""

    names: Sequence[str]
    optional: bool = False

    def check(self, key: str, value: str | list[str]) -> None:
        for name in value if isinstance(value, list) else [value]:
            # Hydra reads `true` as a bool and writes it as `True`.
            spelled = name.lower() if self.names is SWITCHES else name
            if spelled not in self.names and not (self.optional and not name):
                raise unknown_name(key, name, self.names)


def number(default: float | list[float], **bounds: Any) -> Any:
    """A field for a number or a list of numbers; `bounds` are those of `_Numbers`."""
    return _declare(default, _Numbers(**bounds))


def choice(default: str | list[str], names: Sequence[str], *, optional: bool = False) -> Any:
    """A field for one of `names` or a list of them; `optional` permits the empty text as well."""
    return _declare(default, _Choice(names=names, optional=optional))


def _declare(default: Any, check: _Numbers | _Choice) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={_CHECK: check})
    return field(default=default, metadata={_CHECK: check})


def choices_of(declared: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The names that a field's single value may have; empty for a list and for other fields."""
    check = declared.metadata.get(_CHECK)
    return tuple(check.names) if isinstance(check, _Choice) and isinstance(declared.default, str) else ()


def check_fields(config: Any, prefix: str = "") -> None:
    """Checks the value of every field that `number` or `choice` declares, in nested groups too. The InputError has key, value and what is
    allowed. A group's `name` is reported by the key that selects it: `fusion`, not `fusion.name`.
    """
    for declared in dataclasses.fields(config):
        value, key = getattr(config, declared.name), prefix + declared.name
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{key}.")
        elif check := declared.metadata.get(_CHECK):
            check.check(key.removesuffix(".name"), value)
