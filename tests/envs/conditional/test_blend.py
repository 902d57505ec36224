"""The tasks blend-k: their matrix follows from the shown weights, whose regions training leaves out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from regions import names_of

from envs.conditional.suite import ConditionalConfig, blind_return_of_blends, make_spec, maps
from envs.faults import NoContextError
from envs.spec import Slot, Split
from envs.suites import held_out, make_env
from envs.vector import MultitaskVectorEnv
from system.errors import InputError


def environment(
    config: ConditionalConfig, slots: int = 400, split: Split = Split.TRAIN, episode: int = 0
) -> MultitaskVectorEnv:
    spec = make_spec(config)
    places = [Slot(task=index % len(spec.tasks), index=index, episode=episode) for index in range(slots)]
    return make_env(config, spec, places, 3, split)


def weights(config: ConditionalConfig, split: Split = Split.TRAIN, slots: int = 2000) -> np.ndarray:
    """Of the first episodes of the slots."""
    return np.array(environment(config, slots, split).reset()[0]["context"])


@pytest.mark.parametrize("observation", ["vector", "image"])
def test_the_action_of_the_blended_matrix_earns_one(observation: str) -> None:
    config = ConditionalConfig(tasks=["blend-3", "map-2", "blend-4", "memory-1"], observation=observation, dimension=5)
    env = environment(config, slots=40)
    matrices = np.zeros((4, 5, 5))
    for number, (places, gains) in enumerate(zip(*maps(0, 5, range(4)), strict=True)):
        matrices[number, np.arange(5), places] = gains
    seen, _ = env.reset()
    returns: list[float] = []
    remembered = np.zeros((40, 5))
    for _ in range(20):
        if observation == "vector":
            x = np.array(seen["vector"][:, :-1])
        else:
            codes = seen["image"][:, :9:4, :9:4, 0].reshape(40, -1)[:, :5].astype(float)
            x = np.where(codes > 0, (2 * codes - 1) / 4 - 1, 0)
        shown = (x != 0).any(axis=1)
        remembered[shown] = x[shown]
        blended = np.einsum("sk,kad->sad", seen["context"].astype(np.float64), matrices)
        action = np.einsum("sad,sd->sa", blended, remembered).argmax(axis=1)
        seen, _, _, _, info = env.step(action)
        returns += info["episode_return"][~np.isnan(info["episode_return"])].tolist()
    assert len(returns) > 200
    # The weights are shown in single precision, so that a tie may fall to the other side.
    assert np.mean(returns) > 0.99


def test_weights_are_uniform_on_the_simplex_and_those_of_single_matrices_are_one() -> None:
    w = weights(ConditionalConfig(tasks=["blend"]), slots=6000)
    assert w.dtype == np.float32 and (w >= 0).all()
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-6)
    # Moments of Dirichlet(1, 1, 1, 1).
    np.testing.assert_allclose(w.mean(axis=0), 1 / 4, atol=0.01)
    np.testing.assert_allclose(np.cov(w.T), (4 * np.eye(4) - 1) / 80, atol=0.002)
    np.testing.assert_allclose((w**3).mean(axis=0), 6 / 120, atol=0.005)
    mixed = weights(ConditionalConfig(tasks=["map-5", "blend-2", "memory-0"]), slots=3)
    assert mixed.shape == (3, 6)
    assert mixed[0].tolist() == [0, 0, 0, 0, 0, 1] and mixed[2].tolist() == [1, 0, 0, 0, 0, 0]
    assert (mixed[1, :2] > 0).all() and not mixed[1, 2:].any()


def test_suites_without_a_blend_show_no_context() -> None:
    assert set(make_spec(ConditionalConfig()).observation) == {"vector"}


@pytest.mark.parametrize(
    "options", [{"holdout": ["0+2"]}, {"holdout": ["3", "0+1"]}, {"holdout_fraction": 0.34}, {"holdout_fraction": 0.5}]
)
def test_training_and_evaluation_divide_the_regions(options: dict[str, object]) -> None:
    config = ConditionalConfig(tasks=["blend"], **options)  # type: ignore[arg-type]
    left_out = set(held_out(config))
    assert left_out
    for split in (Split.TRAIN, Split.EVALUATION):
        seen = names_of(weights(config, split))
        assert not set().union(*seen) & left_out
    unseen = names_of(weights(config, Split.UNSEEN))
    assert all(names & left_out for names in unseen)
    assert set().union(*unseen) >= left_out
    # Every matrix has the largest weight in some episodes of training, unless that is left out.
    assert set().union(*names_of(weights(config))) >= set("0123") - left_out


def test_weights_in_a_region_are_those_of_the_simplex_there() -> None:
    """Compared with rejection: the same distribution of the sorted weights, and of the smallest ones' places."""
    plain = weights(ConditionalConfig(tasks=["blend"]), slots=9000)
    kept = plain[[not names & {"0+2", "3"} for names in names_of(plain)]]
    drawn = weights(ConditionalConfig(tasks=["blend"], holdout=["0+2", "3"]), slots=9000)
    for moment in (1, 2, 3):
        np.testing.assert_allclose((drawn**moment).mean(axis=0), (kept**moment).mean(axis=0), atol=0.012)
    products = [[(w[:, i] * w[:, j]).mean() for i, j in combinations(range(4), 2)] for w in (drawn, kept)]
    np.testing.assert_allclose(*products, atol=0.004)


