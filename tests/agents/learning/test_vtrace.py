"""V-trace against the sum in the paper, and on unrolls that are split at the end of an episode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.learning.vtrace import VTrace, vtrace

COLUMNS = 3
CLIPS = {"clip_rho": 1.3, "clip_c": 0.9, "clip_pg_rho": 1.1, "lambda_": 0.95}


def random_inputs(seed: int, length: int, discounting: float = 0.9) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shape = (length, COLUMNS)
    arrays = {
        "log_rhos": rng.normal(0, 0.8, shape),
        "discounts": discounting * (rng.random(shape) > 0.2),
        "rewards": rng.normal(size=shape),
        "values": rng.normal(size=shape),
        "bootstrap_value": rng.normal(size=COLUMNS),
    }
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def truth(
    inputs: dict[str, torch.Tensor], clip_rho: float, clip_c: float, clip_pg_rho: float, lambda_: float, mixed: bool
) -> VTrace:
    """Equation 1 as a sum over t for every s, each factor written out. No recursion, no mask."""
    log_rhos, discounts, rewards, values, bootstrap = (inputs[key].numpy() for key in inputs)
    length, columns = rewards.shape
    values = np.vstack([values, bootstrap])
    ratio = np.exp(log_rhos)
    rho, c = np.minimum(clip_rho, ratio), lambda_ * np.minimum(clip_c, ratio)
    vs, advantages = np.zeros((length + 1, columns)), np.zeros((length, columns))
    vs[length] = bootstrap
    for b in range(columns):
        for s in range(length):
            vs[s, b] = values[s, b]
            for t in range(s, length):
                factor = 1.0
                for i in range(s, t):
                    factor *= discounts[i, b] * c[i, b]
                delta = rho[t, b] * (rewards[t, b] + discounts[t, b] * values[t + 1, b] - values[t, b])
                vs[s, b] += factor * delta
        for s in range(length):
            following = lambda_ * vs[s + 1, b] + (1 - lambda_) * values[s + 1, b] if mixed else vs[s + 1, b]
            target = rewards[s, b] + discounts[s, b] * following
            advantages[s, b] = min(clip_pg_rho, ratio[s, b]) * (target - values[s, b])
    return VTrace(torch.from_numpy(vs[:-1]), torch.from_numpy(advantages))


@given(
    seed=st.integers(0, 2**31),
    length=st.integers(1, 9),
    clip_rho=st.sampled_from([0.5, 1.0, 2.0, 1e9]),
    clip_c=st.sampled_from([0.4, 1.0, 1.7]),
    clip_pg_rho=st.sampled_from([0.6, 1.0, 3.0]),
    lambda_=st.sampled_from([0.0, 0.7, 1.0]),
    mixed=st.booleans(),
)
def test_vtrace_is_the_sum_of_the_paper(
    seed: int, length: int, clip_rho: float, clip_c: float, clip_pg_rho: float, lambda_: float, mixed: bool
) -> None:
    inputs = random_inputs(seed, length)
    clips = {"clip_rho": clip_rho, "clip_c": clip_c, "clip_pg_rho": clip_pg_rho, "lambda_": lambda_}
    result, expected = vtrace(**inputs, **clips, mixed=mixed), truth(inputs, **clips, mixed=mixed)
    torch.testing.assert_close(result.vs, expected.vs)
    torch.testing.assert_close(result.pg_advantages, expected.pg_advantages)


@given(seed=st.integers(0, 2**31), length=st.integers(1, 9))
def test_without_a_clip_the_advantages_have_no_ratio(seed: int, length: int) -> None:
    inputs = random_inputs(seed, length)
    clips = {"clip_rho": 1.3, "clip_c": 0.9, "lambda_": 0.95}
    whole, plain = vtrace(**inputs, **clips, clip_pg_rho=1e9), vtrace(**inputs, **clips, clip_pg_rho=None)
    assert torch.equal(whole.vs, plain.vs)
    torch.testing.assert_close(plain.pg_advantages * inputs["log_rhos"].exp(), whole.pg_advantages)


@given(seed=st.integers(0, 2**31), length=st.integers(1, 12), lambda_=st.sampled_from([0.0, 0.3, 0.8, 0.95, 0.99, 1.0]))
def test_on_policy_advantages_are_gae(seed: int, length: int, lambda_: float) -> None:
    """Schulman et al. 2016, equation 16: A_s = sum_k (gamma lambda)^k delta_{s+k}, cut where an episode ends."""
    inputs = random_inputs(seed, length)
    inputs["log_rhos"].zero_()
    discounts, rewards = inputs["discounts"].numpy(), inputs["rewards"].numpy()
    values = torch.cat([inputs["values"], inputs["bootstrap_value"][None]]).numpy()
    expected = np.zeros((length, COLUMNS))
    for s in range(length):
        factor = np.ones(COLUMNS)
        for t in range(s, length):
            expected[s] += factor * (rewards[t] + discounts[t] * values[t + 1] - values[t])
            factor *= discounts[t] * lambda_
    result = vtrace(**inputs, lambda_=lambda_)
    torch.testing.assert_close(result.pg_advantages, torch.from_numpy(expected))
    # The targets of the baseline are A + V, as in GAE.
    torch.testing.assert_close(result.vs, torch.from_numpy(expected + values[:-1]))


def test_with_lambda_1_both_bootstraps_give_the_same_bits() -> None:
    inputs = {key: value.float() for key, value in random_inputs(3, 7).items()}
    mixed, paper = (vtrace(**inputs, **(CLIPS | {"lambda_": 1.0}), mixed=mixed) for mixed in (True, False))
    assert torch.equal(mixed.vs, paper.vs) and torch.equal(mixed.pg_advantages, paper.pg_advantages)
    assert not torch.equal(
        vtrace(**inputs, **CLIPS).pg_advantages, vtrace(**inputs, **CLIPS, mixed=False).pg_advantages
    )


def test_on_policy_is_the_n_step_bellman_target() -> None:
    inputs = random_inputs(0, 6)
    inputs["log_rhos"].zero_()
    result = vtrace(**inputs)
    target = inputs["bootstrap_value"]
    for t in reversed(range(6)):
        target = inputs["rewards"][t] + inputs["discounts"][t] * target
        torch.testing.assert_close(result.vs[t], target)
        torch.testing.assert_close(result.pg_advantages[t], target - inputs["values"][t])


def test_nothing_flows_back_past_a_termination() -> None:
    inputs = random_inputs(0, 6)
    inputs["discounts"][3] = 0
    changed = {key: value.clone() for key, value in inputs.items()}
    for key in ("rewards", "values", "log_rhos"):
        changed[key][4:] += 1
    assert torch.equal(vtrace(**inputs).vs[:4], vtrace(**changed).vs[:4])


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7])
def test_an_unroll_across_the_end_of_an_episode_equals_two_unrolls(terminated: bool, length: int) -> None:
    """NEXT_STEP: the episode ends at step e; step e + 1 has its last observation and is masked; e + 2 starts the next one."""
    for end in range(-1, length):  # -1: the step before the unroll ended the episode
        inputs = random_inputs(end + 5, length)
        inputs["discounts"][:] = 0.9
        if terminated and end >= 0:
            inputs["discounts"][end] = 0
        mask = torch.ones(length, COLUMNS, dtype=torch.bool)
        mask[end + 1 : end + 2] = False
        joint = vtrace(**inputs, mask=mask, **CLIPS)
        values = torch.cat([inputs["values"], inputs["bootstrap_value"][None]])
        for begin, stop in ((0, end + 1), (end + 2, length)):
            if begin >= stop:
                continue
            part = {key: value[begin:stop] for key, value in inputs.items() if key != "bootstrap_value"}
            alone = vtrace(**part, bootstrap_value=values[stop], **CLIPS)
            torch.testing.assert_close(joint.vs[begin:stop], alone.vs)
            torch.testing.assert_close(joint.pg_advantages[begin:stop], alone.pg_advantages)
        torch.testing.assert_close(joint.vs[~mask], inputs["values"][~mask])
        assert not joint.pg_advantages[~mask].any()


def test_a_mask_of_all_true_changes_nothing() -> None:
    inputs = random_inputs(1, 5)
    plain, masked = vtrace(**inputs, **CLIPS), vtrace(**inputs, mask=torch.ones(5, COLUMNS, dtype=torch.bool), **CLIPS)
    assert torch.equal(plain.vs, masked.vs) and torch.equal(plain.pg_advantages, masked.pg_advantages)


def test_targets_and_advantages_have_no_gradient() -> None:
    inputs = random_inputs(2, 4)
    for value in inputs.values():
        value.requires_grad_()
    result = vtrace(**inputs)
    assert not result.vs.requires_grad and not result.pg_advantages.requires_grad
