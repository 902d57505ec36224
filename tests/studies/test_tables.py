"""Markdown tables, and estimates over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from ablation.analysis.numbers import estimate as with_interval
from studies.harness.report import convergence, markdown, over_seeds, over_seeds_geometric, significant


def test_markdown() -> None:
    assert markdown(("a", "b"), [("x", "1"), ("y", "2")]) == "| a | b |\n| --- | --- |\n| x | 1 |\n| y | 2 |\n"


def test_geometric_means_are_means_of_logarithms() -> None:
    values = [1e-6, 1e-5, 1e-3]
    found, logarithms = over_seeds_geometric(values), over_seeds(np.log(values).tolist())
    assert np.log(found) == pytest.approx(logarithms)
    assert found.low is not None and 0 < found.low < found.value < 1e-3
    assert over_seeds_geometric([8.0, 8.0]) == (pytest.approx(8.0), None, None)
    assert with_interval(over_seeds([0.5]), significant) == "0.5"


def test_a_network_has_converged_if_the_whole_interval_of_its_gain_is_small() -> None:
    gains = {"concat": [0.001, 0.002, 0.003], "mi": [0.1, 0.11, 0.12], "film": [-0.02, 0.0, 0.02], "gated": [0.001]}
    assert convergence("affine", 1000, gains, 0.01) == (
        "affine: converged: `concat` 0.002 [0.000, 0.004]; not converged: `mi` 0.110 [0.085, 0.135], `film` 0.000 [-0.050, 0.050], "
        "`gated` 0.001 (gain over 1,000 steps; converged below 0.01)."
    )
