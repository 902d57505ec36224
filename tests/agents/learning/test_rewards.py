"""The transforms of rewards against values computed by hand from their equations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.learning.rewards import REWARD_TRANSFORMS, transform_rewards

RAW = [-10.0, -5.0, -0.5, 0.0, 0.5, 1.0, 5.0, 100.0]

# tanh(0.1) = 0.0996680, tanh(0.2) = 0.1973753, tanh(0.5) = 0.4621172, tanh(1) = 0.7615942, tanh(2) = 0.9640276,
# tanh(5) = 0.9999092.
EXPECTED = {
    "clip": [-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0, 1.0],
    "soft_asymmetric": [-1.4460414, -1.1423912, -0.1495020, 0.0, 0.4983400, 0.9868766, 3.8079708, 5.0],
    "soft_asymmetric_paper": [-0.3, -0.2999728, -0.1386352, 0.0, 2.3105858, 3.8079708, 4.9995460, 5.0],
    "none": RAW,
}


@pytest.mark.parametrize("kind", REWARD_TRANSFORMS)
def test_values_computed_by_hand(kind: str) -> None:
    raw = torch.tensor([RAW, RAW[::-1]], dtype=torch.float64)
    before = raw.clone()
    found = transform_rewards(raw, kind, 1.0)
    torch.testing.assert_close(found[0], torch.tensor(EXPECTED[kind], dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(found[1], found[0].flip(0))
    torch.testing.assert_close(raw, before, rtol=0, atol=0)


@given(st.floats(-1e4, 1e4), st.sampled_from(REWARD_TRANSFORMS))
def test_transforms_keep_signs_and_order(reward: float, kind: str) -> None:
    found = transform_rewards(torch.tensor([reward, reward + 1.0], dtype=torch.float64), kind, 0.7)
    assert found[0] <= found[1]
    assert math.copysign(1, found[0]) == math.copysign(1, reward) or reward == 0


@pytest.mark.parametrize(
    ("kind", "low", "high", "slopes"),
    [("soft_asymmetric", -1.5, 5.0, (0.3, 1.0)), ("soft_asymmetric_paper", -0.3, 5.0, (0.3, 5.0))],
)
def test_bounds_and_slopes_at_zero_of_the_two_soft_forms(
    kind: str, low: float, high: float, slopes: tuple[float, float]
) -> None:
    ends = transform_rewards(torch.tensor([-1e6, 1e6], dtype=torch.float64), kind, 1.0)
    torch.testing.assert_close(ends, torch.tensor([low, high], dtype=torch.float64))
    near = transform_rewards(torch.tensor([-1e-6, 1e-6], dtype=torch.float64), kind, 1.0) * 1e6
    torch.testing.assert_close(near, torch.tensor([-slopes[0], slopes[1]], dtype=torch.float64))


def test_a_clip_of_zero_does_not_clip() -> None:
    raw = torch.tensor([-7.0, 7.0])
    torch.testing.assert_close(transform_rewards(raw, "clip", 0.0), raw)
    torch.testing.assert_close(transform_rewards(raw, "clip", 2.0), torch.tensor([-2.0, 2.0]))