def test_each_episode_has_other_weights_and_any_is_reached_directly() -> None:
    config = ConditionalConfig(tasks=["blend"], holdout=["0+2"])
    env, later = environment(config, 5), environment(config, 5, episode=3)
    first, _ = env.reset()
    found = [np.array(first["context"])]
    found += [np.array(env.step(np.zeros(5, np.int32))[0]["context"]) for _ in range(6)]
    assert len({row.tobytes() for row in found}) == 4  # an episode's weights stay until the next one begins
    np.testing.assert_array_equal(later.reset()[0]["context"], found[-1])


def test_the_blind_return_is_that_of_the_best_action_without_the_weights() -> None:
    """Compared with a table over many episodes, for d = 2, where the best blind action follows from a histogram of x."""
    config = ConditionalConfig(tasks=["blend-2"], dimension=2, num_tasks=2)
    found = blind_return_of_blends(config, (2,))
    rng = np.random.default_rng(1)
    places, gains = maps(0, 2, range(2))
    x, w = rng.uniform(-1, 1, (1000, 1, 2)), rng.dirichlet(np.ones(2), (1000, 1000))
    right = np.einsum("nmk,nka->nma", w, x[:, 0][:, places] * gains).argmax(axis=2)
    share = right.mean(axis=1)
    assert found == pytest.approx(np.maximum(share, 1 - share).mean(), abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["blend-1"]}, "blend-1 is no task .* or blend-2 to blend-8"),
        ({"tasks": ["blend-9"]}, "blend-9 is no task"),
        ({"tasks": ["map"], "holdout": ["0+1"]}, r"env\.tasks=map-0 has none: add blend"),
        ({"tasks": ["map"], "holdout_fraction": 0.3}, r"env\.tasks=map-0 has none: add blend"),
        ({"tasks": ["map-0"], "holdout_fraction": 0.3}, r"env\.holdout_fraction=0\.3 is out of range"),
        ({"tasks": ["blend"], "holdout": ["0+9"]}, r'env\.holdout has "0\+9", which is unknown: choose among 0\+1, '),
        ({"tasks": ["blend-2"], "holdout": ["0+1"]}, r"env\.holdout=\[0\+1\] leaves training nothing of blend-2"),
        ({"tasks": ["blend-3"], "holdout": ["0", "1", "2"]}, "leaves training nothing of blend-3"),
    ],
)
def test_blends_that_do_not_exist_and_regions_that_leave_nothing_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_spec(ConditionalConfig(**options))  # type: ignore[arg-type]


def test_a_task_without_unseen_weights_is_named() -> None:
    with pytest.raises(NoContextError, match=r"env\.tasks=map-1 has no weights of env\.holdout"):
        environment(ConditionalConfig(tasks=["blend", "map-1"], holdout=["0"]), 2, Split.UNSEEN)
