"""Markdown tables, and estimates over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from ablation.analysis.numbers import estimate as with_interval
from studies.harness.report import markdown, over_seeds, over_seeds_geometric, significant


def test_markdown() -> None:
    assert markdown(("a", "b"), [("x", "1"), ("y", "2")]) == "| a | b |\n| --- | --- |\n| x | 1 |\n| y | 2 |\n"


def test_geometric_means_are_means_of_logarithms() -> None:
    values = [1e-6, 1e-5, 1e-3]
    found, logarithms = over_seeds_geometric(values), over_seeds(np.log(values).tolist())
    assert np.log(found) == pytest.approx(logarithms)
    assert found.low is not None and 0 < found.low < found.value < 1e-3
    assert over_seeds_geometric([8.0, 8.0]) == (pytest.approx(8.0), None, None)
    assert with_interval(over_seeds([0.5]), significant) == "0.5"
