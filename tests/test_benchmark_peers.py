"""The levels of the drivers in benchmarks/peers. The drivers themselves need their peers, which no test installs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("minigrid")

from benchmarks.bench_dir import counting_folder, progress_line, read_steps, read_success
from benchmarks.peers.level import NUM_WORDS, Level

LEVEL = "BabyAI-GoToLocalS5N2-v0"


def test_a_level_counts_its_steps_and_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DIR", str(tmp_path))
    level = Level(LEVEL, (0, 0))
    observation, _ = level.reset()
    random, steps, rewards = np.random.default_rng(0), 0, []
    while len(rewards) < 105:
        assert level.observation_space.contains(observation)
        observation, reward, terminated, truncated, _ = level.step(int(random.integers(3)))
        steps += 1
        if terminated or truncated:
            rewards.append(reward)
            observation, _ = level.reset()
    assert read_steps(tmp_path) == steps
    expected = sum(reward > 0 for reward in rewards[-100:]) / 100
    assert 0.05 < expected < 1, "the test needs both kinds of episodes"
    assert read_success(tmp_path) == expected
    assert progress_line(tmp_path) == f"{steps} frames, None updates, success {expected:.2f}"
    assert 0 < observation["words"].max() < NUM_WORDS


def test_episodes_follow_from_the_numbers_of_a_level_and_not_from_the_seed_of_reset() -> None:
    def starts(numbers: tuple[int, int], seed: int | None) -> list[bytes]:
        level = Level(LEVEL, numbers)
        return [level.reset(seed=seed)[0]["image"].tobytes() for _ in range(5)]

    assert starts((0, 3), None) == starts((0, 3), 7)
    assert starts((0, 3), 7) != starts((1, 3), 7) != starts((1, 4), 7)
    assert len(set(starts((0, 3), 7))) > 1, "only the first episode is seeded"


def test_a_driver_without_a_benchmark_counts_in_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DIR", raising=False)
    with counting_folder() as folder:
        level = Level(LEVEL, (0, 0))
        level.reset()
        level.step(0)
        assert read_steps(folder) == 1
    assert not folder.exists()
