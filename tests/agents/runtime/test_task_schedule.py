"""Task schedules, from the command line to the slots: assignment, refusals, and counts per task."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
import torch
from fakes import fake_batch, fake_env

from agents.learning.nonfinite import steps_by_task
from agents.run.metrics import Statistics
from agents.run.run_state import checkpoint_content, restore
from agents.runtime.base import StreamPositions
from agents.setup.builder import build_learner, build_network, build_runtime, make_slots
from agents.setup.plan import check_schedule
from conf.checks import check_train
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.spec import EnvSpec, Slot
from envs.suites import make_spec
from system.errors import InputError


@pytest.fixture(scope="module")
def composed() -> TrainConfig:
    words = (
        "env=conditional",
        "env.tasks=[map-0,map-1,memory-0]",
        "context=task",
        "runtime=serial",
        "runtime.num_actors=2",
    )
    return compose_train(words)


@pytest.fixture
def configured(composed: TrainConfig) -> Callable[..., tuple[TrainConfig, EnvSpec]]:
    """Makes a configuration with these options of `runtime`, and its EnvSpec."""

    def configured(**runtime: Any) -> tuple[TrainConfig, EnvSpec]:
        config = replace(composed, runtime=replace(composed.runtime, **runtime))
        check_train(config)
        return config, make_spec(config.env)

    return configured


Configured: TypeAlias = Callable[..., tuple[TrainConfig, EnvSpec]]


def seats(config: TrainConfig, env: EnvSpec, positions: StreamPositions | None = None) -> list[Slot]:
    return [
        slot
        for index in range(2)
        for slot in make_slots(config, env, index, (positions or StreamPositions()).episodes.get(index))
    ]


def test_uniform_slots_are_assigned_in_turn_over_all_actors(configured: Configured) -> None:
    slots = seats(*configured(slots_per_actor=4))
    assert slots == [Slot(task=number % 3, index=number // 3) for number in range(8)]
    positions = StreamPositions(episodes={0: [3, 1, 4, 1], 1: [5, 9, 2, 6]})
    resumed = seats(*configured(slots_per_actor=4), positions)
    assert resumed == [replace(s, episode=e + 1) for s, e in zip(slots, [3, 1, 4, 1, 5, 9, 2, 6], strict=True)]


def test_weights_are_fractions_of_the_slots(configured: Configured) -> None:
    config, env = configured(slots_per_actor=20, task_schedule="weighted", task_weights=[1.0, 5.0, 2.0])
    check_schedule(config, env, num_actors=2)
    slots = seats(config, env)
    assert Counter(slot.task for slot in slots) == {0: 5, 1: 25, 2: 10}
    assert len({(slot.task, slot.index) for slot in slots}) == 40
    # Each actor has about the same fractions.
    assert Counter(slot.task for slot in slots[:20])[1] in (12, 13)


def test_uniform_frames_gives_every_slot_its_own_streams(configured: Configured) -> None:
    config, env = configured(slots_per_actor=4, task_schedule="uniform_frames")
    env = replace(env, switches_tasks=True)
    check_schedule(config, env, num_actors=2)
    assert seats(config, env) == [Slot(task=number % 3, index=number) for number in range(8)]
    # More tasks than slots are allowed, because slots change their tasks.
    check_schedule(replace(config, runtime=replace(config.runtime, slots_per_actor=1)), env, num_actors=2)


WEIGHTED = {"task_schedule": "weighted"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_schedule": "fair"}, "runtime.task_schedule=fair is unknown: choose one of uniform_slots"),
        (WEIGHTED, "give one number for each task"),
        ({"task_weights": [1.0, 1.0, 1.0]}, "set runtime.task_schedule=weighted"),
        (WEIGHTED | {"task_weights": [1.0, 0.0, 1.0]}, "give finite numbers above 0"),
        (WEIGHTED | {"task_weights": [1.0, math.nan, 1.0]}, "give finite numbers above 0"),
        (WEIGHTED | {"task_weights": [1.0, 2.0]}, "has 2 numbers for 3 tasks"),
        (WEIGHTED | {"task_weights": [1.0, 1000.0, 1.0]}, "or the smallest of runtime.task_weights"),
        ({"task_schedule": "uniform_frames"}, "those of env=conditional on engine numpy cannot"),
        ({"slots_per_actor": 1}, "leaves some of the 3 tasks without a slot"),
        ({"reset_patience": -1.0}, "runtime.reset_patience=-1.0 is out of range"),
        ({"reset_patience": math.nan}, "runtime.reset_patience=nan is out of range"),
    ],
)
def test_impossible_schedules_are_refused_in_one_sentence(
    configured: Configured, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_schedule(*configured(**options), num_actors=2)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_weights_and_infinite_patience_can_be_configured() -> None:
    words = ("runtime.task_schedule=weighted", "runtime.task_weights=[1,2.5]", "runtime.reset_patience=inf")
    runtime = compose_train(words).runtime
    assert runtime.task_weights == [1.0, 2.5] and runtime.reset_patience == math.inf


LEVELS = "env.tasks=[MiniGrid-LavaGapS5-v0,MiniGrid-Empty-5x5-v0,BabyAI-GoToLocalS5N2-v0]"


def test_tasks_reach_equal_frames_even_after_a_resume() -> None:
    pytest.importorskip("minigrid")
    # Five fixed slots would give the first two tasks twice the frames of the third.
    runtime = ("runtime=serial", "runtime.slots_per_actor=5", "runtime.task_schedule=uniform_frames")
    sizes = ("torso.size=8", "core.size=8", "fusion.size=8", "learner.batch_size=5")
    config = compose_train(["env=babyai", "env.engine=minigrid", LEVELS, *sizes, *runtime])
    env = make_spec(config.env)
    network = build_network(config, env)
    learner, statistics, positions = build_learner(config, env, network), Statistics(env.tasks), StreamPositions()
    for _ in range(2):
        actors = build_runtime(config, env, network, positions, 0)
        for _ in range(11):
            statistics.update(actors.collect().trajectory)
        actors.close()
        content = checkpoint_content(config, env, learner, statistics, actors.positions, 0.0)
        statistics, positions = Statistics(env.tasks), StreamPositions()
        restore(content, config, env, learner, statistics, positions, num_actors=1)
        steps = [task.steps for task in statistics.tasks.values()]
        assert positions.steps == dict(enumerate(steps))
        assert max(steps) - min(steps) <= 300
    assert sum(steps) > 1700


def test_updates_are_counted_for_the_tasks_in_their_batch() -> None:
    env = fake_env()
    statistics = Statistics(env.tasks)
    batch = fake_batch(env, 1, 6, 3)
    held = []
    for tasks, mask in (((0, 0, 1), True), ((1, 1, 1), True), ((2, 1, 1), False)):
        batch["task"][:] = torch.tensor(tasks)
        batch["mask"][:] = True
        batch["mask"][:, 0] = mask
        statistics.count_update(steps_by_task(batch, len(env.tasks)), [0.0] * len(env.tasks))
        held.append([row["updates"] for row in statistics.summary(4).values()])
    assert held == [[1, 1, 0], [1, 2, 0], [1, 3, 0]]
    other = Statistics(env.tasks)
    other.load_state_dict(statistics.state_dict())
    assert other.summary(4) == statistics.summary(4)
    # The state of an early run, which has no counts of updates.
    state = statistics.state_dict()
    for saved in state.values():
        del saved["updates"]
    other.load_state_dict(state)
    assert {row["updates"] for row in other.summary(4).values()} == {0}
