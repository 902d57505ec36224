"""What the engine makes of envpool's results, with a pool that returns results written by hand."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from envs.engines.envpool_engine import EnvpoolEngine, Family
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

Results = list[dict[str, list[float]]]
SPEC = EnvSpec(
    suite="written",
    tasks=("only",),
    observation={"vector": ArraySpec(shape=(1,), dtype="float32")},
    num_actions=2,
    action_counts=(2,),
    has_success=False,
)


class WrittenPool:
    """Returns `results` in order: reward, and where they are not 0, terminated, truncated and goal."""

    def __init__(self, results: Results, order: list[int]) -> None:
        self._results, self._order = iter(results), np.array(order, np.int32)
        self.sent: list[dict[str, Any]] = []

    def async_reset(self) -> None:
        pass

    def send(self, action: dict[str, Any]) -> None:
        self.sent.append(action)

    def recv(self) -> Any:
        result, size = next(self._results), len(self._order)
        column = {key: np.array(result.get(key, [0.0] * size)) for key in ("reward", "terminated", "truncated", "goal")}
        ends = column["terminated"] > 0, column["truncated"] > 0
        info = {"env_id": self._order, "goal": column["goal"]}
        return column["reward"][:, None], column["reward"].astype(np.float32), *ends, info

    def close(self) -> None:
        pass


def opened(
    monkeypatch: pytest.MonkeyPatch, results: Results, order: tuple[int, ...] = (0, 1), **options: Any
) -> tuple[MultitaskVectorEnv, list[dict[str, Any]]]:
    """The environment, and the arguments of every call of `envpool.make`."""
    made: list[dict[str, Any]] = []

    def make(name: str, **arguments: Any) -> WrittenPool:
        made.append({"name": name, **arguments})
        return WrittenPool(results, list(order))

    monkeypatch.setitem(sys.modules, "envpool", SimpleNamespace(make=make))
    family = Family(show=lambda seen: {"vector": seen.astype(np.float32)}, **options)
    slots = [Slot(task=0, index=index) for index in range(len(order))]
    engine = EnvpoolEngine(family, SPEC, slots, Split.TRAIN, threads=4)
    return MultitaskVectorEnv(engine, SPEC, slots, seed=0), made


ACTIONS = np.zeros(2, np.int32)


def test_the_reward_of_a_reset_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    results: Results = [
        {"reward": [5, 5]},
        {"reward": [1, 2], "truncated": [1, 0]},
        {"reward": [7, 3]},
        {"reward": [4, 4]},
    ]
    env, _ = opened(monkeypatch, results)
    env.reset()
    assert [env.step(ACTIONS)[1].tolist() for _ in range(3)] == [[1, 2], [0, 3], [4, 4]]


def test_an_episode_is_a_success_if_any_of_its_steps_reaches_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    results: Results = [
        {"goal": [0, 1]},  # the first observation is no step
        {"goal": [1, 0]},
        {"goal": [0, 0], "truncated": [1, 1]},
        {"goal": [1, 1]},  # the reset is none either
        {"goal": [0, 0]},
        {"goal": [0, 1], "truncated": [1, 1]},
        {"goal": [0, 0]},
        {"goal": [0, 0], "terminated": [1, 1]},
    ]
    env, _ = opened(monkeypatch, results, success="goal")
    env.reset()
    found = [env.step(ACTIONS)[4]["success"].copy() for _ in results[1:]]
    np.testing.assert_equal(found[1], np.float32([1, 0]))
    np.testing.assert_equal(found[4], np.float32([0, 1]))
    np.testing.assert_equal(found[6], np.float32([0, 0]))
    assert np.isnan(np.stack([found[step] for step in (0, 2, 3, 5)])).all()


def test_success_is_unknown_without_a_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    env, _ = opened(monkeypatch, [{}, {"goal": [1, 1], "terminated": [1, 1], "reward": [1, 1]}])
    env.reset()
    assert np.isnan(env.step(ACTIONS)[4]["success"]).all()


@pytest.mark.parametrize("goal_ends", [True, False])
def test_a_goal_at_the_time_limit_is_a_termination_where_goals_end_episodes(
    monkeypatch: pytest.MonkeyPatch, goal_ends: bool
) -> None:
    env, _ = opened(monkeypatch, [{}, {"reward": [1, 0], "truncated": [1, 1]}], goal_ends=goal_ends)
    env.reset()
    _, _, terminated, truncated, _ = env.step(ACTIONS)
    assert terminated.tolist() == [goal_ends, False] and truncated.tolist() == [not goal_ends, True]


def test_results_out_of_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env, _ = opened(monkeypatch, [{}], order=(1, 0))
    with pytest.raises(RuntimeError, match="out of order"):
        env.reset()


def test_pools_get_one_seed_per_slot_the_options_and_no_idle_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    env, made = opened(monkeypatch, [{}, {}], env_id=lambda task: f"Some/{task}", options={"speed": 3})
    env.reset()
    env.reset(seed=1)
    first, second = made
    assert first["name"] == "Some/only" and first["num_threads"] == 2 and first["speed"] == 3
    assert len({*first["seed"], *second["seed"]}) == 4


def test_a_machine_without_opengl_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(_: object, number: int) -> None:
        raise RuntimeError("failed to initialize EGL")

    monkeypatch.setattr("envs.engines.envpool_engine._share_opengl", lambda package: None)
    monkeypatch.setattr(WrittenPool, "render", render, raising=False)
    env, _ = opened(monkeypatch, [{}])
    env.reset()
    with pytest.raises(InputError, match=r"cannot draw only \(failed to initialize EGL\): install OpenGL"):
        env.render(1)
