from __future__ import annotations

import numpy as np
import pytest

from envs.seeding import LARGEST_TUNED_SEED, MOST_TUNING_SEEDS, episode_seed, stream_key, tuning_seed, uniform
from envs.spec import Split


def test_training_and_evaluation_share_no_seed() -> None:
    seeds = {
        split: {
            episode_seed(run, split, task, slot, episode)
            for run in range(3)
            for task in ("A", "B")
            for slot in range(10)
            for episode in range(10)
        }
        for split in Split
    }
    assert not seeds[Split.TRAIN] & seeds[Split.EVALUATION]
    assert all(len(values) == 600 and min(values) >= 0 and max(values) < 2**31 for values in seeds.values())


def test_uniform_is_splitmix64() -> None:
    """The first outputs of the published generator started at 1234567, by their top 24 bits."""
    words = (6457827717110365317, 3203168211198807973, 9817491932198370423)
    expected = [(word >> 40) * 2.0**-23 - 1 for word in words]
    values = uniform(np.array([1234567], np.uint64), np.arange(3, dtype=np.uint64))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.array(expected, np.float32))


def test_streams_are_uniform_and_unrelated() -> None:
    keys = np.array([stream_key(0, Split.TRAIN, "A", slot) for slot in range(50)], np.uint64)
    assert len(set(keys.tolist())) == 50
    values = uniform(keys[:, None], np.arange(4000, dtype=np.uint64))
    assert values.min() >= -1 and values.max() < 1
    histogram = np.histogram(values, bins=20, range=(-1, 1))[0] / values.size
    np.testing.assert_allclose(histogram, 0.05, atol=0.003)
    between = np.corrcoef(values) - np.eye(50)
    assert abs(between).max() < 0.08
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.01


def test_tuning_has_roots_of_its_own() -> None:
    seeds = [0, 1, 2, 999, 1000, LARGEST_TUNED_SEED - 1, LARGEST_TUNED_SEED]
    roots = [tuning_seed(seed, index) for seed in seeds for index in (0, 1, MOST_TUNING_SEEDS - 1)]
    assert len(set(roots)) == len(roots)
    assert min(roots) > LARGEST_TUNED_SEED and max(roots) < 2**31
    for seed, index in ((-1, 0), (LARGEST_TUNED_SEED + 1, 0), (0, -1), (0, MOST_TUNING_SEEDS)):
        with pytest.raises(ValueError, match="has no tuning seed"):
            tuning_seed(seed, index)
