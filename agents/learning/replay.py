"""A bounded replay of trajectories (Espeholt et al. 2018, section 5.2.2).

Each update draws a part of its columns uniformly from the newest ones that the actors have sent. The policy has changed since then;
V-trace corrects for that with the stored log-probabilities of the actions. As in the paper, the stored core state is the actor's, not
the one that the present weights would have produced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from agents.trajectory import EPISODE_STATISTICS, PER_COLUMN, Trajectory, allocate, num_bytes
from envs.spec import ArraySpec


class Replay:
    """The newest columns, in preallocated memory. When it is full, new columns overwrite the oldest.

    Statistics of episodes are not stored, so that no episode counts twice.

    Args:
        spec: Of a trajectory with as many columns as the replay can hold, possibly 0.
        seed: Of the draws: run seed, updates at the start of this process, and the rank of a follower. The generator's state is not
            saved: after a resume the replay is empty and refills.

    Attributes:
        capacity: Most columns that it holds.
    """

    def __init__(self, spec: Mapping[str, ArraySpec], *, seed: tuple[int, ...]) -> None:
        self._arrays = allocate(_without_statistics(spec))
        self.capacity = self._arrays["action"].shape[1]
        self._versions = np.zeros(self.capacity, np.int64)
        self._num_added = 0
        self._drawn_versions: list[NDArray[np.int64]] = []
        self._lags: list[NDArray[np.int64]] = []
        self._generator = np.random.default_rng(np.random.SeedSequence(seed[0], spawn_key=seed[1:]))

    def __len__(self) -> int:
        """Columns held."""
        return min(self._num_added, self.capacity)

    def add(self, trajectory: Trajectory, weights_versions: Sequence[int]) -> None:
        """Copies the last columns of [T+1, B] into the replay, as many as fit.

        Args:
            weights_versions: The version of the weights that played each unroll (agents/runtime/base.py, Batch).
        """
        self._drawn_versions.clear()
        total = trajectory["action"].shape[1]
        count = min(total, self.capacity)
        if not count:
            return
        # A ring buffer: the next column after the last one is the first.
        columns = (self._num_added + np.arange(count)) % self.capacity
        index = torch.from_numpy(columns)
        for key, array in self._arrays.items():
            if key in PER_COLUMN:
                array[index] = trajectory[key][total - count :]
            else:
                array[:, index] = trajectory[key][:, total - count :]
        self._versions[columns] = np.repeat(weights_versions, total // len(weights_versions))[total - count :]
        self._num_added += count

    def sample(self, count: int) -> Trajectory:
        """Copies of `count` columns, [T+1, count], drawn uniformly without replacement.

        Raises:
            ValueError: The replay holds fewer.
        """
        columns = self._generator.choice(len(self), count, replace=False)
        self._drawn_versions.append(self._versions[columns])
        index = torch.from_numpy(columns)
        return {key: array.index_select(0 if key in PER_COLUMN else 1, index) for key, array in self._arrays.items()}

    def record_lags(self, update_numbers: Sequence[int]) -> None:
        """Records the policy lag of the columns drawn since the last `add`, for `row`.

        Args:
            update_numbers: For each update since then, how many updates precede it.
        """
        # Either each of these updates made one draw, or none did because the replay held too few columns.
        pairs = zip(update_numbers, self._drawn_versions, strict=False)
        self._lags += [number - versions for number, versions in pairs]
        self._drawn_versions.clear()

    def row(self, updates: int) -> dict[str, float]:
        """For metrics.jsonl: number of columns held, their age, and the lag of the columns drawn since the last row.

        Age and lag count updates since the weights that played a column: up to now (`updates`), or up to the update that drew it.
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


def replay_bytes(spec: Mapping[str, ArraySpec]) -> int:
    """Memory of a replay of that spec, in bytes."""
    return num_bytes(_without_statistics(spec))


def _without_statistics(spec: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
    return {key: array for key, array in spec.items() if key not in EPISODE_STATISTICS}
