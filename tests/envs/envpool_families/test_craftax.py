"""The suite `craftax`, on envpool 1.2.7 or the fake of it."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest

from envs.envpool_families.craftax import GAMES, OBSERVATIONS, SCORES, CraftaxConfig
from envs.scores import normalised, normalising_scores
from envs.spec import Slot, Split
from envs.suites import make_env, make_spec
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

pytestmark = pytest.mark.usefixtures("newer_envpool")

GAMES_SEEN = [(game, observation) for game in GAMES for observation in OBSERVATIONS]


def opened(game: str = "classic", observation: str = "symbolic", slots: int = 8) -> MultitaskVectorEnv:
    config = CraftaxConfig(tasks=[game], observation=observation)
    seats = [Slot(task=0, index=index) for index in range(slots)]
    return make_env(config, make_spec(config), seats, 0, Split.TRAIN)


@pytest.mark.parametrize(("game", "observation"), GAMES_SEEN)
def test_every_game_plays_with_the_shapes_of_its_table(game: str, observation: str) -> None:
    with closing(opened(game, observation, slots=2)) as env:
        seen, _ = env.reset()
        pool: Any = env._engine.pools[0].envs  # type: ignore[attr-defined]
        assert pool.action_space.n == env.spec_of_suite.num_actions
        for _ in range(20):
            assert env.observation_space.contains(seen)
            seen = env.step(env.action_space.sample())[0]
        assert env.render(1).ndim == 3


def test_pictures_are_rounded_to_bytes() -> None:
    with closing(opened(observation="pixels", slots=2)) as env:
        env.reset()
        pool: Any = env._engine.pools[0].envs  # type: ignore[attr-defined]
        raw: list[Any] = []
        receive = pool.recv

        def recv() -> Any:
            raw.append(receive())
            return raw[-1]

        pool.recv = recv
        image = env.step(env.action_space.sample())[0]["image"]
    error = np.abs(image / 255 - raw[0][0])
    assert image.max() > 100 and error.max() <= 0.5 / 255 + 1e-6


def test_an_episode_ends_with_its_own_last_observation() -> None:
    """The ids with AutoReset would show the next episode's first one at the end, and its second one after it."""
    with closing(opened(slots=16)) as env:
        env.reset()
        found = 0
        pool: Any = env._engine.pools[0].envs  # type: ignore[attr-defined]
        assert not pool.spec.config.auto_reset
        env.action_space.seed(0)
        for _ in range(400):
            _, _, terminated, truncated, info = env.step(env.action_space.sample())
            assert not truncated.any() and np.isnan(info["success"]).all()
            found += int(terminated.sum())
        assert found > 3


def test_the_score_is_the_percentage_of_all_achievements_rewards() -> None:
    assert normalised(0.0, SCORES["full"]) == 0 and normalised(226.0, SCORES["full"]) == 100
    assert normalised(11.0, SCORES["classic"]) == 50
    assert set(normalising_scores(make_spec(CraftaxConfig()))) == {"classic"}


def test_games_of_different_observations_are_refused() -> None:
    with pytest.raises(InputError, match=r"env\.tasks=\[classic,full\] .* separate runs"):
        make_spec(CraftaxConfig(tasks=["classic", "full"]))
    with pytest.raises(InputError, match=r"env\.observation=pixel is unknown: .*pixels"):
        make_spec(CraftaxConfig(observation="pixel"))
