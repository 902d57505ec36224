"""The seed tree: run -> split -> task -> slot -> episode (-> attempt).

Every episode's seed is a pure function of its place in the tree, so a run can be resumed at any episode and an episode can be replayed
alone. Seeds are 31-bit non-negative integers, which every engine accepts. The lowest bit is that of the split, so training and
evaluation seeds are disjoint. Runs that tune a grid (ablation/grid/tuning.py) have roots of their own.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from envs.spec import Split


def episode_seed(run_seed: int, split: Split, task: str, slot: int, episode: int, attempt: int = 0) -> int:
    """Seed of one episode, in [0, 2**31).

    The task enters by its name, so the seeds of a task do not change when other tasks join the list. `attempt` counts the seeds whose
    episode had a context of the other group (envs/holdout.py).
    """
    key = (int(split), zlib.crc32(task.encode()), slot, episode, *([attempt] if attempt else []))
    word = int(np.random.SeedSequence(run_seed, spawn_key=key).generate_state(1, np.uint32)[0])
    return (word >> 2 << 1) | (int(split) & 1)


FIRST_TUNING_SEED = 10**9
MOST_TUNING_SEEDS = 1000
LARGEST_TUNED_SEED = 10**6 - 1
"""Tuning has the roots from FIRST_TUNING_SEED on, MOST_TUNING_SEEDS for each seed up to LARGEST_TUNED_SEED."""


def tuning_seed(seed: int, index: int = 0) -> int:
    """Root of the seeds of tuning run `index` for the run of `seed`, or of the tuning evaluation for the evaluation of `seed`.

    Different arguments within the limits have different roots, none of which is within the limits of `seed`. All are below 2**31.
    """
    if not (0 <= seed <= LARGEST_TUNED_SEED and 0 <= index < MOST_TUNING_SEEDS):
        raise ValueError(f"seed {seed} has no tuning seed {index}")
    return FIRST_TUNING_SEED + MOST_TUNING_SEEDS * seed + index


def stream_key(run_seed: int, split: Split, task: str, slot: int) -> int:
    """Key in [0, 2**64) of a slot's random stream, for environments that compute random numbers from a counter."""
    key = (int(split), zlib.crc32(task.encode()), slot)
    return int(np.random.SeedSequence(run_seed, spawn_key=key).generate_state(1, np.uint64)[0])


def uniform(keys: NDArray[np.uint64], counters: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The numbers at positions `counters` of the streams `keys` (broadcast together), uniform on [-1, 1).

    A pure function that gives direct access to any position of any stream. It is SplitMix64 (Steele, Lea and Flood, 2014) addressed by
    position.
    """
    word = keys + (counters + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word = word ^ (word >> np.uint64(31))
    # The top 24 bits are exactly what a float32 holds.
    unit: NDArray[np.float32] = (word >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return unit
