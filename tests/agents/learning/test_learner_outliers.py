"""Large rewards and batches that are not finite: PopArt ignores a single outlier, and the learner refuses infinite updates."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from small_learners import B, everything, flat, make_batch, make_learner

from agents.learning.learner import Learner
from agents.learning.nonfinite import NonFiniteError
from agents.learning.optimizers import OPTIMIZERS
from agents.learning.popart import SURGE_MEMORY, sigma
from agents.learning.rewards import transform_rewards
from agents.trajectory import Trajectory

# One large reward


def large(batch: Trajectory, column: int, size: float = 1e4) -> Trajectory:
    """A copy with one reward of that size in a column of task 1."""
    changed = {name: array.clone() for name, array in batch.items()}
    changed["task"][:, column] = 1
    changed["mask"][2, column] = True
    changed["reward"][2, column] = size
    return changed


def moments(learner: Learner) -> list[float]:
    return [*learner.objective.popart.mu.tolist(), *learner.objective.popart.nu.tolist()]


@pytest.mark.parametrize("step_size", [3e-4, 0.01])
def test_one_large_reward_does_not_move_the_moments_of_its_task(step_size: float) -> None:
    """Not in later passes or from the replay either."""
    learner = make_learner(reward_clip=0.0, popart_step_size=step_size)
    usual, other = make_batch(learner, 1), make_batch(learner, 2)
    hit = large(usual, B - 1)
    before = learner.objective.popart
    learner.step(hit)
    for num_new in (0, 0):
        assert learner.surges[1] > 10 and learner.surges[0] == learner.surges[2] == 0
        assert learner.objective.popart.mu[1] == before.mu[1] and learner.objective.popart.nu[1] == before.nu[1]
        assert learner.objective.popart.mu[0] != before.mu[0]
        learner.step(hit, num_new=num_new)
    assert learner.objective.popart.updates_since_surge[1] == 0
    # The column returns from the replay, beside new columns.
    learner.step(other)
    before = learner.objective.popart
    assert before.updates_since_surge[1] == 1
    learner.step(hit, num_new=B - 1)
    assert (
        learner.surges[1] > 10
        and learner.objective.popart.nu[1] == before.nu[1]
        and learner.objective.popart.updates_since_surge[1] == 2
    )
    # A second large reward moves the moments.
    learner.step(large(other, 0))
    assert learner.objective.popart.updates_since_surge[1] == 0 and learner.objective.popart.nu[1] > before.nu[1]


def test_repeated_large_rewards_move_sigma_from_their_second_batch_on() -> None:
    learner = make_learner(reward_clip=0.0, popart_step_size=0.01)
    deviations = []
    for seed in range(20):
        batch = make_batch(learner, seed)
        batch["reward"] *= 1e4
        learner.step(batch)
        deviations.append(sigma(learner.objective.popart).max().item())
    assert deviations[0] == 1 and deviations[1] == pytest.approx(2**0.5, rel=0.01) and deviations[-1] > 300


def test_checkpoints_hold_the_last_surge_and_old_ones_load_without_it() -> None:
    learner, other = (make_learner(reward_clip=0.0) for _ in range(2))
    learner.step(large(make_batch(learner, 1), 0))
    state = deepcopy(learner.state_dict())
    other.load_state_dict(deepcopy(state))
    for each in (learner, other):
        each.step(large(make_batch(each, 2), 0))
    assert everything(learner) == everything(other)
    # A refused update does not change it.
    before = everything(learner)
    learner.step(large(make_batch(learner, 3), 0, math.inf))
    assert learner.counters.refused == 1 and everything(learner) == before
    del state["popart"]["calm"]
    other.load_state_dict(state)
    assert other.objective.popart.updates_since_surge.tolist() == [SURGE_MEMORY] * 3


# Not finite


def spoiled(batch: Trajectory, key: str, value: float) -> Trajectory:
    changed = {name: array.clone() for name, array in batch.items()}
    t, b = (int(index) for index in batch["mask"].nonzero()[3])
    changed[key][t, b] = value
    return changed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("key", "value"),
    [("reward", math.inf), ("reward", math.nan), ("behaviour_log_probs", math.nan), ("vector", math.inf)],
)
def test_a_batch_that_is_not_finite_changes_nothing(optimizer: str, key: str, value: float) -> None:
    learner, other = (make_learner(optimizer=optimizer, reward_clip=0.0, popart_step_size=0.1) for _ in range(2))
    for each in (learner, other):
        each.step(make_batch(each, 1))
    before = everything(learner)
    learner.step(spoiled(make_batch(learner, 2), key, value))
    assert everything(learner) == before
    assert (learner.counters.refused, learner.counters.updates) == (1, 1)
    for each in (learner, other):
        each.step(make_batch(each, 3))
    assert everything(learner) == everything(other)
    assert flat(learner).isfinite().all()


def test_too_many_refusals_in_a_row_are_an_error() -> None:
    learner = make_learner(max_refused=3, reward_clip=0.0)
    good = make_batch(learner)
    bad = spoiled(good, "reward", math.inf)
    for batch in (bad, bad, good, bad, bad):
        learner.step(batch)
    assert learner.counters.refused == 4
    before = flat(learner)
    with pytest.raises(NonFiniteError, match=r"3 updates in a row.*learner\.learning_rate"):
        learner.step(bad)
    assert torch.equal(flat(learner), before)


def test_an_infinite_reward_is_accepted_if_it_is_clipped() -> None:
    learner = make_learner(reward_clip=1.0)
    learner.step(spoiled(make_batch(learner), "reward", math.inf))
    assert learner.counters.refused == 0 and flat(learner).isfinite().all()


@pytest.mark.parametrize("kind", ["soft_asymmetric", "soft_asymmetric_paper", "none"])
def test_the_loss_uses_transformed_rewards_and_the_trajectory_keeps_raw_ones(kind: str) -> None:
    learner, plain = make_learner(reward_transform=kind), make_learner(reward_transform="none")
    raw = make_batch(learner)
    raw["reward"] = raw["reward"] * 20
    kept = raw["reward"].clone()
    learner.step(raw)
    torch.testing.assert_close(raw["reward"], kept, rtol=0, atol=0)
    plain.step({**raw, "reward": transform_rewards(kept, kind, 1.0)})
    torch.testing.assert_close(flat(learner), flat(plain), rtol=0, atol=0)
