"""Target functions of the synthetic study equal their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from studies.data.targets import FUNCTIONS, outputs
from studies.models.ensembles import Streams

SEEDS = [0, 1]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("d", [1, 3, 8])
def test_every_output_has_variance_one(name: str, d: int) -> None:
    target, inputs = FUNCTIONS[name](d, Streams(SEEDS, "function")), Streams(SEEDS, "test")
    y = target(inputs.normal(20_000, d), inputs.normal(20_000, d))
    assert y.shape == (2, 20_000, outputs(name, d))
    torch.testing.assert_close(y.mean(1), torch.zeros_like(y[:, 0]), rtol=0, atol=0.06)
    torch.testing.assert_close(y.var(1), torch.ones_like(y[:, 0]), rtol=0, atol=0.12)


def test_formulas() -> None:
    inputs = Streams(SEEDS, "test")
    x, z = inputs.normal(5, 4), inputs.normal(5, 4)

    def value(name: str) -> np.ndarray:
        return FUNCTIONS[name](4, Streams(SEEDS, "function"))(x, z).numpy()

    np.testing.assert_allclose(value("sum"), (x + z).numpy() / np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(value("product"), (x * z).numpy(), rtol=1e-5)
    W = Streams(SEEDS, "function").normal(4, 4).numpy()
    for seed in range(2):
        for sample in range(5):
            a, b = x[seed, sample].numpy(), z[seed, sample].numpy()
            assert value("dot")[seed, sample, 0] == pytest.approx(a @ b / 2, rel=1e-4)
            expected = a @ W[seed] @ b / np.linalg.norm(W[seed])
            assert value("bilinear")[seed, sample, 0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["bilinear", "teacher"])
def test_random_functions_depend_on_their_seed_alone(name: str) -> None:
    ones = torch.ones(2, 1, 3)
    there, again = (FUNCTIONS[name](3, Streams(seeds, "function"))(ones, ones) for seeds in ([4, 7], [7, 4]))
    assert there[0] == again[1] and there[0] != there[1]
