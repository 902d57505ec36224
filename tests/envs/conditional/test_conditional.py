from __future__ import annotations

import itertools

import numpy as np
import pytest

from envs.conditional.suite import OBSERVATIONS, ConditionalConfig, blind_return, make_spec, maps
from envs.spec import Slot, Split
from envs.suites import make_env
from envs.vector import MultitaskVectorEnv
from system.errors import InputError


def matrices(config: ConditionalConfig, numbers: range | list[int]) -> list[np.ndarray]:
    """The M_i written out: M[a, places[a]] = gains[a]."""
    result = []
    for places, gains in zip(*maps(config.map_seed, config.dimension, numbers), strict=True):
        matrix = np.zeros((config.dimension, config.dimension))
        matrix[np.arange(config.dimension), places] = gains
        result.append(matrix)
    return result


def environment(config: ConditionalConfig, per_task: int = 4) -> MultitaskVectorEnv:
    spec = make_spec(config)
    slots = [Slot(task=task, index=index) for index in range(per_task) for task in range(len(spec.tasks))]
    return make_env(config, spec, slots, seed=3, split=Split.TRAIN)


def read(observation: dict[str, np.ndarray], config: ConditionalConfig) -> tuple[np.ndarray, np.ndarray]:
    """x [S, d], 0 if it is not shown, and whether a decision is due [S], read from the observation."""
    if config.observation == "vector":
        return observation["vector"][:, :-1], observation["vector"][:, -1]
    codes, due = observation["image"][..., 0].astype(int), observation["image"][..., 1]
    side = next(side for side in range(1, 9) if side**2 >= config.dimension)
    x = np.zeros((len(codes), config.dimension))
    for entry in range(config.dimension):
        row, column = entry // side * 4, entry % side * 4
        square = codes[:, row : row + 3, column : column + 3].reshape(len(codes), -1)
        assert (square == square[:, :1]).all()
        x[:, entry] = np.choose(square[:, 0], [0, -0.75, -0.25, 0.25, 0.75])
    assert ((codes > 0).sum(axis=(1, 2)) == 9 * (x != 0).sum(axis=1)).all()
    assert (due == due[:, :1, :1]).all()
    return x, due[:, 0, 0]


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("dimension", [2, 4, 5])
@pytest.mark.parametrize("tasks", [["map"], ["memory"], ["memory-2", "map-5", "memory-0"]])
def test_the_right_action_earns_exactly_one(tasks: list[str], dimension: int, observation: str) -> None:
    config = ConditionalConfig(tasks=tasks, dimension=dimension, observation=observation)
    env = environment(config)
    numbers = [int(task.split("-")[1]) for task in env.spec_of_suite.tasks]
    matrix = np.stack(matrices(config, numbers))
    seen, _ = env.reset()
    remembered = np.zeros((env.num_envs, config.dimension))
    returns = []
    for _ in range(40):
        x, due = read(seen, config)
        shown = (x != 0).any(axis=1)
        remembered[shown] = x[shown]
        choice = np.einsum("sad,sd->sa", matrix[seen["task"]], remembered).argmax(axis=1)
        # An action that is not due has no effect.
        action = np.where(due == 1, choice, (choice + 1) % config.dimension)
        seen, reward, terminated, _, info = env.step(action)
        assert ((reward == 1) == terminated).all()
        returns += info["episode_return"][terminated].tolist()
    assert len(returns) > env.num_envs and set(returns) == {1.0}


def test_every_matrix_is_a_permutation_and_shifts_balance_the_actions() -> None:
    config = ConditionalConfig()
    used = np.zeros((config.dimension, config.dimension))
    for matrix in matrices(config, range(config.dimension)):
        assert ((matrix != 0).sum(axis=0) == 1).all() and ((matrix != 0).sum(axis=1) == 1).all()
        used += matrix != 0
    assert (used == 1).all()


