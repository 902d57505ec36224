"""Turns: A B C A B C ..., so that a change in the machine's load meets everything that is compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Name = TypeVar("Name")
Reading = TypeVar("Reading")

_DIGITS = 4


class Cost(NamedTuple):
    """What one unit of work took: seconds of wall-clock, and processor seconds of all threads of this process."""

    wall: float
    cpu: float


def take_turns(turns: Mapping[Name, Callable[[], Reading]], rounds: int) -> dict[Name, list[Reading]]:
    """Readings of every case, one for each of `rounds` rounds. One more round comes first; it warms up and is dropped."""
    readings: dict[Name, list[Reading]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            reading = turn()
            if number:
                readings[name].append(reading)
    return readings


def cost(work: Callable[[], float], seconds: float) -> Cost:
    """Seconds per unit of `work`, which returns how many units it did. It is repeated for `seconds`, and done once at least."""
    units = 0.0
    began, cpu_began = time.perf_counter(), time.process_time()
    while True:
        units += work()
        wall = time.perf_counter() - began
        if wall >= seconds:
            # A case that did nothing that counts costs infinitely much per unit; dividing by zero would say less.
            units = max(units, 1e-9)
            return Cost(wall / units, (time.process_time() - cpu_began) / units)


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, smallest and largest, to four digits."""
    listed = list(values)
    return {
        "median": digits(statistics.median(listed)),
        "min": digits(min(listed)),
        "max": digits(max(listed)),
    }


def ratios(values: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """The spread of value / reference, round by round: both met the same load."""
    return spread(value / reference for value, reference in zip(values, references, strict=True))


def microseconds(values: Iterable[float]) -> dict[str, float]:
    """The spread of seconds, in microseconds."""
    return spread(value * 1e6 for value in values)


def digits(value: float) -> float:
    """Four significant digits: nothing here is known better."""
    return float(f"{value:.{_DIGITS}g}")
