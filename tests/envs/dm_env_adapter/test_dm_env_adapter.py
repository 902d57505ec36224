from __future__ import annotations

import unittest
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from dm_env_cases import ACTIONS, FIRST, LAST, MID, Scripted, specs
from gymnasium.utils.env_checker import check_env

from envs.dm_env_adapter.adapter import DmEnvAdapter
from system.errors import InputError
from system.nested import leaves

SPACES = {
    "position/x": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64),
    "position/y": gymnasium.spaces.Box(0, 1, (), np.float32),
    "joints/0": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32),
    "joints/1/0": gymnasium.spaces.Discrete(4),
    "joints/1/1": gymnasium.spaces.Box(np.array([-3, -3]), np.array([3, 4]), (2,), np.int32),
    "lit": gymnasium.spaces.Box(0, 1, (), np.int8),
    "picture": gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8),
    "steps": gymnasium.spaces.Box(-np.inf, np.inf, (), np.int64),
}
TEXTS = ("name", "words", "object")

try:
    from dm_env.test_utils import EnvironmentTestMixin
except ImportError:  # absl, which dm_env needs for its own tests only
    pass
else:

    class TestTheScriptedEnvironmentConformsToDmEnv(EnvironmentTestMixin, unittest.TestCase):
        """The other tests rely on it."""

        def make_object_under_test(self) -> Any:
            return Scripted(observations={"x": specs.Array((2,), np.float32)})


def test_observations_are_flattened_by_path_and_keep_their_values() -> None:
    env = DmEnvAdapter(Scripted)
    spaces = dict(env.observation_space)
    assert {key: spaces[key] for key in SPACES} == SPACES
    assert set(spaces) == {*SPACES, *TEXTS}
    assert all(isinstance(spaces[key], gymnasium.spaces.Text) for key in TEXTS)
    seen, info = env.reset(seed=5)
    truth = Scripted(5).reset().observation
    assert env.observation_space.contains(seen) and info == {}
    for keys, leaf in leaves(truth):
        name = "/".join(map(str, keys))
        if name not in TEXTS:
            np.testing.assert_array_equal(seen[name], leaf)
    assert seen["name"] == "Gr?? 5?" and seen["words"] == "go ? go ?" and seen["object"] == "go ?"


def test_a_bare_array_is_the_observation_and_is_copied() -> None:
    board = np.zeros((3, 2), np.float32)

    class Board(Scripted):
        def _observe(self, spec: Any) -> Any:
            return board

    env = DmEnvAdapter(lambda seed: Board(observations=specs.BoundedArray((3, 2), np.float32, 0, 1)))
    assert env.observation_space == gymnasium.spaces.Box(0, 1, (3, 2), np.float32)
    seen, _ = env.reset(seed=0)
    board += 1
    assert (seen == 0).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "actions",
    [ACTIONS, specs.DiscreteArray(4), {"gas": specs.BoundedArray((2,), np.float32, [-1, 0], 1)}],
    ids=["multi-discrete", "discrete", "continuous"],
)
def test_the_checker_of_gymnasium_passes(actions: Any) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    check_env(DmEnvAdapter(lambda seed: Scripted(seed, actions=actions), draw=lambda _: picture))
    check_env(DmEnvAdapter(lambda seed: Scripted(seed, actions=actions)))


@pytest.mark.parametrize(
    ("discount", "terminated", "truncated"), [(0.0, True, False), (1.0, False, True), (0.5, False, True)]
)
def test_the_last_discount_says_how_an_episode_ends(discount: float, terminated: bool, truncated: bool) -> None:
    env = DmEnvAdapter(lambda seed: Scripted(seed, script=[(MID, 1.0), (LAST, discount)]))
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[1:] == (0.25, False, False, {"discount": 1.0})
    assert env.step(env.action_space.sample())[1:] == (0.5, terminated, truncated, {"discount": discount})


