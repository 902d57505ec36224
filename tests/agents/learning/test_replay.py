"""The replay: held and drawn columns, minibatches, and V-trace's correction of replayed columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network

from agents.learning.learner import Learner
from agents.learning.minibatches import iterate_minibatches
from agents.learning.replay import Replay, replay_bytes
from agents.setup.builder import build_learner
from agents.trajectory import EPISODE_STATISTICS, PER_COLUMN, Trajectory, trajectory_spec

ENV = fake_env()
T, B, S = 5, 6, 10


def make_replay(capacity: int, seed: tuple[int, int] = (0, 0)) -> Replay:
    return Replay(trajectory_spec(ENV, T, capacity, S), seed=seed)


def numbered(first: int, columns: int = B) -> Trajectory:
    """A batch whose columns carry the numbers `first`, `first` + 1, ... as their rewards."""
    batch = fake_batch(ENV, S, T, columns, seed=first)
    batch["reward"][:] = torch.arange(first, first + columns)
    return batch


def numbers(trajectory: Trajectory) -> list[int]:
    assert (trajectory["reward"] == trajectory["reward"][0]).all(), "columns mix"
    return trajectory["reward"][0].int().tolist()


def held(replay: Replay) -> list[int]:
    return sorted(numbers(replay.sample(len(replay)))) if len(replay) else []


def column(trajectory: Trajectory, number: int) -> Trajectory:
    kept = {key: value for key, value in trajectory.items() if key not in EPISODE_STATISTICS}
    return {key: value[number] if key in PER_COLUMN else value[:, number] for key, value in kept.items()}


# Held columns


@pytest.mark.parametrize("capacity", [1, 4, 6, 7, 12, 15, 100])
def test_the_newest_columns_are_held(capacity: int) -> None:
    replay = make_replay(capacity)
    assert len(replay) == 0
    for end in range(B, 8 * B + 1, B):
        replay.add(numbered(end - B), [0])
        assert held(replay) == list(range(max(0, end - capacity), end))
    assert len(replay) == replay.capacity == capacity or capacity == 100


def test_a_replay_of_size_0_holds_nothing() -> None:
    replay = make_replay(0)
    replay.add(numbered(0), [0])
    assert len(replay) == 0 and replay.row(3) == {}


def test_columns_are_copied() -> None:
    """All arrays of a drawn column come from one column, and later writes to the batch do not change it."""
    replay, batches = make_replay(8), [numbered(0), numbered(B)]
    originals = [column(batch, number) for batch in batches for number in range(B)]
    originals = [{key: value.clone() for key, value in original.items()} for original in originals]
    for batch in batches:
        replay.add(batch, [0])
        for value in batch.values():
            value.zero_()
    drawn = replay.sample(8)
    assert not set(EPISODE_STATISTICS) & drawn.keys()
    for place, number in enumerate(numbers(drawn)):
        for key, value in column(drawn, place).items():
            assert torch.equal(value, originals[number][key]), key
            assert value.dtype == originals[number][key].dtype
    drawn["reward"].fill_(-1)
    assert -1 not in held(replay)


def test_age_counts_updates_since_the_weights_that_played() -> None:
    replay = make_replay(8)
    replay.add(numbered(0), [1, 3])
    assert replay.row(10) == {"replay_columns": 6, "replay_age_mean": 8.0, "replay_age_max": 9.0}
    replay.add(numbered(B), [5, 7, 9])
    # The replay holds columns 4 to 11: two of each of the versions 3, 5, 7 and 9.
    assert replay.row(10) == {"replay_columns": 8, "replay_age_mean": 4.0, "replay_age_max": 7.0}


def test_lag_counts_updates_between_acting_and_learning() -> None:
    replay = make_replay(8)
    for number in range(3):
        batch = numbered(number * B)
        parts = list(iterate_minibatches(batch, replay, num_fresh=3, num_replayed=5, passes=2))
        drawn = [[int(each) for each in numbers(part)[3:]] for part, _ in parts]
        before = [10 * number + index for index in range(4)]
        replay.record_lags(before)
        row = replay.row(99)
        if number == 0:
            assert not drawn[0] and "replay_lag_max" not in row
        else:
            # Batch c // B brought column c, played by weights of version 2 (c // B).
            lags = [made - 2 * (column // B) for made, columns in zip(before, drawn, strict=True) for column in columns]
            assert (row["replay_lag_min"], row["replay_lag_max"]) == (min(lags), max(lags))
            assert row["replay_lag_mean"] == pytest.approx(sum(lags) / len(lags))
            assert "replay_lag_max" not in replay.row(99), "counted twice"
        replay.add(batch, [2 * number])


def test_versions_of_draws_without_recorded_lags_are_dropped() -> None:
    replay = make_replay(8)
    for _ in range(50):
        replay.add(numbered(0), [0])
        replay.sample(3)
    assert len(replay._drawn_versions) == 1


# Drawn columns


def test_draws_are_uniform_and_without_replacement() -> None:
    replay = make_replay(8)
    replay.add(numbered(0), [0])
    replay.add(numbered(B), [0])
    drawn = [numbers(replay.sample(3)) for _ in range(800)]
    assert all(len(set(each)) == 3 for each in drawn)
    counts = np.bincount(np.array(drawn).ravel(), minlength=12)
    assert (counts[:4] == 0).all()
    # 300 expected, standard deviation below 14.
    assert (abs(counts[4:] - 300) < 70).all()


def test_drawing_more_columns_than_held_raises() -> None:
    replay = make_replay(8)
    replay.add(numbered(0), [0])
    with pytest.raises(ValueError, match="larger"):
        replay.sample(B + 1)


def test_the_seed_determines_the_draws() -> None:
    def draws(seed: tuple[int, int]) -> list[list[int]]:
        replay = make_replay(50, seed)
        replay.add(numbered(0, 50), [0])
        return [numbers(replay.sample(5)) for _ in range(5)]

    assert draws((1, 2)) == draws((1, 2))
    assert len({str(draws(seed)) for seed in ((1, 2), (2, 2), (1, 3), (2, 1))}) == 4
    # The global generators of torch and NumPy have no influence.
    expected = draws((1, 2))
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert draws((1, 2)) == expected


# Minibatches


def test_without_replay_minibatches_are_passes_over_the_batch() -> None:
    batch = numbered(0)
    parts = list(iterate_minibatches(batch, make_replay(0), num_fresh=2, num_replayed=0, passes=2))
    assert [(numbers(part), new) for part, new in parts] == [
        *(([0, 1], 2), ([2, 3], 2), ([4, 5], 2)),
        *((columns, 0) for columns in (numbers(part) for part, _ in parts[3:])),
    ]
    # A later pass has the same columns in another order, which the seed determines.
    orders = {
        seed: [
            column
            for part, _ in list(
                iterate_minibatches(batch, make_replay(0), num_fresh=2, num_replayed=0, passes=3, seed=seed)
            )[3:]
            for column in numbers(part)
        ]
        for seed in (0, 0, 1)
    }
    assert all(sorted(order[:B]) == sorted(order[B:]) == list(range(B)) for order in orders.values())
    assert orders[0] != orders[1] and orders[0][:B] != orders[0][B:]
    assert orders[0][:B] == [column for part, _ in parts[3:] for column in numbers(part)]
    assert next(iterate_minibatches(batch, make_replay(0), num_fresh=B, num_replayed=0, passes=1))[0] is batch


def test_fresh_columns_come_first_and_each_minibatch_has_a_separate_draw() -> None:
    replay = make_replay(100)
    replay.add(numbered(100, 50), [0])
    parts = list(iterate_minibatches(numbered(0), replay, num_fresh=3, num_replayed=5, passes=2))
    assert [new for _, new in parts] == [3, 3, 0, 0]
    assert [numbers(part)[:3] for part, _ in parts[:2]] == [[0, 1, 2], [3, 4, 5]]
    assert sorted(number for part, _ in parts[2:] for number in numbers(part)[:3]) == list(range(B))
    drawn = [numbers(part)[3:] for part, _ in parts]
    assert all(len(set(each)) == 5 and min(each) >= 100 for each in drawn)
    assert len({str(each) for each in drawn}) == 4


def test_minibatches_are_fresh_until_the_replay_holds_enough() -> None:
    replay = make_replay(100)
    sizes = []
    for number in range(3):
        batch = numbered(number * B)
        sizes += [
            part["action"].shape[1]
            for part, _ in iterate_minibatches(batch, replay, num_fresh=B, num_replayed=8, passes=1)
        ]
        replay.add(batch, [0])
    assert sizes == [B, B, B + 8]


# Learning from it


def make_learner(**options: object) -> Learner:
    config = fake_config(**options)  # type: ignore[arg-type]
    config.total_frames = 10_000
    return build_learner(config, ENV, fake_network(ENV, config))


def mixed(learner: Learner, old: Trajectory, new: Trajectory) -> Trajectory:
    """A minibatch of all columns of `new`, and all of `old` from the replay."""
    assert learner.network.core_state_size == S
    replay = make_replay(B)
    replay.add(old, [0])
    ((part, _),) = iterate_minibatches(new, replay, num_fresh=B, num_replayed=B, passes=1)
    return part


def batches() -> tuple[Trajectory, Trajectory]:
    return fake_batch(ENV, S, T, B, seed=1), fake_batch(ENV, S, T, B, seed=2)


def test_only_steps_of_new_columns_are_counted() -> None:
    learner = make_learner()
    old, new = batches()
    part = mixed(learner, old, new)
    learner.step(part, num_new=B)
    assert learner.counters.steps == int(new["mask"].sum()) < int(part["mask"].sum())
    learner.step(part, num_new=0)
    assert learner.counters.steps == int(new["mask"].sum())
    assert learner.counters.updates == 2


def test_replayed_columns_add_their_gradient() -> None:
    gradients = []
    old, new = batches()
    for chosen in ("new", "old", "both"):
        learner = make_learner(reduction="sum", popart_step_size=0.0, max_gradient_norm=1e9)
        learner.step({"new": new, "old": old, "both": mixed(learner, old, new)}[chosen])
        gradients.append([parameter.grad.clone() for parameter in learner.network.parameters()])  # type: ignore[union-attr]
    for first, second, both in zip(*gradients, strict=True):
        torch.testing.assert_close(first + second, both, rtol=1e-4, atol=1e-4)


def test_actions_that_the_present_policy_never_takes_have_no_influence() -> None:
    """V-trace uses the stored log-probabilities: if they are far larger, every importance weight is 0."""
    metrics = []
    old, new = batches()
    for shift in (None, 0.0, 60.0):
        learner = make_learner(reduction="sum", popart_step_size=0.0)
        stored = old | {"behaviour_log_probs": old["behaviour_log_probs"] + (shift or 0.0)}
        step = learner.step(new if shift is None else mixed(learner, stored, new))
        metrics.append({key: float(step[key]) for key in ("loss/policy", "loss/baseline")})
    alone, ordinary, impossible = metrics
    for key, value in alone.items():
        assert impossible[key] == pytest.approx(value, rel=1e-4), key
        assert ordinary[key] != pytest.approx(value, rel=1e-2), key


# Memory


def test_replay_bytes_is_the_size_of_the_arrays() -> None:
    spec = trajectory_spec(ENV, T, 7, S)
    columns = [column(numbered(0), 0)] * 7
    assert replay_bytes(spec) == sum(v.numel() * v.element_size() for each in columns for v in each.values())