def test_a_matrix_does_not_depend_on_other_tasks() -> None:
    config = ConditionalConfig()
    np.testing.assert_array_equal(matrices(config, [5])[0], matrices(config, range(8))[5])
    assert not np.array_equal(matrices(ConditionalConfig(map_seed=1), [5])[0], matrices(config, [5])[0])


def test_blind_return_equals_a_search_over_all_policies_on_a_grid() -> None:
    """On a grid of x, trying every blind choice gives the value that `blind_return` estimates."""
    config = ConditionalConfig(dimension=2, num_tasks=3)
    grid = (np.arange(200) + 0.5) / 100 - 1
    x = np.stack(list(itertools.product(grid, repeat=2)))
    right = np.stack([(x @ matrix.T).argmax(axis=1) for matrix in matrices(config, range(3))])
    best = np.mean([max((right[:, place] == action).mean() for action in range(2)) for place in range(len(x))])
    assert blind_return(config, (0, 1, 2)) == pytest.approx(best, abs=0.01)


def test_a_picture_shows_the_x_of_the_vector_rounded() -> None:
    shown = {}
    for observation in OBSERVATIONS:
        config = ConditionalConfig(dimension=5, observation=observation)
        shown[observation], _ = read(environment(config).reset()[0], config)
    assert len(np.unique(shown["image"])) == 4
    assert np.abs(shown["image"] - shown["vector"]).max() <= 0.25


def test_an_unknown_observation_is_refused() -> None:
    with pytest.raises(InputError, match=r"env.observation=pixels is unknown: choose one of vector, image."):
        make_spec(ConditionalConfig(observation="pixels"))


def test_blind_return_bounds() -> None:
    config = ConditionalConfig()
    assert blind_return(config, (3,)) == 1.0  # one task needs no context
    assert 1 / config.dimension < blind_return(config, tuple(range(8))) < 0.5


def test_spec_carries_the_reference_returns_by_kind() -> None:
    config = ConditionalConfig(tasks=["map", "memory-3"])
    scores = make_spec(config).scores
    assert scores["map-0"].random == blind_return(config, tuple(range(8))) and scores["map-0"].human == 1.0
    assert scores["memory-3"].random == 1.0


def test_memory_shows_x_once_and_the_decision_is_due_at_the_end() -> None:
    config = ConditionalConfig(tasks=["memory"], delay=4)
    env = environment(config)
    observation, _ = env.reset()
    for step in range(11):
        vector = observation["vector"]
        place = step % 6  # four steps of delay, the end, and the reset
        assert (vector[:, :-1] != 0).any() == (place == 0)
        assert (vector[:, -1] == (place == 4)).all()
        observation, reward, terminated, *_ = env.step(np.zeros(env.num_envs, np.int64))
        assert (terminated == (place == 4)).all()
        assert place == 4 or not reward.any()


def test_x_is_fresh_in_every_slot_and_episode() -> None:
    env = environment(ConditionalConfig())
    seen = []
    observation, _ = env.reset()
    for _ in range(20):
        seen.append(observation["vector"][:, :-1].copy())
        env.step(np.zeros(env.num_envs, np.int64))
        observation, *_ = env.step(np.zeros(env.num_envs, np.int64))
    x = np.concatenate(seen)
    assert len(np.unique(x, axis=0)) == len(x)
    assert abs(x.mean()) < 0.05 and x.std() == pytest.approx(1 / np.sqrt(3), abs=0.02)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tasks": ["map-8"]}, "map-8"),
        ({"tasks": ["maps"]}, "maps"),
        ({"tasks": []}, "at least one"),
        ({"tasks": ["map", "map-0"]}, "more than once"),
        ({"dimension": 1}, "env.dimension=1"),
        ({"num_tasks": 0}, "env.num_tasks=0"),
        ({"delay": 0}, "env.delay=0"),
        ({"map_seed": -1}, "env.map_seed=-1"),
    ],
)
def test_bad_options_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word) as error:
        make_spec(ConditionalConfig(**change))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