def test_a_discount_within_an_episode_is_reported_and_warned_of_once() -> None:
    env = DmEnvAdapter(lambda seed: Scripted(seed, script=[(MID, 1.0), (MID, 0.9), (MID, 0.0), (LAST, 1.0)]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env.reset(seed=0)
        steps = [env.step(env.action_space.sample()) for _ in range(4)]
    assert [step[4]["discount"] for step in steps] == [1.0, 0.9, 0.0, 1.0]
    assert [step[2:4] for step in steps] == [(False, False)] * 3 + [(False, True)]
    assert ["Scripted discounts a step by 0.9" in str(warning.message) for warning in caught] == [True]


def test_a_step_never_starts_an_episode() -> None:
    inner = Scripted()
    env = DmEnvAdapter(lambda seed: inner)
    action = env.action_space.sample()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(action)
        env.reset(seed=0)
        assert [env.step(action)[2] for _ in inner.script] == [False, False, True]
    assert inner.unasked == 0 and len(inner.actions) == 6
    env = DmEnvAdapter(lambda seed: Scripted(script=[(MID, 1.0), (FIRST, 1.0)]))
    env.reset(seed=0)
    env.step(action)
    with pytest.raises(RuntimeError, match="Scripted started an episode before the last one had ended"):
        env.step(action)


def test_every_episode_is_made_with_its_seed() -> None:
    made: list[Scripted] = []

    def make(seed: int) -> Scripted:
        made.append(Scripted(seed))
        return made[-1]

    env = DmEnvAdapter(make)
    env.reset(seed=7)
    env.reset()
    env.reset()
    env.reset(seed=7)
    env.reset()
    seeds = [inner.seed for inner in made]
    assert seeds[:2] == [0, 7] and seeds[4] == 7, "the first one is asked for its specs only"
    assert len({*seeds[1:4]}) == 3 and seeds[5] == seeds[2]
    assert [inner.closed for inner in made] == [1] * 5 + [0]
    env.close()
    assert made[-1].closed == 1


def test_an_environment_that_is_seeded_again_is_not_closed() -> None:
    inner = Scripted()

    def make(seed: int) -> Scripted:
        inner.seed = seed
        return inner

    env = DmEnvAdapter(make)
    first = env.reset(seed=1)[0]["picture"]
    assert (first != env.reset(seed=2)[0]["picture"]).any()
    assert (first == env.reset(seed=1)[0]["picture"]).all()
    assert inner.closed == 0


PLAYERS = {
    "observations": {
        "1.SEEN": specs.Array((2,), np.float32),
        "2.SEEN": specs.Array((2,), np.float32),
        "2.REWARD": specs.Array((), np.float64),
        "12.SEEN": specs.Array((2,), np.float32),
        "CLOCK": specs.Array((), np.int32),
    },
    "actions": {
        "1.move": specs.BoundedArray((), np.int32, 2, 4),
        "2.move": specs.BoundedArray((), np.int32, 2, 4),
        "12.horn": specs.Array((), bool),
        "2.turn": specs.BoundedArray((), np.int32, -1, 1),
        "12.turn": specs.BoundedArray((), np.int32, -9, -3),
        "12.gas": specs.BoundedArray((), np.float32, -1, 1),
    },
}


def test_one_player_of_several_is_played_and_the_others_stay_idle() -> None:
    inner = Scripted(**PLAYERS)
    env = DmEnvAdapter(lambda seed: inner, player="2.", reward="2.REWARD")
    assert set(env.observation_space) == {"SEEN", "CLOCK"}
    assert env.action_space == gymnasium.spaces.MultiDiscrete([3, 3])
    env.reset(seed=0)
    twin = Scripted(**PLAYERS)
    twin.reset()
    for chosen, (move, turn) in {(2, 0): (4, -1), (0, 1): (2, 0)}.items():
        seen, reward, *_ = env.step(np.array(chosen))
        action = {"1.move": 2, "2.move": move, "12.horn": False, "2.turn": turn, "12.turn": -3, "12.gas": 0}
        assert inner.actions[-1] == action
        truth = twin.step(inner.actions[-1]).observation
        assert reward == truth["2.REWARD"] and type(reward) is float
        np.testing.assert_array_equal(seen["SEEN"], truth["2.SEEN"])


class SeveralRewards(Scripted):
    def reward_spec(self) -> Any:
        return [specs.Array((), np.float64)] * 2


class SeveralDiscounts(Scripted):
    def discount_spec(self) -> Any:
        return specs.BoundedArray((2,), np.float64, 0, 1)


def refusals() -> list[Any]:
    def case(name: str, message: str, options: dict[str, Any] | None = None, kind: Any = Scripted, **inner: Any) -> Any:
        return pytest.param(lambda seed: kind(seed, **inner), options or {}, message, id=name)

    unbounded, text = specs.Array((), np.int32), specs.StringArray(())
    mixed = {"move": specs.DiscreteArray(3), "gas": specs.BoundedArray((), np.float32, 0, 1)}
    twice = {"a": {"b": unbounded}, "a/b": unbounded}
    return [
        case("mixed", "The actions move and gas are an integer and a real number", actions=mixed),
        case("unbounded", "The action a is an integer without bounds", actions={"a": unbounded}),
        case("bare unbounded", "The action spec is an integer without bounds", actions=unbounded),
        case("text", "The action say is of dtype object", actions={"say": text}),
        case("dtype", "The observation z is of dtype complex128", observations={"z": specs.Array((), complex)}),
        case("same path", "Two observations are called a/b", observations=twice),
        case("nothing", "The environment shows nothing", observations={}),
        case("rewards", "SeveralRewards has several rewards", kind=SeveralRewards),
        case("discounts", "SeveralDiscounts has several discounts", kind=SeveralDiscounts),
        case(
            "player", "player=3. is the prefix of no action: the environment has [1.move", {"player": "3."}, **PLAYERS
        ),
        case("reward", "reward=1.SEEN is no single number that Scripted shows", {"reward": "1.SEEN"}, **PLAYERS),
    ]


@pytest.mark.parametrize(("make", "options", "message"), refusals())
def test_specs_without_counterpart_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        DmEnvAdapter(make, **options)
    assert message in str(error.value) and str(error.value).endswith(".") and ": " in str(error.value)


def test_it_can_be_registered_with_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a dm_env environment is a task of the suite `gymnasium`."""
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    gymnasium.register("Scripted-v0", entry_point=DmEnvAdapter, kwargs={"make": Scripted}, max_episode_steps=2)
    env = gymnasium.make("Scripted-v0")
    env.reset(seed=3)
    assert [env.step(env.action_space.sample())[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_bsuite_plays() -> None:
    catch = pytest.importorskip("bsuite.environments.catch")
    env = DmEnvAdapter(lambda seed: catch.Catch(seed=seed))
    assert env.action_space == gymnasium.spaces.Discrete(3)
    returns = set()
    for seed in range(20):
        board, _ = env.reset(seed=seed)
        assert board.shape == (10, 5) and board.sum() == 2, "ball and paddle"
        over = False
        while not over:  # after the ball
            (_, ball), paddle = np.argwhere(board[:-1])[0], int(board[-1].argmax())
            board, reward, over, truncated, _ = env.step(1 + np.sign(ball - paddle))
            assert not truncated
        returns.add(reward)
    assert returns == {1.0}
