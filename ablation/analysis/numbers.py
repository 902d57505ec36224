"""How the report writes numbers for people."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

from ablation.analysis.results import Estimate, Measure


class Write(Protocol):
    """Writes a number, with so many digits more than usual where those would make equal texts of unequal numbers."""

    def __call__(self, value: float, extra: int = 0, /) -> str: ...


NEVER = "never"
SECONDS = ((1.0, " s"), (60.0, " min"), (3600.0, " h"))
"""Units of time: their size and how they are written."""
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_MOST_EXTRA = 6
_MOST_DECIMALS = 15
_LARGE, _SMALL = 1e4, 1e-4
"""From where on ticks are written in thousands, and below which with a power of ten."""


def of_measure(measure: Measure) -> Write:
    """Values of the measure: three decimals where the best is 1, one where it is more (100), four digits where it is unknown."""
    if measure.best is not None:
        return fixed(3 if measure.best <= 1 else 1)
    return lambda value, extra=0, /: _significant(value, 4 + extra) if math.isfinite(value) else "-"


def fixed(decimals: int) -> Write:
    """With so many decimals."""
    return lambda value, extra=0, /: _fixed(value, decimals + extra) if math.isfinite(value) else "-"


def probability(value: float, extra: int = 0) -> str:
    return f"{value:.{2 + extra}f}" if math.isfinite(value) else "-"


def count(value: float, extra: int = 0) -> str:
    """A number of frames, parameters or the like: whole, but with two digits below 10."""
    if not math.isfinite(value):
        return "-"
    return _trimmed(value, _decimals(value) + extra)


def three_digits(value: float, extra: int = 0) -> str:
    """Three digits, whole from 100 on."""
    return _significant(value, 3 + extra)


def until(write: Write) -> Write:
    """The same, where infinite means that it did not come to it."""
    return lambda value, extra=0, /: NEVER if value == math.inf else write(value, extra)


def duration(seconds: float, extra: int = 0) -> str:
    """0.25 s, 50 s, 3.2 min, 1.5 h."""
    if not math.isfinite(seconds):
        return "-"
    if abs(seconds) < 90:
        return f"{_trimmed(seconds, _decimals(seconds) + extra)} s"
    size, unit = SECONDS[1] if abs(seconds) < 5400 else SECONDS[2]
    return f"{_trimmed(seconds / size, 1 + extra)}{unit}"


def short(value: float, extra: int = 0) -> str:
    """250k, 1.5M."""
    for size, letter in _STEPS:
        if abs(value) >= size:
            return f"{float(f'{value / size:.{3 + extra}g}'):g}{letter}"
    return f"{value:.{4 + extra}g}"


def ticks(values: Sequence[float], unit: tuple[float, str] | None = None) -> list[str]:
    """The labels of an axis, each with the digits that it needs: 0.0, 0.5, 1.0 or 0, 250k, 500k. Unequal values have unequal labels.

    Args:
        unit: of all labels: its size and how it is written, as in SECONDS; None: k, M or G on an axis that goes beyond 10,000.
    """
    known = sorted({float(value) for value in values})
    steps = [after - before for before, after in itertools.pairwise(known)]
    # Far below what an axis can show, far above what arithmetic adds to a number.
    blur = 1e-3 * min(steps) if steps else 1e-6 * abs(known[0]) if known else 0.0
    large = bool(known) and max(map(abs, known)) >= _LARGE
    units = [unit or (_unit(value) if large else (1.0, "")) for value in values]
    digits: dict[str, int] = {}
    for value, (size, name) in zip(values, units, strict=True):
        digits[name] = max(digits.get(name, 0), _needed(value / size, blur / size))
    if all(abs(value) < _SMALL for value in values) and not unit:
        return [_powers(value, blur) for value in values]
    return [
        f"{round(value / size, digits[name]) + 0.0:,.{digits[name]}f}{name}"
        for value, (size, name) in zip(values, units, strict=True)
    ]


def estimate(found: Estimate, write: Write) -> str:
    """`value [low, high]`, or the value where there is no interval; with more digits than usual where two of them would look equal."""
    if found.low is None or found.high is None or not math.isfinite(found.low + found.high):
        return write(found.value)
    value, low, high = write_distinct(found, write)
    return f"{value} [{low}, {high}]"


def in_words(found: Estimate, write: Write) -> str:
    """`value (low to high)`, as `estimate` within a sentence."""
    if found.low is None or found.high is None or not math.isfinite(found.low + found.high):
        return write(found.value)
    value, low, high = write_distinct(found, write)
    return f"{value} ({low} to {high})"


def value_alone(found: Estimate, write: Write) -> str:
    """`value`, where a sentence has no room for intervals."""
    return write(found.value)


def write_distinct(values: Sequence[float | None], write: Write) -> list[str]:
    """The text of each value, with more digits than usual if unequal values would look equal; "-" for None."""
    written = [["-" if value is None else write(value, extra) for value in values] for extra in range(_MOST_EXTRA + 1)]
    # A difference that the most digits do not show is rounding.
    return next(texts for texts in written if len(set(texts)) == len(set(written[-1])))


def listed(values: list[int]) -> str:
    """Whole numbers, as a range where they follow one another."""
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def ranged(values: list[float], write: Write) -> str:
    """One value, or the smallest and the largest."""
    least, most = write(min(values)), write(max(values))
    return least if least == most else f"{least} to {most}"


def _unit(value: float) -> tuple[float, str]:
    return next(((size, letter) for size, letter in _STEPS if abs(value) >= size), (1.0, ""))


def _needed(value: float, blur: float) -> int:
    """Decimals that tell a value from all that are farther away than `blur`."""
    return next(
        (digits for digits in range(_MOST_DECIMALS) if abs(round(value, digits) - value) <= blur), _MOST_DECIMALS
    )


def _powers(value: float, blur: float) -> str:
    texts = (f"{value:.{digits}g}" for digits in range(1, 18))
    return next(text for text in texts if abs(float(text) - value) <= blur or len(text) > 17) if value else "0"


def _decimals(value: float) -> int:
    """That give two digits below 10, and none above."""
    size = abs(value)
    return 0 if size >= 10 or size == 0 else 1 - min(0, math.floor(math.log10(size)))


def _significant(value: float, digits: int) -> str:
    """So many digits, but no fewer than stand before the point."""
    whole = len(f"{abs(value):.0f}")
    return f"{value:,.{max(0, digits - whole)}f}" if whole >= digits else f"{value + 0.0:,.{digits}g}"


def _fixed(value: float, decimals: int) -> str:
    # A zero has no sign.
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _trimmed(value: float, decimals: int) -> str:
    text = f"{round(value, decimals) + 0.0:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
