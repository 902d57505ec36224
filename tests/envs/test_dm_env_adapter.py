from __future__ import annotations

import unittest
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.dm_env_actions import DmEnvActions
from envs.dm_env_adapter import DmEnvAdapter
from envs.dm_env_trees import leaves, path
from envs.errors import InputError

dm_env = pytest.importorskip("dm_env")
specs = dm_env.specs
FIRST, MID, LAST = dm_env.StepType

Step = tuple[Any, float]
"""Type and discount of a step."""


class Steering(NamedTuple):
    wheel: Any
    gears: Any


OBSERVATIONS = {
    "position": {"x": specs.Array((2,), np.float64), "y": specs.BoundedArray((), np.float32, 0, 1)},
    "joints": [specs.Array((3,), np.float32), (specs.DiscreteArray(4), specs.BoundedArray((2,), np.int32, -3, [3, 4]))],
    "lit": specs.Array((), bool),
    "picture": specs.Array((2, 2, 3), np.uint8),
    "steps": specs.Array((), np.int64),
    "name": specs.StringArray(()),
    "words": specs.StringArray((2,), bytes),
    "object": specs.Array((), object),
}
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
ACTIONS = Steering(
    wheel={"turn": specs.BoundedArray((), np.int32, -1, 1), "horn": specs.Array((), bool)},
    gears=[specs.DiscreteArray(3), specs.BoundedArray((2,), np.uint8, [2, 5], [3, 9])],
)


