"""Networks that are trained together equal networks that are trained alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from agents.fusion import FUSIONS
from studies.models.ensembles import Ensemble, Streams, as_numbers, derived_seed, train

SEEDS = [3, 8, 5]
OPTIONS = {
    "concat_mlp": {"hidden": 6},
    "low_rank": {"rank": 3},
    "hypernetwork": {"hidden": 4},
    "mixture": {"experts": 2},
    "paco": {"experts": 2},
    **{name: {"hidden": 4, "experts": 2} for name in ("care", "soft_modularization", "moore")},
}


def trained(name: str, seeds: list[int]) -> torch.Tensor:
    """Outputs [S, N, K] after a few steps on x * z."""
    networks = Ensemble(lambda: FUSIONS[name](3, 3, 3, **OPTIONS.get(name, {})), seeds)
    batches, test = Streams(seeds, "training"), Streams(seeds, "test")

    def loss() -> torch.Tensor:
        x, z = batches.normal(16, 3), batches.normal(16, 3)
        return (networks(x, z) - x * z).square().mean((1, 2))

    train(list(networks.parameters.values()), loss, steps=20, learning_rate=0.02)
    return networks(test.normal(8, 3), test.normal(8, 3)).detach()


@pytest.mark.parametrize("name", [name for name in FUSIONS if name not in ("tucker", "cross_attention")])
def test_members_equal_networks_trained_alone(name: str) -> None:
    together = trained(name, SEEDS)
    for member, seed in enumerate(SEEDS):
        torch.testing.assert_close(together[member], trained(name, [seed])[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_random_numbers_depend_on_seed_and_purpose_alone() -> None:
    first, both = Streams([1], "a"), Streams([2, 1], "a")
    torch.testing.assert_close(first.normal(4, 2)[0], both.normal(4, 2)[1])
    torch.testing.assert_close(first.uniform(3)[0], both.uniform(3)[1])
    assert len({derived_seed(seed, purpose) for seed in range(50) for purpose in "abc"}) == 150
    drawn = Streams([0], "b").uniform(1000, low=-2.0, high=3.0)
    assert -2 <= drawn.min() < -1.9 and 2.9 < drawn.max() <= 3


def test_the_learning_rate_falls_as_a_cosine() -> None:
    """With a constant gradient, the length of a step of Adam is the learning rate."""
    parameter = torch.zeros(1, requires_grad=True)
    path = [0.0]
    train(
        [parameter],
        lambda: parameter,
        steps=8,
        learning_rate=0.1,
        after_step=lambda step: path.append(parameter.item()),
    )
    lengths = [before - after for before, after in itertools.pairwise(path)]
    expected = [0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert lengths == pytest.approx(expected, rel=1e-4)


def test_nan_and_infinity_become_finite_numbers() -> None:
    numbers = as_numbers(torch.tensor([0.5, math.nan, math.inf]))
    assert numbers[0] == 0.5 and numbers[1] == numbers[2] > 1e38 and math.isfinite(numbers[1])
