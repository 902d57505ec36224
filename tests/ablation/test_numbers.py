"""How numbers are written for people."""

from __future__ import annotations

import math

import pytest

from ablation import numbers
from ablation.results import Estimate, Measure


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (50, "50"), (999.6, "999.6"), (1000, "1k"), (250_000, "250k"), (999_960, "1000k"), (1_250_000, "1.25M")],
)
def test_short(value: float, told: str) -> None:
    assert numbers.short(value) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (89.4, "89 s"), (90, "1.5 min"), (725, "12.1 min"), (5400, "1.5 h"), (7.2e6, "2,000 h")],
)
def test_duration(seconds: float, told: str) -> None:
    assert numbers.duration(seconds) == told


@pytest.mark.parametrize(
    ("best", "value", "told"),
    [
        (1.0, 0.12345, "0.123"),
        (1.0, -1e-9, "0.000"),
        (100.0, 41.26, "41.3"),
        (None, 1234.56, "1,235"),
        (None, 0.012345, "0.01235"),
        (100.0, math.nan, "-"),
    ],
)
def test_values_of_a_measure(best: float | None, value: float, told: str) -> None:
    assert numbers.of_measure(Measure(name="any", label="any", best=best))(value) == told


def test_estimates_say_their_interval_if_they_have_one() -> None:
    assert numbers.estimate(Estimate(0.5, 0.25, 0.75), numbers.probability) == "0.50 [0.25, 0.75]"
    assert numbers.estimate(Estimate(0.5, None, None), numbers.probability) == "0.50"
    assert numbers.estimate(Estimate(0.5, math.nan, 0.75), numbers.probability) == "0.50"


def test_what_never_came_is_never() -> None:
    assert numbers.until(numbers.count)(math.inf) == "never"
    assert numbers.until(numbers.count)(1234567.0) == "1,234,567"
    assert numbers.until(numbers.duration)(math.nan) == "-"


@pytest.mark.parametrize(
    ("seeds", "told"), [([3], "3"), ([0, 1], "0, 1"), ([0, 1, 2], "0 to 2"), ([0, 1, 3], "0, 1, 3")]
)
def test_listed(seeds: list[int], told: str) -> None:
    assert numbers.listed(seeds) == told


def test_ranged() -> None:
    assert numbers.ranged([1000.2, 1000.4], numbers.count) == "1,000"
    assert numbers.ranged([2000, 1000], numbers.count) == "1,000 to 2,000"