class Scripted(dm_env.Environment):
    """Ends as it is told to, and insists on what dm_env promises it: actions that fit its spec, in its own structure.

    Attributes:
        unasked: how many episodes it had to begin at a step.
        actions: those it was given.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        script: Sequence[Step] = ((MID, 1.0), (MID, 1.0), (LAST, 0.0)),
        observations: Any = OBSERVATIONS,
        actions: Any = ACTIONS,
    ) -> None:
        self.seed, self.script = seed, script
        self._observations, self._actions = observations, actions
        self.unasked, self.closed, self.actions = 0, 0, []
        self._place = len(script)

    def observation_spec(self) -> Any:
        return self._observations

    def action_spec(self) -> Any:
        return self._actions

    def reset(self) -> Any:
        self._place = 0
        self._random = np.random.default_rng(self.seed)
        return dm_env.restart(self._observe(self._observations))

    def step(self, action: Any) -> Any:
        if self._place >= len(self.script):
            self.unasked += 1
            return self.reset()
        conforms(action, self._actions)
        self.actions.append(action)
        step_type, discount = self.script[self._place]
        self._place += 1
        reward = None if step_type == FIRST else 0.25 * self._place
        return dm_env.TimeStep(step_type, reward, discount, self._observe(self._observations))

    def close(self) -> None:
        self.closed += 1

    def _observe(self, spec: Any) -> Any:
        if isinstance(spec, dict):
            return {key: self._observe(branch) for key, branch in spec.items()}
        if isinstance(spec, list | tuple):
            return type(spec)(self._observe(branch) for branch in spec)
        if spec.dtype == object:
            text = f"Grüß {self.seed}\x01" if getattr(spec, "string_type", bytes) is str else b"go \xff"
            return np.full(spec.shape, text, object)
        low, high = getattr(spec, "minimum", 0), getattr(spec, "maximum", 1)
        value = self._random.integers(low, high, spec.shape, endpoint=True)
        if spec.dtype.kind == "f":
            value = np.clip(value + self._random.random(spec.shape), low, high)
        return np.asarray(value, spec.dtype)


def conforms(value: Any, spec: Any) -> None:
    """The value has the structure, dtypes and bounds of the spec."""
    found, wanted = list(leaves(value)), list(leaves(spec))
    assert [keys for keys, _ in found] == [keys for keys, _ in wanted]
    for (_, leaf), (_, leaf_spec) in zip(found, wanted, strict=True):
        leaf_spec.validate(leaf)


try:
    from dm_env.test_utils import EnvironmentTestMixin
except ImportError:  # absl, which dm_env needs for its own tests only
    pass
else:

    class TestTheScriptedEnvironmentIsOneOfDmEnv(EnvironmentTestMixin, unittest.TestCase):
        """Otherwise the tests here would prove nothing."""

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
        if path(keys) not in TEXTS:
            np.testing.assert_array_equal(seen[path(keys)], leaf)
    assert seen["name"] == "Gr?? 5?" and seen["words"] == "go ? go ?" and seen["object"] == "go ?"


def test_a_bare_array_is_the_whole_observation_and_never_the_environments_own() -> None:
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
def test_gymnasium_has_nothing_to_complain_of(actions: Any) -> None:
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


def test_a_discount_in_the_middle_is_told_and_warned_of_once() -> None:
    env = DmEnvAdapter(lambda seed: Scripted(seed, script=[(MID, 1.0), (MID, 0.9), (MID, 0.0), (LAST, 1.0)]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env.reset(seed=0)
        steps = [env.step(env.action_space.sample()) for _ in range(4)]
    assert [step[4]["discount"] for step in steps] == [1.0, 0.9, 0.0, 1.0]
    assert [step[2:4] for step in steps] == [(False, False)] * 3 + [(False, True)]
    assert ["Scripted discounts a step by 0.9" in str(warning.message) for warning in caught] == [True]


def test_no_episode_is_begun_by_a_step() -> None:
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
    with pytest.raises(RuntimeError, match="Scripted began an episode before the last one had ended"):
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


def test_an_environment_that_is_seeded_anew_is_not_closed() -> None:
    inner = Scripted()

    def make(seed: int) -> Scripted:
        inner.seed = seed
        return inner

    env = DmEnvAdapter(make)
    first = env.reset(seed=1)[0]["picture"]
    assert (first != env.reset(seed=2)[0]["picture"]).any()
    assert (first == env.reset(seed=1)[0]["picture"]).all()
    assert inner.closed == 0


def whole_numbers() -> st.SearchStrategy[Any]:
    """Specs of bounded whole numbers, scalars and vectors."""

    @st.composite
    def bounded(draw: Any) -> Any:
        shape = draw(st.sampled_from([(), (), (1,), (2,), (2, 2)]))
        low = np.asarray(draw(st.lists(st.integers(-5, 5), min_size=4, max_size=4)))[: int(np.prod(shape))].reshape(
            shape
        )
        extent = draw(st.integers(0, 4))
        return specs.BoundedArray(shape, draw(st.sampled_from([np.int32, np.int64, np.int8])), low, low + extent)

    return st.one_of(bounded(), st.builds(specs.DiscreteArray, st.integers(1, 5)), st.just(specs.Array((), bool)))


def trees(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.text("abc", min_size=1, max_size=2)

    def branches(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        several = st.lists(inner, min_size=1, max_size=3)
        return st.one_of(st.dictionaries(names, inner, min_size=1, max_size=3), several, several.map(tuple))

    return st.recursive(leaf, branches, max_leaves=5)


@settings(max_examples=50, deadline=None)
@given(trees(whole_numbers()), st.integers(0, 2**31))
def test_whole_numbers_count_from_zero_and_every_value_can_be_chosen(spec: Any, seed: int) -> None:
    actions = DmEnvActions(spec, "")
    actions.space.seed(seed)
    sizes = np.atleast_1d(
        actions.space.n if isinstance(actions.space, gymnasium.spaces.Discrete) else actions.space.nvec
    )
    for chosen in (np.zeros_like(sizes), sizes - 1, np.atleast_1d(actions.space.sample())):
        action = actions.decode(chosen[0] if len(sizes) == 1 else chosen)
        conforms(action, spec)
        values = np.concatenate([np.ravel(leaf).astype(int) for _, leaf in leaves(action)])
        np.testing.assert_array_equal(values - lower_bounds(spec), chosen)
    assert (lower_bounds(spec) + sizes - 1 == upper_bounds(spec)).all()


def lower_bounds(spec: Any) -> np.ndarray:
    return np.concatenate(
        [np.ravel(np.broadcast_to(getattr(leaf, "minimum", 0), leaf.shape)) for _, leaf in leaves(spec)]
    )


def upper_bounds(spec: Any) -> np.ndarray:
    return np.concatenate(
        [np.ravel(np.broadcast_to(getattr(leaf, "maximum", 1), leaf.shape)) for _, leaf in leaves(spec)]
    )


def test_one_whole_number_is_discrete_and_several_are_multi_discrete() -> None:
    one = DmEnvActions({"move": specs.BoundedArray((), np.int32, -1, 1)}, "")
    assert one.space == gymnasium.spaces.Discrete(3) and one.decode(0) == {"move": -1}
    several = DmEnvActions(ACTIONS, "")
    assert several.space == gymnasium.spaces.MultiDiscrete([3, 2, 3, 2, 5])
    action = several.decode(np.array([2, 1, 0, 1, 4]))
    assert isinstance(action, Steering)
    assert action.wheel == {"turn": 1, "horn": True} and action.gears[0] == 0 and tuple(action.gears[1]) == (3, 9)


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_real_numbers_stay_within_bounds_that_float32_cannot_hold(low: float, extent: float) -> None:
    spec = {"a": specs.BoundedArray((2,), np.float64, low, low + extent), "b": specs.Array((), np.float32)}
    actions = DmEnvActions(spec, "")
    assert actions.space.shape == (3,) and actions.space.dtype == np.float32
    for action in (actions.space.low, actions.space.high, actions.space.sample(), np.array([-2e3, 3e3, 7], np.float32)):
        conforms(actions.decode(np.nan_to_num(action)), spec)
    np.testing.assert_array_equal(actions.space.low, np.array([low, low, -np.inf], np.float32))


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
        case("mixed", "The actions move and gas are a whole number and a real one", actions=mixed),
        case("unbounded", "The action a is a whole number without bounds", actions={"a": unbounded}),
        case("bare unbounded", "The action spec is a whole number without bounds", actions=unbounded),
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
def test_what_has_no_counterpart_is_refused_in_one_sentence(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        DmEnvAdapter(make, **options)
    assert message in str(error.value) and str(error.value).endswith(".") and ": " in str(error.value)


def test_it_can_be_registered_with_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is how a dm_env environment becomes a task of the suite `gymnasium`."""
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
