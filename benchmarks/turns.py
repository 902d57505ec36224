"""Turns: A B C A B C ..., so that a change of the machine's load affects all cases."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Name = TypeVar("Name")
Reading = TypeVar("Reading")

_DIGITS = 4


class Cost(NamedTuple):
    """Cost of one unit of work: wall-clock seconds, and processor seconds of all threads of this process."""

    wall: float
    cpu: float


def take_turns(turns: Mapping[Name, Callable[[], Reading]], rounds: int) -> dict[Name, list[Reading]]:
    """Readings of every case, one for each round, after a dropped round for warm-up."""
    readings: dict[Name, list[Reading]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            reading = turn()
            if number:
                readings[name].append(reading)
    return readings


def cost(work: Callable[[], float], seconds: float) -> Cost:
    """Seconds per unit of `work`, which returns its number of units. Repeats it for `seconds`, at least once."""
    units = 0.0
    began, cpu_began = time.perf_counter(), time.process_time()
    while True:
        units += work()
        wall = time.perf_counter() - began
        if wall >= seconds:
            # Work without any unit gets a huge cost instead of a division by zero.
            units = max(units, 1e-9)
            return Cost(wall / units, (time.process_time() - cpu_began) / units)


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, smallest and largest value, with four digits."""
    listed = list(values)
    return {
        "median": digits(statistics.median(listed)),
        "min": digits(min(listed)),
        "max": digits(max(listed)),
    }


def ratios(values: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """The spread of value / reference in each round, because both have the same load there."""
    return spread(value / reference for value, reference in zip(values, references, strict=True))


def microseconds(values: Iterable[float]) -> dict[str, float]:
    """The spread of times in seconds, as microseconds."""
    return spread(value * 1e6 for value in values)


def digits(value: float) -> float:
    """Rounds to four significant digits, more than the precision of any measurement here."""
    return float(f"{value:.{_DIGITS}g}")
