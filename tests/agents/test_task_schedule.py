"""Task schedules from the command line to the slots, what is refused, and what is counted per task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from fakes import fake_batch, fake_env

from agents.builder import actor_slots, check_fits
from agents.metrics import Statistics
from agents.plan import check_schedule
from agents.runtime.base import Positions
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.errors import InputError
from envs.spec import EnvSpec, Slot
from envs.suites import make_spec

WORDS = (
    "env=conditional",
    "env.tasks=[map-0,map-1,memory-0]",
    "context=task",
    "runtime=serial",
    "runtime.num_actors=2",
)


def configured(*words: str) -> tuple[TrainConfig, EnvSpec]:
    config = compose_train([*WORDS, *words])
    return config, make_spec(config.env)


def seats(config: TrainConfig, env: EnvSpec, positions: Positions | None = None) -> list[Slot]:
    return [slot for index in range(2) for slot in actor_slots(config, env, index, positions or Positions())]


def test_uniform_slots_are_dealt_in_turn_over_all_actors() -> None:
    slots = seats(*configured("runtime.slots_per_actor=4"))
    assert slots == [Slot(task=number % 3, index=number // 3) for number in range(8)]
    positions = Positions(episodes={0: [3, 1, 4, 1], 1: [5, 9, 2, 6]})
    resumed = seats(*configured("runtime.slots_per_actor=4"), positions)
    assert resumed == [replace(s, episode=e + 1) for s, e in zip(slots, [3, 1, 4, 1, 5, 9, 2, 6], strict=True)]


def test_weights_are_shares_of_the_slots() -> None:
    words = ("runtime.slots_per_actor=20", "runtime.task_schedule=weighted", "runtime.task_weights=[1,5,2]")
    config, env = configured(*words)
    check_schedule(config, env)
    slots = seats(config, env)
    assert Counter(slot.task for slot in slots) == {0: 5, 1: 25, 2: 10}
    assert len({(slot.task, slot.index) for slot in slots}) == 40
    # Each actor by itself has about the same shares.
    assert Counter(slot.task for slot in slots[:20])[1] in (12, 13)


def test_uniform_frames_gives_every_slot_streams_of_its_own() -> None:
    config, env = configured("runtime.slots_per_actor=4", "runtime.task_schedule=uniform_frames")
    env = replace(env, switches_tasks=True)
    check_schedule(config, env)
    assert seats(config, env) == [Slot(task=number % 3, index=number) for number in range(8)]
    # Even with more tasks than slots: they change.
    check_schedule(replace(config, runtime=replace(config.runtime, slots_per_actor=1)), env)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runtime.task_schedule=fair"], "runtime.task_schedule=fair is unknown: choose one of uniform_slots"),
        (["runtime.task_schedule=weighted"], "give one number for each task"),
        (["runtime.task_weights=[1,1,1]"], "set runtime.task_schedule=weighted"),
        (["runtime.task_schedule=weighted", "runtime.task_weights=[1,0,1]"], "give positive finite numbers"),
        (["runtime.task_schedule=weighted", "runtime.task_weights=[1,nan,1]"], "give positive finite numbers"),
        (["runtime.task_schedule=weighted", "runtime.task_weights=[1,2]"], "has 2 numbers for 3 tasks"),
        (
            ["runtime.task_schedule=weighted", "runtime.task_weights=[1,1000,1]"],
            "or the smallest of runtime.task_weights",
        ),
        (["runtime.task_schedule=uniform_frames"], "those of env=conditional on engine numpy cannot"),
        (["runtime.slots_per_actor=1"], "leaves some of the 3 tasks without a slot"),
        (["runtime.reset_patience=-1"], "runtime.reset_patience=-1.0 is out of range"),
        (["runtime.reset_patience=nan"], "runtime.reset_patience=nan is out of range"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_in_one_sentence(words: Sequence[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_fits(*configured(*words), torch.nn.Module())  # type: ignore[arg-type]
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_patience_may_be_infinite() -> None:
    assert configured("runtime.reset_patience=inf")[0].runtime.reset_patience == float("inf")


def test_updates_are_counted_for_the_tasks_that_they_held() -> None:
    env = fake_env()
    statistics = Statistics(env.tasks)
    batch = fake_batch(env, 1, 6, 3)
    held = []
    for tasks, mask in (((0, 0, 1), True), ((1, 1, 1), True), ((2, 1, 1), False)):
        batch["task"][:] = torch.tensor(tasks)
        batch["mask"][:] = True
        batch["mask"][:, 0] = mask
        statistics.learned(batch)
        held.append([row["updates"] for row in statistics.summary(4).values()])
    assert held == [[1, 1, 0], [1, 2, 0], [1, 3, 0]]
    other = Statistics(env.tasks)
    other.load_state_dict(statistics.state_dict())
    assert other.summary(4) == statistics.summary(4)
    # Of a run that was begun before updates were counted.
    state = statistics.state_dict()
    for saved in state.values():
        del saved["updates"]
    other.load_state_dict(state)
    assert {row["updates"] for row in other.summary(4).values()} == {0}
