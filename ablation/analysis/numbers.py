"""Numbers as text for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ablation.analysis.results import Estimate, Measure


class Write(Protocol):
    """Writes a number, with `extra` digits more than usual."""

    def __call__(self, value: float, extra: int = 0, /) -> str: ...


NEVER = "never"
SECONDS = ((1.0, " s"), (60.0, " min"), (3600.0, " h"))
"""Units of time: seconds and suffix."""
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_MOST_EXTRA = 6
_MOST_DECIMALS = 15
_LARGE = 1e4
"""From this value on, an axis has labels in k, M or G."""


def of_measure(measure: Measure) -> Write:
    """Writes values of the measure: three decimals if the best is 1, one if it is 100, four digits if it is unknown."""
    if measure.best is not None:
        return fixed(3 if measure.best <= 1 else 1)
    return significant(4)


def fixed(decimals: int) -> Write:
    """Writes with this number of decimals."""
    # + 0.0 removes the sign of -0.0.
    return lambda value, extra=0, /: (
        f"{round(value, decimals + extra) + 0.0:.{decimals + extra}f}" if math.isfinite(value) else "-"
    )


def significant(digits: int) -> Write:
    """Writes with this number of digits, but with all digits before the point."""

    def write(value: float, extra: int = 0, /) -> str:
        if not math.isfinite(value):
            return "-"
        whole, most = len(f"{abs(value):.0f}"), digits + extra
        return f"{value:,.{max(0, most - whole)}f}" if whole >= most else f"{value + 0.0:,.{most}g}"

    return write


probability, three_digits = fixed(2), significant(3)


def count(value: float, extra: int = 0) -> str:
    """A count, such as frames or parameters: an integer, or two digits below 10."""
    if not math.isfinite(value):
        return "-"
    return _trimmed(value, _decimals(value) + extra)


def until(write: Write) -> Write:
    """Writes infinity as `never`."""
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
    """Labels of an axis with as few digits as show every step, as 0.0, 0.5, 1.0; unequal values have unequal labels.

    `unit` is size and suffix, as in SECONDS; None: k, M or G if the axis goes beyond 10,000.
    """
    known = np.unique(np.asarray(values, np.float64))
    largest = float(np.abs(known).max(initial=0.0))
    size, suffix = unit or next(((size, name) for size, name in _STEPS if largest >= max(size, _LARGE)), (1.0, ""))
    # Relative to a step, which is far above rounding errors and far below what an axis shows.
    tolerance = 1e-3 * float(np.diff(known).min()) / size if known.size > 1 else 1e-6 * largest / size
    scaled = [value / size for value in values]
    decimals = next(
        (digits for digits in range(_MOST_DECIMALS) if all(abs(round(x, digits) - x) <= tolerance for x in scaled)),
        _MOST_DECIMALS,
    )
    bare_zero = suffix and not unit
    return ["0" if bare_zero and x == 0 else f"{round(x, decimals) + 0.0:,.{decimals}f}{suffix}" for x in scaled]


def estimate(found: Estimate, write: Write, form: str = "{} [{}, {}]") -> str:
    """The estimate in `form`, or `value` without an interval; unequal numbers have unequal texts."""
    if found.low is None or found.high is None or not math.isfinite(found.low + found.high):
        return write(found.value)
    return form.format(*write_distinct(found, write))


def in_words(found: Estimate, write: Write) -> str:
    """`value (low to high)`: `estimate` within a sentence."""
    return estimate(found, write, "{} ({} to {})")


def write_distinct(values: Sequence[float | None], write: Write) -> list[str]:
    """The text of each value, with more digits than usual if unequal values would look equal; "-" for None."""
    written = [["-" if value is None else write(value, extra) for value in values] for extra in range(_MOST_EXTRA + 1)]
    # A difference that the most digits do not show is rounding.
    return next(texts for texts in written if len(set(texts)) == len(set(written[-1])))


def listed(values: list[int]) -> str:
    """Integers, as a range if they are consecutive."""
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def ranged(values: Sequence[float], write: Write) -> str:
    """One value, or the smallest and the largest."""
    least, most = write(min(values)), write(max(values))
    return least if least == most else f"{least} to {most}"


def _decimals(value: float) -> int:
    """Decimals that give two digits below 10; none from 10 on."""
    size = abs(value)
    return 0 if size >= 10 or size == 0 else 1 - min(0, math.floor(math.log10(size)))


def _trimmed(value: float, decimals: int) -> str:
    text = f"{round(value, decimals) + 0.0:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
