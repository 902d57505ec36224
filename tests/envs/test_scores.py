"""Human-normalised scores: computed by hand, by properties, and the constants of their tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.atari.games import GAMES
from envs.atari.suite import AtariConfig, make_spec
from envs.conditional.suite import ConditionalConfig
from envs.scores import AGGREGATES, aggregate, mean_capped, normalised, normalising_scores
from envs.spec import Score
from envs.suites import make_spec as make_spec_of

FACTS = json.loads((Path(__file__).parent / "data" / "atari57.json").read_text(encoding="utf-8"))


def test_the_constants_of_the_57_games_are_the_published_ones() -> None:
    published = {game["ale_camel"]: (game["random"], game["human"]) for game in FACTS["games"]}
    assert len(published) == 57
    assert {task: (game.random, game.human) for task, game in GAMES.items()} == published


def test_scores_computed_by_hand() -> None:
    """Returns 41.7, 0 and 18 of Breakout (1.7, 30.5), Pong (-20.7, 14.6) and Boxing (0.1, 12.1)."""
    scores = {
        task: normalised(value, Score(random=GAMES[task].random, human=GAMES[task].human))
        for task, value in {"Breakout": 41.7, "Pong": 0.0, "Boxing": 18.1}.items()
    }
    assert scores["Breakout"] == pytest.approx(100 * 40 / 28.8, abs=1e-9)  # 138.888...
    assert scores["Pong"] == pytest.approx(100 * 20.7 / 35.3, abs=1e-9)  # 58.640...
    assert scores["Boxing"] == pytest.approx(150, abs=1e-9)
    found = aggregate(scores)
    assert found["mean"] == pytest.approx((138.888888888889 + 58.640226628895 + 150) / 3, abs=1e-9)
    assert found["median"] == pytest.approx(138.888888888889, abs=1e-9)
    # Capped before the mean, not after it: (100 + 58.64 + 100) / 3, and not min(115.8, 100).
    assert found["mean_capped"] == pytest.approx((100 + 58.640226628895 + 100) / 3, abs=1e-9)


@given(st.lists(st.floats(-500, 1000), min_size=1, max_size=9))
def test_capping_never_increases_the_mean_and_keeps_it_below_the_cap(values: list[float]) -> None:
    scores = np.array(values)
    assert mean_capped(scores) <= min(100, scores.mean()) + 1e-9
    assert mean_capped(np.minimum(scores, 100)) == pytest.approx(np.minimum(scores, 100).mean())
    # Columns are independent, as the bootstrap requires.
    for function in AGGREGATES.values():
        np.testing.assert_allclose(
            function(np.stack([scores, scores + 1], axis=1)), [function(scores), function(scores + 1)]
        )


def test_random_play_is_0_and_a_human_100() -> None:
    for game in GAMES.values():
        ends = normalised(np.array([game.random, game.human]), Score(random=game.random, human=game.human))
        np.testing.assert_allclose(ends, [0, 100], atol=1e-9)


def test_a_suite_has_scores_if_all_its_tasks_have_a_human_or_a_published_maximum() -> None:
    pytest.importorskip("ale_py")
    spec = make_spec(AtariConfig(tasks=["Pong", "Breakout"]))
    assert set(normalising_scores(spec)) == {"Pong", "Breakout"}
    assert normalising_scores(replace(spec, scores={"Pong": spec.scores["Pong"]})) == {}
    maximum = {task: replace(score, reference="maximum") for task, score in spec.scores.items()}
    assert set(normalising_scores(replace(spec, scores=maximum))) == {"Pong", "Breakout"}
    # The reference of a synthetic task is the best return, not a human's.
    conditional = make_spec_of(ConditionalConfig(tasks=["map"]))
    assert conditional.scores
    assert normalising_scores(conditional) == {}
