"""Running moments of observations equal NumPy's for any magnitude, and count valid steps only."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fakes import fake_batch, fake_config, fake_env
from hypothesis import given
from hypothesis import strategies as st

from agents.acting.policy import Policy
from agents.learning.learner import Learner
from agents.network.normalizer import CLIP, ObservationNormalizer
from agents.runtime.processes.buffers import SharedWeights
from agents.setup.builder import build_learner, build_network
from agents.trajectory import OBSERVED, Trajectory
from system.errors import InputError

TASKS, LENGTH, COLUMNS, SIZE = 3, 6, 5, 4
ENV = fake_env()


def fed(batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> ObservationNormalizer:
    normalizer = ObservationNormalizer(TASKS, batches[0][0].shape[-1])
    for batch in batches:
        normalizer.take(normalizer.updated(normalizer.sums(*(torch.from_numpy(array) for array in batch))))
    return normalizer


@given(
    seed=st.integers(0, 2**31),
    offset=st.sampled_from([0.0, 5e4, -1e6]),
    scale=st.sampled_from([1e-3, 1.0, 1e5]),
    kept=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_moments_are_those_of_all_valid_steps(seed: int, offset: float, scale: float, kept: float) -> None:
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(4):
        vector = (offset + scale * rng.normal(size=(LENGTH, COLUMNS, SIZE))).astype(np.float32)
        mask = rng.random((LENGTH, COLUMNS)) < kept
        vector[~mask] = np.nan
        batches.append((vector, rng.integers(0, TASKS - 1, (LENGTH, COLUMNS)), mask))
    normalizer = fed(batches)
    for task in range(TASKS):
        seen = np.concatenate([vector[mask & (ids == task)] for vector, ids, mask in batches]).astype(np.float64)
        assert float(normalizer.count[task]) == len(seen)
        if len(seen):
            np.testing.assert_allclose(normalizer.mean[task], seen.mean(axis=0), rtol=1e-12, atol=1e-12 * scale)
            least = 1e-12 * offset**2
            np.testing.assert_allclose(normalizer.variance[task], seen.var(axis=0), rtol=1e-4, atol=least)
        else:
            assert (normalizer.mean[task] == 0).all() and (normalizer.variance[task] == 1).all()


@pytest.mark.parametrize(("low", "high"), [(0, 1e5), (1e6 - 1, 1e6 + 1), (-3e-6, 3e-6)])
def test_normalised_features_have_deviation_1(low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    vector = rng.uniform(low, high, (400, COLUMNS, SIZE)).astype(np.float32)
    task, mask = np.zeros((400, COLUMNS), np.int32), np.ones((400, COLUMNS), bool)
    normalizer = fed([(part, task[:50], mask[:50]) for part in np.split(vector, 8)])
    shown = normalizer(torch.from_numpy(vector[0]), torch.zeros(COLUMNS, dtype=torch.int32))
    assert shown.dtype == torch.float32
    everything = normalizer(torch.from_numpy(vector).flatten(0, 1), torch.zeros(400 * COLUMNS, dtype=torch.int32))
    torch.testing.assert_close(everything.mean(0), torch.zeros(SIZE), rtol=0, atol=0.08)
    torch.testing.assert_close(everything.std(0), torch.ones(SIZE), rtol=0.02, atol=0)


def test_a_constant_becomes_0_and_small_changes_are_clipped() -> None:
    constants = np.array([0, 1, -1e6, 12345.678], np.float32)
    vector = np.tile(constants, (LENGTH, COLUMNS, 1))
    task, mask = np.zeros((LENGTH, COLUMNS), np.int32), np.ones((LENGTH, COLUMNS), bool)
    normalizer = fed([(vector, task, mask)] * 50)
    ids = torch.zeros(1, dtype=torch.int32)
    assert (normalizer(torch.from_numpy(constants[None]), ids) == 0).all()
    assert normalizer(torch.from_numpy(constants[None] + 1), ids).abs().max() <= CLIP


def test_before_a_tasks_first_step_its_numbers_are_only_clipped() -> None:
    normalizer = ObservationNormalizer(TASKS, 3)
    shown = normalizer(torch.tensor([[0.5, -3.0, 1e5]]), torch.tensor([1]))
    assert shown.tolist() == [[0.5, -3.0, CLIP]]


# In an agent


def make_learner(seed: int = 0, **options: object) -> Learner:
    config = fake_config(**options)  # type: ignore[arg-type]
    config.env.normalize_observation = True
    torch.manual_seed(seed)
    return build_learner(config, ENV, build_network(config, ENV))


def make_batch(learner: Learner, seed: int = 0) -> Trajectory:
    batch = fake_batch(ENV, learner.network.core_state_size, LENGTH, COLUMNS, seed)
    batch["vector"] = batch["vector"] * 100 + 1e4
    return batch


def test_the_learner_takes_in_the_fresh_valid_steps_after_it_has_learned_from_them() -> None:
    learner = make_learner()
    normalizer = learner.network.normalizer
    assert normalizer is not None
    batch = make_batch(learner)
    before = copy.deepcopy(normalizer)
    learner.step(batch, num_new=0)
    assert all(torch.equal(one, two) for one, two in zip(normalizer.parameters(), before.parameters(), strict=True))
    learner.step(batch, num_new=3)
    mask, task = batch["mask"][:, :3], batch["task"][:-1, :3]
    for number in range(len(ENV.tasks)):
        seen = batch["vector"][:-1, :3][mask & (task == number)].double()
        assert int(normalizer.count[number]) == len(seen)
        if len(seen):
            torch.testing.assert_close(normalizer.mean[number].detach(), seen.mean(0))


def test_a_refused_update_leaves_the_moments_unchanged() -> None:
    learner = make_learner()
    learner.step(make_batch(learner))
    before = copy.deepcopy(learner.network.state_dict())
    for key, value in (("reward", float("nan")), ("vector", float("inf"))):
        batch = make_batch(learner, 1)
        batch["mask"][2] = True
        batch[key][2] = value
        learner.step(batch)
        torch.testing.assert_close(learner.network.state_dict(), before, rtol=0, atol=0)
    assert learner.counters.refused == 2


def test_moments_are_not_trained_and_not_counted() -> None:
    learner, plain = make_learner(), build_network(fake_config(), ENV)
    assert learner.network.num_parameters == plain.num_parameters
    learner.step(make_batch(learner))
    assert all(parameter.requires_grad for parameter in learner.optimizer.state)


def test_moments_travel_with_weights_and_an_actor_computes_the_same(tmp_path: object) -> None:
    """In single precision through shared memory, and next to an acting copy in bf16."""
    learner, other = make_learner(), make_learner(1).network
    for seed in range(5):
        learner.step(make_batch(learner, seed))
    weights = SharedWeights([parameter.shape for parameter in learner.network.parameters()])
    weights.publish(learner.network, 1)
    weights.read(other)
    batch = make_batch(learner, 9)
    own, theirs = learner.network.normalizer, other.normalizer
    assert own is not None and theirs is not None
    vector, task = batch["vector"][0], batch["task"][0]
    assert torch.equal(own(vector, task), theirs(vector, task))
    assert own(vector, task).abs().max() < 5
    policies = [
        Policy(network, COLUMNS, autocast=autocast)
        for network, autocast in ((learner.network, None), (other, torch.bfloat16))
    ]
    for policy in policies:
        policy.weights_changed()
        policy.network.eval()
    inputs = {key: batch[key][0] for key in OBSERVED if key in batch}
    one, two = (policy.distribution(inputs) for policy in policies)
    torch.testing.assert_close(one, two, rtol=0, atol=0.05)


def test_normalisation_without_a_vector_is_refused() -> None:
    config = fake_config(core="lstm")
    config.env.normalize_observation = True
    with pytest.raises(InputError, match=r"^env.normalize_observation=true needs a vector .*\.$"):
        build_network(config, fake_env(image=(5, 5, 2), kind="symbolic"))
