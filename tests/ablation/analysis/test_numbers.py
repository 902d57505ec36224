"""Numbers as text for people."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.ticker import MaxNLocator

from ablation.analysis import numbers
from ablation.analysis.numbers import SECONDS
from ablation.analysis.results import Estimate, Measure


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (50, "50"), (999.6, "999.6"), (1000, "1k"), (250_000, "250k"), (999_960, "1000k"), (1_250_000, "1.25M")],
)
def test_short(value: float, expected: str) -> None:
    assert numbers.short(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (89.4, "89 s"), (90, "1.5 min"), (725, "12.1 min"), (5400, "1.5 h"), (7.2e6, "2,000 h")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert numbers.duration(seconds) == expected


@pytest.mark.parametrize(
    ("best", "value", "expected"),
    [
        (1.0, 0.12345, "0.123"),
        (1.0, -1e-9, "0.000"),
        (100.0, 41.26, "41.3"),
        (None, 1234.56, "1,235"),
        (None, 0.012345, "0.01235"),
        (100.0, math.nan, "-"),
    ],
)
def test_values_of_a_measure(best: float | None, value: float, expected: str) -> None:
    assert numbers.of_measure(Measure(name="any", label="any", best=best))(value) == expected


def test_estimates_show_their_interval() -> None:
    assert numbers.estimate(Estimate(0.5, 0.25, 0.75), numbers.probability) == "0.50 [0.25, 0.75]"
    assert numbers.estimate(Estimate(0.5, None, None), numbers.probability) == "0.50"
    assert numbers.estimate(Estimate(0.5, math.nan, 0.75), numbers.probability) == "0.50"


def test_infinity_is_never() -> None:
    assert numbers.until(numbers.count)(math.inf) == "never"
    assert numbers.until(numbers.count)(1234567.0) == "1,234,567"
    assert numbers.until(numbers.duration)(math.nan) == "-"


@pytest.mark.parametrize(
    ("seeds", "expected"), [([3], "3"), ([0, 1], "0, 1"), ([0, 1, 2], "0 to 2"), ([0, 1, 3], "0, 1, 3")]
)
def test_listed(seeds: list[int], expected: str) -> None:
    assert numbers.listed(seeds) == expected


def test_ranged() -> None:
    assert numbers.ranged([1000.2, 1000.4], numbers.count) == "1,000"
    assert numbers.ranged([2000, 1000], numbers.count) == "1,000 to 2,000"


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([0, 0.5, 1, 1.5, 2], SECONDS[0], ["0.0 s", "0.5 s", "1.0 s", "1.5 s", "2.0 s"]),
        ([0, 30, 60, 90, 120], SECONDS[0], ["0 s", "30 s", "60 s", "90 s", "120 s"]),
        ([0, 90, 180], SECONDS[1], ["0.0 min", "1.5 min", "3.0 min"]),
        ([0, 0.25, 0.5, 0.75, 1], None, ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ([0.1 + 0.2, 0.6, 0.9], None, ["0.3", "0.6", "0.9"]),
        ([-0.5, 0, 0.5], None, ["-0.5", "0.0", "0.5"]),
        ([1800, 1900, 2000], None, ["1,800", "1,900", "2,000"]),
        ([0, 25_000, 50_000], None, ["0", "25k", "50k"]),
        ([999_000, 999_500, 1_000_000, 1_000_500], None, ["0.9990M", "0.9995M", "1.0000M", "1.0005M"]),
        ([20_000.0, 20_000.5, 20_001.0], None, ["20.0000k", "20.0005k", "20.0010k"]),
        ([1024, 1536], None, ["1,024", "1,536"]),
        ([0, 2e-7, 4e-7], None, ["0.0000000", "0.0000002", "0.0000004"]),
        ([0.41, 0.42], None, ["0.41", "0.42"]),
        ([3.0], None, ["3"]),
        ([], None, []),
    ],
)
def test_ticks_have_the_digits_they_need(
    values: list[float], unit: tuple[float, str] | None, expected: list[str]
) -> None:
    assert numbers.ticks(values, unit) == expected


@given(
    low=st.floats(-1e9, 1e9),
    width=st.floats(1e-6, 1e9),
    unit=st.sampled_from([None, *SECONDS]),
)
@settings(max_examples=300, deadline=None)
def test_ticks_differ_and_show_their_value(low: float, width: float, unit: tuple[float, str] | None) -> None:
    values = MaxNLocator(5).tick_values(low, low + max(width, 1e-6 * abs(low)))
    expected = numbers.ticks(values, unit)
    assert len(set(expected)) == len(values)
    step = float(np.diff(values).min())
    sizes = {"k": 1e3, "M": 1e6, "G": 1e9}
    for value, text in zip(values, expected, strict=True):
        read = text.removesuffix(unit[1] if unit else "").replace(",", "")
        size = unit[0] if unit else sizes.get(read[-1], 1.0)
        assert float(read.rstrip("kMG")) * size == pytest.approx(value, abs=0.01 * step)


@pytest.mark.parametrize(
    ("write", "found", "expected"),
    [
        (numbers.count, Estimate(2000.1, 1999.9, 2000.3), "2,000.1 [1,999.9, 2,000.3]"),
        (numbers.count, Estimate(2.13, 2.09, 2.17), "2.13 [2.09, 2.17]"),
        (numbers.duration, Estimate(0.31, 0.29, 0.33), "0.31 s [0.29 s, 0.33 s]"),
        (numbers.duration, Estimate(62.1, 61.9, 62.4), "62.1 s [61.9 s, 62.4 s]"),
        (numbers.probability, Estimate(0.998, 0.996, 1.0), "0.998 [0.996, 1.000]"),
        (numbers.fixed(3), Estimate(0.50001, 0.5, 0.50002), "0.50001 [0.50000, 0.50002]"),
        (numbers.fixed(1), Estimate(1.0, 1.0, 1.0), "1.0 [1.0, 1.0]"),
        (
            numbers.of_measure(Measure(name="return", label="return", best=None)),
            Estimate(100_000.0, 99_999.7, 100_000.2),
            "100,000 [99,999.7, 100,000.2]",
        ),
    ],
)
def test_unequal_numbers_have_unequal_texts(write: numbers.Write, found: Estimate, expected: str) -> None:
    assert numbers.estimate(found, write) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.5, "0.5 s"), (0.034, "0.034 s"), (1.25, "1.2 s"), (9.97, "10 s")])
def test_short_times_keep_two_digits(seconds: float, expected: str) -> None:
    assert numbers.duration(seconds) == expected


def test_a_large_return_is_written_without_an_exponent() -> None:
    assert numbers.of_measure(Measure(name="return", label="return", best=None))(12345.6) == "12,346"
