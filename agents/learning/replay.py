"""A bounded replay of trajectories, and the updates that are made of fresh and replayed columns.

As in the IMPALA paper (Espeholt et al. 2018, section 5.2.2): a part of each update's columns is drawn uniformly from the newest ones
that the actors have sent, and V-trace corrects for the policy that has changed since, by the log-probabilities that were stored with
the actions. What else is stored is as old: the core's state before a column is the one that the actor had, not the one that the present
weights would have led to, as in that paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from agents.runtime.base import allocate, concatenate
from agents.trajectory import EPISODE_STATISTICS, PER_COLUMN, Trajectory, num_bytes, split_columns
from envs.spec import ArraySpec


class Replay:
    """The newest columns that were added, in preallocated memory; a full replay overwrites its oldest.

    Statistics of episodes are not kept, so that what is drawn cannot be counted a second time.

    Args:
        spec: of a trajectory with as many columns as are held; of 0 columns for a replay that holds nothing.
        seed: names the stream of what is drawn (run seed, updates at which this process began, rank of the learner unless it is the
            first). It is not saved: a replay is empty after a resume, and refills.
    """

    def __init__(self, spec: Mapping[str, ArraySpec], *, seed: tuple[int, ...]) -> None:
        self._columns = allocate(_kept(spec))
        self.capacity = self._columns["action"].shape[1]
        self._versions = np.zeros(self.capacity, np.int64)
        self._added = 0
        self._drawn: list[NDArray[np.int64]] = []
        self._lags: list[NDArray[np.int64]] = []
        self._generator = np.random.default_rng(np.random.SeedSequence(seed[0], spawn_key=seed[1:]))

    def __len__(self) -> int:
        """Columns held."""
        return min(self._added, self.capacity)

    def add(self, trajectory: Trajectory, weights_versions: Sequence[int]) -> None:
        """Copies the columns of [T+1, B] in; `weights_versions` has one entry for each of its unrolls (runtime/base.py, Batch)."""
        self._drawn.clear()
        total = trajectory["action"].shape[1]
        count = min(total, self.capacity)
        if not count:
            return
        places = (self._added + np.arange(count)) % self.capacity
        index = torch.from_numpy(places)
        for key, held in self._columns.items():
            if key in PER_COLUMN:
                held[index] = trajectory[key][total - count :]
            else:
                held[:, index] = trajectory[key][:, total - count :]
        self._versions[places] = np.repeat(weights_versions, total // len(weights_versions))[total - count :]
        self._added += count

    def sample(self, columns: int) -> Trajectory:
        """Copies of that many different columns out of those held, each as likely as any other: [T+1, columns]."""
        places = self._generator.choice(len(self), columns, replace=False)
        self._drawn.append(self._versions[places])
        drawn = torch.from_numpy(places)
        return {key: held.index_select(0 if key in PER_COLUMN else 1, drawn) for key, held in self._columns.items()}

    def learned(self, before: Sequence[int]) -> None:
        """Takes in what was learned from the columns drawn since the last `add`: `before` has for each update the number of updates
        before it.
        """
        # Either every update of a batch has replayed columns or none has.
        self._lags += [made - versions for made, versions in zip(before, self._drawn, strict=False)]
        self._drawn.clear()

    def row(self, updates: int) -> dict[str, float]:
        """For metrics.jsonl: columns held, and their age, in updates made since the weights that they were played with.

        Of the updates since the last row also the lag of what was drawn: updates between the weights that acted and those that the
        update changes.
        """
        if not len(self):
            return {}
        ages = updates - self._versions[: len(self)]
        row = {
            "replay_columns": len(self),
            "replay_age_mean": float(ages.mean()),
            "replay_age_max": float(ages.max()),
        }
        if self._lags:
            lags = np.concatenate(self._lags)
            row |= {f"replay_lag_{name}": float(getattr(lags, name)()) for name in ("min", "mean", "max")}
            self._lags.clear()
        return row


def iterate_minibatches(
    trajectory: Trajectory, replay: Replay, *, fresh: int, replayed: int, passes: int
) -> Iterator[tuple[Trajectory, int]]:
    """Cuts a collected batch into the parts of its updates.

    Each of the `passes` goes over all columns in parts of `fresh`, and every part is joined with `replayed` columns drawn anew. Until
    the replay holds that many, the parts are the fresh columns alone.

    Yields:
        The part [T+1, fresh + replayed], fresh columns first, and how many of its columns have not been learned from before: `fresh` in
        the first pass, 0 in any other.
    """
    for number in range(passes):
        for part in split_columns(trajectory, fresh):
            new = part["action"].shape[1] if number == 0 else 0
            if replayed and len(replay) >= replayed:
                old = replay.sample(replayed)
                yield concatenate([{key: part[key] for key in old}, old]), new
            else:
                yield part, new


def replay_bytes(spec: Mapping[str, ArraySpec]) -> int:
    """Memory of a replay of that spec."""
    return num_bytes(_kept(spec))


def _kept(spec: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    return {key: array for key, array in spec.items() if key not in EPISODE_STATISTICS}
