"""The inner loop of training: all updates from one collected batch. The leader, the followers and the tests share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from agents.learning.learner import Learner
from agents.learning.minibatches import iterate_minibatches
from agents.learning.replay import Replay
from agents.trajectory import Trajectory


class Update(NamedTuple):
    """One step of the learner.

    Attributes:
        number: How many updates precede it.
        metrics: Scalars for the log, on the learner's device.
        accepted: False if the update was refused as not finite.
    """

    number: int
    metrics: dict[str, Tensor]
    accepted: bool


def learn(
    learner: Learner,
    replay: Replay,
    trajectory: Trajectory,
    weights_versions: Sequence[int],
    *,
    num_fresh: int,
    num_replayed: int,
    passes: int,
) -> Iterator[Update]:
    """Yields each update from one collected batch after it is made, then adds the batch to the replay.

    Every column is learned from once. Later passes end when the policy has moved too far (`Learner.moved_too_far`).

    Args:
        trajectory: [T+1, B], in host memory.
        weights_versions: The version of the weights that played each of its unrolls (agents/runtime/base.py, Batch).
        num_fresh, num_replayed, passes: See agents/learning/minibatches.py.

    Raises:
        NonFiniteError: Too many updates in a row were refused.
    """
    numbers = []
    minibatches = iterate_minibatches(
        trajectory,
        replay,
        num_fresh=num_fresh,
        num_replayed=num_replayed,
        passes=passes,
        # Follows from the counters, so that a resumed run has the same orders.
        seed=learner.counters.updates,
    )
    for staged in learner.prefetcher(minibatches):
        if staged.num_new == 0 and learner.moved_too_far:
            break
        numbers.append(learner.counters.updates)
        metrics = learner.update(staged)
        # Frees its memory on a GPU before the prefetcher copies another one.
        del staged
        yield Update(numbers[-1], metrics, learner.counters.updates > numbers[-1])
    replay.record_lags(numbers)
    replay.add(trajectory, weights_versions)
