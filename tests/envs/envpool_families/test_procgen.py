"""The suite `procgen`, on envpool 1.2.7 or the fake of it."""

from __future__ import annotations

from contextlib import closing
from importlib import metadata
from typing import Any

import numpy as np
import pytest

from envs.envpool_families import procgen
from envs.envpool_families.procgen import SCORES, TASKS, ProcgenConfig
from envs.scores import normalised, normalising_scores
from envs.spec import Slot, Split
from envs.suites import make_env, make_spec
from system.errors import InputError


def played_levels(num_levels: int, split: Split) -> set[int]:
    """The levels of the episodes of some hundred steps of CoinRun."""
    config = ProcgenConfig(tasks=["coinrun"], num_levels=num_levels)
    spec = make_spec(config)
    with closing(make_env(config, spec, [Slot(task=0, index=n) for n in range(64)], 0, split)) as env:
        found: set[int] = set()
        env.reset()
        pool: Any = env._engine.pools[0].envs  # type: ignore[attr-defined]
        receive = pool.recv

        def recv() -> Any:
            result = receive()
            found.update(result[4]["level_seed"].tolist())
            return result

        pool.recv = recv
        for _ in range(150):
            env.step(env.action_space.sample())
    return found


@pytest.mark.usefixtures("newer_envpool")
@pytest.mark.parametrize("num_levels", [20, 200])
def test_training_and_evaluation_play_disjoint_levels(num_levels: int) -> None:
    training, evaluation = played_levels(num_levels, Split.TRAIN), played_levels(num_levels, Split.EVALUATION)
    assert training and all(0 <= level < num_levels for level in training)
    assert len(evaluation) > 40 and all(level >= num_levels for level in evaluation)


@pytest.mark.usefixtures("newer_envpool")
def test_without_a_number_of_levels_both_splits_play_all() -> None:
    assert all(max(played_levels(0, split)) > 2**20 for split in Split)


@pytest.mark.usefixtures("newer_envpool")
def test_pictures_have_their_channels_last() -> None:
    config = ProcgenConfig(tasks=["procgen16"])
    spec = make_spec(config)
    assert len(spec.tasks) == 16 and spec.observation["image"].shape == (64, 64, 3)
    with closing(make_env(config, spec, [Slot(task=task, index=0) for task in range(16)], 0, Split.TRAIN)) as env:
        image = env.reset()[0]["image"]
        assert env.observation_space["image"].contains(image)
        # Procgen draws an observation and a rendered picture alike. Channels in another order would differ.
        np.testing.assert_array_equal(env.render(5).shape[-1], 3)


def test_scores_are_0_and_100_at_the_published_ends() -> None:
    for game in TASKS:
        assert normalised(SCORES[game].random, SCORES[game]) == 0
        assert normalised(SCORES[game].human, SCORES[game]) == 100
    assert (SCORES["fruitbot"].random, SCORES["starpilot"].human, SCORES["climber"].human) == (-1.5, 64, 12.6)


@pytest.mark.usefixtures("newer_envpool")
def test_runs_report_scores() -> None:
    assert set(normalising_scores(make_spec(ProcgenConfig()))) == {"coinrun", "starpilot"}


@pytest.mark.parametrize("version", ["1.2.5", None])
def test_an_old_or_absent_engine_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def installed(package: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(metadata, "version", installed)
    found = "1.2.5 is installed" if version else "which is not installed"
    with pytest.raises(InputError, match=f"needs envpool 1.2.7 or later, .*{found}: pip install .*Python 3.12"):
        make_spec(ProcgenConfig())


@pytest.mark.usefixtures("newer_envpool")
def test_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match=r"env\.num_levels=-1 is too small"):
        make_spec(ProcgenConfig(num_levels=-1))
    with pytest.raises(InputError, match="coinrum.*coinrun"):
        make_spec(ProcgenConfig(tasks=["coinrum"]))


def test_the_levels_of_the_splits_cover_all_levels_once() -> None:
    training, evaluation = (procgen.levels(200, split) for split in (Split.TRAIN, Split.EVALUATION))
    assert training["start_level"] == 0 and evaluation["start_level"] == training["num_levels"]
    assert evaluation["start_level"] + evaluation["num_levels"] == 2**31 - 1
