"""How the report writes numbers for people."""

from __future__ import annotations

import math
from collections.abc import Callable

from ablation.results import Estimate, Measure

Write = Callable[[float], str]

NEVER = "never"
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def of_measure(measure: Measure) -> Write:
    """Values of the measure: three decimals where the best is 1, one where it is more (100), four digits where it is unknown."""
    decimals = None if measure.best is None else 3 if measure.best <= 1 else 1

    def write(value: float) -> str:
        if not math.isfinite(value):
            return "-"
        # A zero has no sign.
        return f"{value:,.4g}" if decimals is None else f"{round(value, decimals) + 0.0:.{decimals}f}"

    return write


def probability(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def count(value: float) -> str:
    """A number of frames, parameters or the like."""
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def until(write: Write) -> Write:
    """The same, where infinite means that it did not come to it."""
    return lambda value: NEVER if value == math.inf else write(value)


def duration(seconds: float) -> str:
    """50 s, 3.2 min, 1.5 h."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    value, unit = (seconds / 60, "min") if seconds < 5400 else (seconds / 3600, "h")
    return f"{round(value, 1):,g} {unit}"


def short(value: float, _: object = None) -> str:
    """For the ticks of an axis: 250k, 1.5M."""
    for size, letter in _STEPS:
        if abs(value) >= size:
            return f"{float(f'{value / size:.3g}'):g}{letter}"
    return f"{value:.4g}"


def estimate(found: Estimate, write: Write) -> str:
    """The value and its interval, if it has one."""
    if found.low is None or found.high is None or not math.isfinite(found.low + found.high):
        return write(found.value)
    return f"{write(found.value)} [{write(found.low)}, {write(found.high)}]"


def listed(values: list[int]) -> str:
    """Whole numbers, as a range where they follow one another."""
    if len(values) > 2 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))


def ranged(values: list[float], write: Write) -> str:
    """One value, or the smallest and the largest."""
    least, most = write(min(values)), write(max(values))
    return least if least == most else f"{least} to {most}"
