"""Several learners, each with a shard of every batch, make the updates of one learner with all columns."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from pairwise import pairwise
from torch import Tensor

from agents.learning.learner import Learner
from agents.learning.losses import NORMALIZATIONS, VALUE_LOSSES
from agents.learning.nonfinite import NonFiniteError, steps_by_task
from agents.learning.optimizers import OPTIMIZERS
from agents.setup.builder import build_learner
from agents.trajectory import PER_COLUMN, Trajectory

ENV = fake_env(num_tasks=4)
T, B = 9, 8


class Sums:
    """`reduce` for learners in threads. The arguments are the number of the thread and its tensor."""

    def __init__(self, parties: int) -> None:
        self._handed_in = [torch.zeros(0)] * parties
        self._barrier = threading.Barrier(parties)
        self.calls = 0

    def __call__(self, party: int, tensor: Tensor) -> None:
        self.calls += 1
        self._handed_in[party] = tensor.clone()
        self._barrier.wait(60)
        # In a fixed order, so that all threads get the same bits, as with torch.distributed.
        total = sum(self._handed_in[1:], self._handed_in[0])
        self._barrier.wait(60)
        tensor.copy_(total)


def make_learner(
    reduce: Callable[[Tensor], None] | None = None, *, normalize: bool = False, **options: object
) -> Learner:
    config = fake_config(**({"popart_step_size": 0.1} | options))  # type: ignore[arg-type]
    config.env.normalize_observation = normalize
    if normalize:
        config.learner.reward_transform = "none"
    config.total_frames = 2000
    return build_learner(config, ENV, fake_network(ENV, config), reduce=reduce)


def make_batch(learner: Learner, seed: int) -> Trajectory:
    """Tasks 0 to 2 in the left half, tasks 2 and 3 in the right half, where most steps are masked."""
    batch = fake_batch(ENV, learner.network.core_state_size, T, B, seed)
    rng = np.random.default_rng(seed)
    batch["task"][:, : B // 2] = torch.from_numpy(rng.integers(0, 3, B // 2))
    batch["task"][:, B // 2 :] = torch.from_numpy(rng.integers(2, 4, B - B // 2))
    batch["task"][:, -1] = 3
    few = torch.from_numpy(rng.random((T, B - B // 2)) < 0.3)
    batch["mask"][:, B // 2 :] &= few
    for key in ("action", "last_action"):
        # Task 1 has only 3 actions.
        batch[key] %= 3
    return batch


def columns(batch: Trajectory, part: slice) -> Trajectory:
    return {key: value[part] if key in PER_COLUMN else value[:, part] for key, value in batch.items()}


def step_all(learners: Sequence[Learner], parts: Sequence[Trajectory], num_new: int | None = None) -> list[object]:
    """One step of all learners, in threads. Returns for each its metrics or the NonFiniteError that it raises."""

    def step(learner: Learner, part: Trajectory) -> object:
        try:
            return learner.step(part, num_new=num_new)
        except NonFiniteError as error:
            return error

    with ThreadPoolExecutor(len(learners)) as pool:
        return list(pool.map(step, learners, parts))


def state(learner: Learner) -> dict[str, Tensor]:
    """Parameters, moments of PopArt and of the optimiser."""
    found = {**learner.objective.popart._asdict(), **learner.network.state_dict()}
    for number, kept in learner.optimizer.state_dict()["state"].items():
        found |= {f"{key} of {number}": value for key, value in kept.items()}
    return found


def test_learners_share_the_moments_of_observations_and_a_surge() -> None:
    """The moments of observations include all columns. A large reward in one shard is a surge for every learner."""
    single, reduce = make_learner(normalize=True, popart_step_size=0.01), Sums(2)
    several = [make_learner(partial(reduce, n), normalize=True, popart_step_size=0.01) for n in range(2)]
    for seed in range(7):
        batch = make_batch(single, seed)
        batch["vector"] = batch["vector"] * 100 + 1e4
        if seed in (3, 5):
            batch["reward"][batch["mask"][:, 0].nonzero()[0], 0] = 1e4
        single.step(batch)
        step_all(several, [columns(batch, slice(0, 4)), columns(batch, slice(4, B))])
        assert (max(single.surges) > 10) == (seed in (3, 5)), (seed, single.surges)
        for learner in several:
            assert learner.surges == pytest.approx(single.surges, rel=1e-4)
            torch.testing.assert_close(state(learner), state(several[0]), rtol=0, atol=0)
            torch.testing.assert_close(state(learner), state(single), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "reduction", "cuts", "normalize", "value_loss"),
    pairwise(OPTIMIZERS, ("mean", "sum"), ([4], [3, 5]), ("impala", *NORMALIZATIONS), VALUE_LOSSES),
)
def test_twenty_updates_equal_those_of_one_learner(
    optimizer: str, reduction: str, cuts: list[int], normalize: str, value_loss: str
) -> None:
    options: dict[str, object] = {"optimizer": optimizer, "reduction": reduction, "kl_bound": 0.05}
    options["value_loss"] = value_loss
    if normalize != "impala":
        options |= {"loss": "appo", "normalize_advantage": normalize, "popart_warm": True}
    single, reduce = make_learner(**options), Sums(len(cuts) + 1)
    several = [make_learner(partial(reduce, number), **options) for number in range(len(cuts) + 1)]
    edges = [0, *cuts, B]
    lacking = 0
    for seed in range(20):
        batch = make_batch(single, seed)
        parts = [columns(batch, slice(*edge)) for edge in itertools.pairwise(edges)]
        lacking += any(0 in steps_by_task(part, 4) for part in parts)
        expected = single.step(batch)
        for found in step_all(several, parts):
            assert isinstance(found, dict)
            # Losses are sums of terms with both signs: if these cancel, their rounding errors remain.
            size = max(abs(float(value)) for key, value in expected.items() if key.startswith("loss/"))
            for key, value in expected.items():
                assert float(found[key]) == pytest.approx(float(value), rel=1e-4, abs=1e-5 * size), key
        assert single.steps_by_task == steps_by_task(batch, 4)
        assert {learner.moved_too_far for learner in several} == {single.moved_too_far}
    assert lacking == 20
    assert reduce.calls == 2 * 20 * len(several), "an update makes two sums"
    for learner in several:
        # A move of a histogram's support multiplies the rounding of its new place by the differences of neighbouring logits.
        tolerance = 5e-5 if value_loss == "hl_gauss" else 1e-5
        torch.testing.assert_close(state(learner), state(single), rtol=tolerance, atol=tolerance)
        # Bit for bit: otherwise the learners would drift apart.
        torch.testing.assert_close(state(learner), state(several[0]), rtol=0, atol=0)
        assert learner.counters == single.counters
        assert learner.steps_by_task == single.steps_by_task
    assert single.counters.updates == 20 and single.counters.steps > 500


def test_all_learners_refuse_an_update_if_one_shard_is_not_finite() -> None:
    reduce = Sums(2)
    several = [make_learner(partial(reduce, number), max_refused=2, reward_clip=0.0) for number in range(2)]
    batch = make_batch(several[0], 0)
    parts = [columns(batch, slice(4)), columns(batch, slice(4, B))]
    step_all(several, parts)
    before = {key: value.clone() for key, value in state(several[0]).items()}
    t, b = (int(index) for index in parts[1]["mask"].nonzero()[0])
    parts[1]["reward"][t, b] = math.inf
    assert all(isinstance(found, dict) for found in step_all(several, parts))
    assert all(isinstance(found, NonFiniteError) for found in step_all(several, parts))
    for learner in several:
        torch.testing.assert_close(state(learner), before, rtol=0, atol=0)
        assert (learner.counters.updates, learner.counters.refused) == (1, 2)


def test_new_columns_of_all_learners_are_counted() -> None:
    reduce = Sums(2)
    several = [make_learner(partial(reduce, number)) for number in range(2)]
    batch = make_batch(several[0], 0)
    step_all(several, [columns(batch, slice(4)), columns(batch, slice(4, B))], num_new=3)
    expected = int(batch["mask"][:, [0, 1, 2, 4, 5, 6]].sum())
    assert [learner.counters.steps for learner in several] == [expected] * 2


@pytest.mark.parametrize("call", [1, 2])
def test_a_sum_that_fails_leaves_the_learner_unchanged(call: int) -> None:
    """The leader can then save the last complete update."""
    calls = []

    def reduce(tensor: Tensor) -> None:
        calls.append(tensor)
        if len(calls) == 2 + call:
            raise ConnectionError

    learner = make_learner(reduce)
    learner.step(make_batch(learner, 0))
    before = {key: value.clone() for key, value in state(learner).items()}
    with pytest.raises(ConnectionError):
        learner.step(make_batch(learner, 1))
    torch.testing.assert_close(state(learner), before, rtol=0, atol=0)
    assert learner.counters.updates == 1
