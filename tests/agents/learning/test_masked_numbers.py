"""Values that a reset or a mask excludes have no effect, even NaN and infinity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from pairwise import pairwise

from agents.fusion.segments import Segments
from agents.learning import losses
from agents.learning.popart import target_sums
from agents.learning.vtrace import vtrace
from agents.network.context import Contexts
from agents.network.core import CORES

BAD = [math.nan, math.inf, -math.inf]
LENGTH, COLUMNS, X, H = 6, 3, 4, 5
RECURRENT = [name for name in CORES if name != "feedforward"]


@pytest.mark.parametrize(("name", "bad", "length", "gradient"), pairwise(RECURRENT, BAD, (1, LENGTH), (False, True)))
def test_a_reset_clears_any_state(name: str, bad: float, length: int, gradient: bool) -> None:
    torch.manual_seed(0)
    core = CORES[name](X, H)
    x, reset = torch.randn(length, COLUMNS, X), torch.zeros(length, COLUMNS, dtype=torch.bool)
    reset[0, 1] = True
    state = torch.randn(COLUMNS, core.state_size)
    spoiled = state.clone()
    spoiled[1] = bad
    with torch.set_grad_enabled(gradient):
        expected, expected_state = core(x, reset, state)
        y, new_state = core(x, reset, spoiled)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    torch.testing.assert_close(new_state, expected_state, rtol=0, atol=0)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", RECURRENT)
def test_a_reset_inside_an_unroll_clears_the_effect_of_a_bad_input(name: str, bad: float) -> None:
    torch.manual_seed(0)
    core = CORES[name](X, H)
    x, reset = torch.randn(LENGTH, COLUMNS, X), torch.zeros(LENGTH, COLUMNS, dtype=torch.bool)
    reset[3, 1] = True
    spoiled = x.clone()
    spoiled[1, 1] = bad
    state = torch.zeros(COLUMNS, core.state_size)
    with torch.no_grad():
        expected, expected_state = core(x, reset, state)
        y, new_state = core(spoiled, reset, state)
    torch.testing.assert_close(y[3:], expected[3:])
    torch.testing.assert_close(new_state, expected_state)


@pytest.mark.parametrize("bad", [*BAD, 1e30])
def test_vtrace_ignores_masked_steps(bad: float) -> None:
    """The importance ratio of a masked step may overflow."""
    torch.manual_seed(0)
    log_rhos, rewards, values = (torch.randn(LENGTH, COLUMNS) for _ in range(3))
    mask = torch.rand(LENGTH, COLUMNS) < 0.6
    rest = {"discounts": torch.full((LENGTH, COLUMNS), 0.9), "values": values, "bootstrap_value": values[0]}
    expected = vtrace(log_rhos, rewards=rewards, mask=mask, **rest)
    spoiled = (torch.where(mask, part, bad) for part in (log_rhos, rewards))
    found = vtrace(next(spoiled), rewards=next(spoiled), mask=mask, **rest)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("bad", BAD)
def test_losses_and_moments_ignore_masked_steps(bad: float) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(LENGTH, COLUMNS), torch.randn(LENGTH, COLUMNS)
    mask, task = torch.rand(LENGTH, COLUMNS) < 0.6, torch.randint(2, (LENGTH, COLUMNS))
    spoiled, other = torch.where(mask, first, bad), torch.where(mask, second, bad)
    for loss in (losses.policy_gradient_loss, losses.baseline_loss):
        torch.testing.assert_close(loss(spoiled, other, mask), loss(first, second, mask))
    found = target_sums(spoiled, task, mask, 2)
    torch.testing.assert_close(found, target_sums(first, task, mask, 2))
    kept, tasks = first[mask].numpy().astype(np.float64), task[mask].numpy()
    for row, values in zip(found.numpy(), (np.ones_like(kept), kept, kept**2), strict=True):
        np.testing.assert_allclose(row, np.bincount(tasks, values, 2), rtol=1e-5)


@pytest.mark.parametrize("bad", BAD)
def test_a_last_reward_that_is_not_finite_does_not_reach_the_core(bad: float) -> None:
    env, config = fake_env(), fake_config()
    network = fake_network(env, config)
    batch = fake_batch(env, network.core_state_size, LENGTH, COLUMNS)
    batch["last_reward"][2, 1] = bad
    contexts = Contexts(batch["task"][0], batch["instruction"][0])
    index = torch.arange(COLUMNS).repeat(LENGTH + 1)
    with torch.no_grad():
        output = network.unroll(
            batch, batch["core_state"], network.condition(contexts), Segments(index, COLUMNS), final_state=True
        )
    assert all(part.isfinite().all() for part in (output.core_state, output.policy_logits))
