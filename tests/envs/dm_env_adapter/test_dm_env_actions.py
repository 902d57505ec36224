"""Spaces of dm_env actions contain every value of the spec, and no other."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from dm_env_cases import ACTIONS, Steering, conforms, specs
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.dm_env_adapter.actions import DmEnvActions
from system.nested import leaves


def integers() -> st.SearchStrategy[Any]:
    """Specs of bounded integers, scalars and vectors."""

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
@given(trees(integers()), st.integers(0, 2**31))
def test_integers_count_from_zero_and_every_value_can_be_chosen(spec: Any, seed: int) -> None:
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


def test_one_integer_is_discrete_and_several_are_multi_discrete() -> None:
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
