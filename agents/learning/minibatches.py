"""The minibatches of a collected batch: passes over its columns, each minibatch joined with columns of the replay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agents.learning.replay import Replay
from agents.trajectory import PER_COLUMN, Trajectory, concatenate


class Minibatch(NamedTuple):
    """What one update learns from.

    Attributes:
        trajectory: [T+1, B], fresh columns before replayed ones.
        num_new: columns, from the first on, that no update has learned from before: all fresh ones in the first pass, 0 in later ones.
    """

    trajectory: Trajectory
    num_new: int


def iterate_minibatches(
    trajectory: Trajectory, replay: Replay, *, num_fresh: int, num_replayed: int, passes: int
) -> Iterator[Minibatch]:
    """Yields the minibatches of `passes` over a collected batch [T+1, B], with `num_fresh` of its columns each.

    Each also gets `num_replayed` columns that are drawn for it alone, once the replay holds that many.
    """
    for number in range(passes):
        for fresh in split_columns(trajectory, num_fresh):
            num_new = fresh["action"].shape[1] if number == 0 else 0
            if num_replayed and len(replay) >= num_replayed:
                drawn = replay.sample(num_replayed)
                # The replay keeps no statistics of episodes.
                yield Minibatch(concatenate([{key: fresh[key] for key in drawn}, drawn]), num_new)
            else:
                yield Minibatch(fresh, num_new)


def split_columns(trajectory: Trajectory, columns: int) -> Iterator[Trajectory]:
    """Splits [T+1, B] into parts of `columns` columns each, of which B is a multiple. The parts are views."""
    total = trajectory["action"].shape[1]
    if columns >= total:
        yield trajectory
        return
    for first in range(0, total, columns):
        part = slice(first, first + columns)
        yield {key: value[part] if key in PER_COLUMN else value[:, part] for key, value in trajectory.items()}
