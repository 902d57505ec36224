"""The minibatches of a collected batch: several passes over its columns, with replayed columns added to each minibatch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from agents.learning.replay import Replay
from agents.trajectory import PER_COLUMN, Trajectory, concatenate


class Minibatch(NamedTuple):
    """The columns of one update.

    Attributes:
        trajectory: [T+1, B]. Fresh columns, from the collected batch, come before replayed ones.
        num_new: The first `num_new` columns are new: no update has learned from them. All fresh ones in the first pass, 0 in later passes.
    """

    trajectory: Trajectory
    num_new: int


def iterate_minibatches(
    trajectory: Trajectory,
    replay: Replay,
    *,
    num_fresh: int,
    num_replayed: int,
    passes: int,
    seed: int = 0,
) -> Iterator[Minibatch]:
    """Yields the minibatches of `passes` over a collected batch [T+1, B]. Each has `num_fresh` of its columns.

    Each also has `num_replayed` columns from a separate draw, unless the replay holds fewer. From the second pass on, the columns are in
    a new random order that follows from `seed`.
    """
    generator = np.random.default_rng(seed)
    for number in range(passes):
        if number and num_fresh < trajectory["action"].shape[1]:
            trajectory = shuffle_columns(trajectory, generator)
        for fresh in split_columns(trajectory, num_fresh):
            num_new = fresh["action"].shape[1] if number == 0 else 0
            if num_replayed and len(replay) >= num_replayed:
                drawn = replay.sample(num_replayed)
                # The replay holds no statistics of episodes.
                yield Minibatch(concatenate([{key: fresh[key] for key in drawn}, drawn]), num_new)
            else:
                yield Minibatch(fresh, num_new)


def shuffle_columns(trajectory: Trajectory, generator: np.random.Generator) -> Trajectory:
    """A copy of [T+1, B] with its columns in random order."""
    order = torch.from_numpy(generator.permutation(trajectory["action"].shape[1]))
    return {key: value.index_select(0 if key in PER_COLUMN else 1, order) for key, value in trajectory.items()}


def split_columns(trajectory: Trajectory, columns: int) -> Iterator[Trajectory]:
    """Splits [T+1, B] into views of `columns` columns each. B must be a multiple of `columns`, or smaller."""
    total = trajectory["action"].shape[1]
    if columns >= total:
        yield trajectory
        return
    for first in range(0, total, columns):
        part = slice(first, first + columns)
        yield {key: value[part] if key in PER_COLUMN else value[:, part] for key, value in trajectory.items()}
