"""Environments that fail in their own processes: only the failed one is restarted, and the other slots are unaffected."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from environments import BREAKING, CAUSE_OF, LEAK, MakeBreaking, action_for, life
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import is_gone

from envs.dmlab30.config import DMLab30Config
from envs.engines import process_engine, slot_process
from envs.engines.process_engine import ProcessEngine
from envs.engines.slot_process import SlotError, SlotProcess
from envs.faults import Fault
from envs.gymnasium_ids.suite import GymnasiumConfig
from envs.seeding import episode_seed
from envs.spec import EnvSpec, Slot, Split
from envs.suites import make_env, make_spec
from envs.vector import MultitaskVectorEnv

SEED = 5
LONG = 3600.0
"""Time in seconds after which an environment counts as hung; longer than any test."""


def seed_of(slot: Slot, episode: int) -> int:
    return episode_seed(SEED, Split.TRAIN, BREAKING.tasks[slot.task], slot.index, episode)


class Played:
    """A supervised environment, and all frames of its slots.

    Args:
        breaks: For each slot, episode -> (age, fault), as in `environments.Breaking.plan`.
    """

    def __init__(
        self,
        breaks: Sequence[dict[int, tuple[int, str]]],
        marker: Path | None = None,
        patience: float = np.inf,
        leaks: bool = False,
    ) -> None:
        self.slots = [Slot(task=number % 3, index=number) for number in range(len(breaks))]
        self.plan = {
            seed_of(slot, episode): what
            for slot, planned in zip(self.slots, breaks, strict=True)
            for episode, what in planned.items()
        }
        self.engine = ProcessEngine(MakeBreaking(self.plan, marker, leaks), BREAKING, self.slots, Split.TRAIN)
        self.env = MultitaskVectorEnv(self.engine, BREAKING, self.slots, SEED)
        self.env.wait_for_resets(patience)
        self.env.supervise(LONG, 0, 0)
        observation, info = self.env.reset()
        self.frames: list[dict[str, Any]] = []
        nothing = np.zeros(len(breaks))
        self._keep({**observation, **info, "reward": nothing, "terminated": nothing, "truncated": nothing})

    def _keep(self, frame: dict[str, Any]) -> None:
        self.frames.append({key: value.copy() for key, value in frame.items()})

    def step(self) -> None:
        actions = np.array([action_for(vector) for vector in self.frames[-1]["vector"]], np.int32)
        observation, reward, terminated, truncated, info = self.env.step(actions)
        self._keep({**observation, **info, "reward": reward, "terminated": terminated, "truncated": truncated})

    def check(self) -> None:
        """Compares the frames of every slot with the expected ones, except while it was resetting."""
        for number, slot in enumerate(self.slots):
            frames = [{key: value[number] for key, value in frame.items()} for frame in self.frames]
            shown = [frame for frame in frames if not frame["resetting"]]
            expected = itertools.islice(life(partial(seed_of, slot), self.plan), len(shown))
            for frame, wanted in zip(shown, expected, strict=True):
                assert frame["vector"].tolist() == wanted["vector"]
                seed = (wanted["vector"][0] << 16) + wanted["vector"][1]
                assert (frame["image"] == seed % 200 + wanted["vector"][2]).all()
                assert frame["task"] == slot.task and np.isnan(frame["success"]) == (wanted["episode_return"] is None)
                for key in ("reward", "terminated", "truncated", "interrupted", "episode", "episode_length"):
                    assert frame[key] == wanted[key], key
                wanted_return = np.nan if wanted["episode_return"] is None else wanted["episode_return"]
                np.testing.assert_equal(frame["episode_return"], np.float32(wanted_return))
            for before, frame in itertools.pairwise(frames):
                if frame["resetting"]:
                    assert np.array_equal(frame["vector"], before["vector"]) and frame["reward"] == 0
                    assert frame["episode"] == before["episode"] and not frame["interrupted"]


def is_stopped(pid: int) -> bool:
    return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")


@pytest.fixture
def hangs_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path. If a file of this name plus a process id exists, that process counts as hung as soon as it does not answer."""
    marker, has_answered = tmp_path / "hangs", SlotProcess.has_answered

    def answers_or_hangs(process: SlotProcess, until: float) -> bool:
        while not has_answered(process, time.monotonic() + 0.01):
            hangs = marker.with_name(f"{marker.name}-{process._process.pid}")
            if hangs.exists() and (hangs.read_text() == "hangs" or is_stopped(process._process.pid)):
                return False
        return True

    monkeypatch.setattr(SlotProcess, "has_answered", answers_or_hangs)
    return marker


@pytest.mark.usefixtures("processes_are_kept")
def test_every_fault_costs_its_slot_one_episode_and_other_slots_nothing(hangs_are_seen: Path) -> None:
    """One slot for each fault, at different steps of different episodes, and one slot without faults."""
    breaks = [{number % 3 + 1: (number % 3 + 1, fault)} for number, fault in enumerate(CAUSE_OF)]
    played = Played([{}, *breaks, {0: (2, "raises"), 1: (1, "raises"), 3: (3, "raises")}], hangs_are_seen)
    faults: list[Fault] = []
    for _ in range(60):
        played.step()
        faults += played.env.take_faults()
    played.env.close()
    played.check()
    assert not any(frame["resetting"].any() for frame in played.frames)
    assert sum(frame["interrupted"].sum() for frame in played.frames) == len(faults) == len(CAUSE_OF) + 3
    details = {}
    for number, (fault, cause) in enumerate(CAUSE_OF.items(), 1):
        place = f"the process of slot {number} (task {BREAKING.tasks[number % 3]})"
        (found,) = [one for one in faults if place in one.detail]
        assert (found.task, found.cause) == (BREAKING.tasks[number % 3], cause)
        details[fault] = found.detail
    assert "environments.py" in details["raises"] and "failed as planned" in details["raises"]
    assert "KeyError: 'vector'" in details["raises halfway"]
    assert details["exits"].endswith("ended unexpectedly (exit code 17).")
    assert details["is killed"].endswith("ended unexpectedly (killed by SIGKILL).")
    assert "killed by SIGSEGV" in details["segfaults"] and "gave no answer for 3600 s" in details["hangs"]
    for fault in ("segfaults", "hangs"):
        assert 'environments.py", line' in details[fault] and "in _break" in details[fault]
    assert details["stops"].endswith("gave no answer for 3600 s.")


@pytest.mark.usefixtures("processes_are_kept")
def test_an_episode_that_cannot_start_is_skipped() -> None:
    """Including the first one, and several in a row."""
    played = Played(
        [
            {},
            {0: (0, "raises"), 2: (0, "exits")},
            {1: (0, "raises"), 2: (0, "raises")},
            {2: (1, "raises"), 3: (0, "raises")},
        ]
    )
    while played.frames[-1]["episode"].min() < 5:
        played.step()
    played.env.close()
    played.check()
    # `step` returns at once if an environment fails again, with any patience.
    assert any(frame["resetting"].any() for frame in played.frames)
    causes = [(fault.task, fault.cause) for fault in played.env.take_faults()]
    assert (
        sorted(causes)
        == [("one", "raised")] * 2 + [("other", "exited"), ("other", "raised")] + [("third", "raised")] * 2
    )


@pytest.mark.usefixtures("processes_are_kept")
def test_a_first_episode_that_never_starts_is_an_error() -> None:
    with pytest.raises(SlotError, match=r"(?s)slot 0 \(task one\) failed.*failed as planned") as error:
        Played([dict.fromkeys(range(9), (0, "raises"))])
    assert error.value.cause == "raised"


@pytest.mark.usefixtures("processes_are_kept")
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.integers(0, 6), st.integers(1, 7), max_size=3), min_size=2, max_size=3))
def test_any_pattern_of_faults_gives_the_expected_frames(breaks: list[dict[int, int]]) -> None:
    played = Played([{episode: (age, "raises") for episode, age in planned.items()} for planned in breaks])
    for _ in range(50):
        played.step()
    played.env.close()
    played.check()


def pids(engine: ProcessEngine) -> list[int]:
    return [process._process.pid for process in engine._processes]


def test_other_slots_continue_while_a_process_starts_and_close_ends_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    played = Played([{}, {}], patience=0.0)
    first = pids(played.engine)
    for episode in range(2):
        while played.frames[-1]["vector"][1, 2] != 1:
            played.step()
        os.kill(pids(played.engine)[1], signal.SIGKILL)
        killed = len(played.frames)
        played.plan[seed_of(played.slots[1], int(played.frames[-1]["episode"][1]))] = (2, "is killed")
        played.step()
        assert played.frames[-1]["interrupted"].tolist() == [False, True]
        played.step()
        if episode:
            break
        while played.frames[-1]["resetting"][1]:
            played.step()
        assert len(played.frames) - killed > 2
    assert [(fault.task, fault.cause) for fault in played.env.take_faults()] == [("other", "killed")] * 2
    assert played.env.take_faults() == []
    assert played.frames[-1]["resetting"][1]
    last = pids(played.engine)
    monkeypatch.setattr(slot_process, "GRACE_SECONDS", 0.05)
    played.env.close()
    played.check()
    assert all(map(is_gone, first + last)) and first[0] == last[0] and first[1] != last[1]


def test_a_process_that_does_not_answer_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """During a step, when it is stopped and only SIGKILL ends it; and while it starts."""
    played = Played([{}])

    def start_with_patience() -> SlotProcess:
        played.env.supervise(LONG, 0, 0)
        return SlotProcess()

    (stopped,) = pids(played.engine)
    os.kill(stopped, signal.SIGSTOP)
    played.env.supervise(0.05, 0, 0)
    played.step()
    assert played.frames[-1]["interrupted"][0] and is_gone(stopped)
    played.env.supervise(0.001, 0, 0)
    (starting,) = pids(played.engine)
    # The new process would have the same short time.
    monkeypatch.setattr(process_engine, "SlotProcess", start_with_patience)
    played.step()
    assert played.frames[-1]["resetting"][0] and is_gone(starting)
    for _ in range(5):
        played.step()
    played.env.close()
    assert not any(frame["resetting"][0] for frame in played.frames[3:])
    assert [fault.cause for fault in played.env.take_faults()] == ["hung", "hung"]
    played.plan |= {seed_of(played.slots[0], 0): (1, "stops"), seed_of(played.slots[0], 1): (0, "hangs")}
    played.check()


@pytest.mark.usefixtures("processes_are_kept")
def test_processes_are_replaced_between_two_episodes_without_loss() -> None:
    played = Played([{}, {2: (2, "raises")}])
    played.env.supervise(LONG, 0, 3)
    while played.frames[-1]["episode"].min() < 7:
        played.step()
    played.env.close()
    played.check()
    assert not any(frame["resetting"].any() for frame in played.frames)
    faults = [fault for fault in played.env.take_faults() if fault.cause == "recycled"]
    last = played.frames[-1]["episode"]
    # Episode 2 of slot 1 is interrupted when its process is due, which resets the count.
    assert [fault.task for fault in faults].count("one") == last[0] // 3
    assert [fault.task for fault in faults].count("other") == last[1] // 3 - 1
    assert faults[0].detail.endswith("played 3 episodes.")


@pytest.mark.usefixtures("processes_are_kept")
def test_a_leaking_process_is_replaced_before_its_next_episode() -> None:
    played = Played([{}, {}], leaks=True)
    processes = played.engine._processes
    limit = int(max(process.memory() for process in processes)) + LEAK // 2**20 * 3 // 2
    played.env.supervise(LONG, limit, 0)
    while played.frames[-1]["episode"].min() < 7:
        played.step()
        assert all(process.memory() < limit + 2 * LEAK / 2**20 for process in processes)
    played.env.close()
    played.check()
    faults = played.env.take_faults()
    assert {(fault.task, fault.cause) for fault in faults} == {("one", "memory"), ("other", "memory")}
    assert 4 <= len(faults) <= 8
    assert f"MiB of memory, more than {limit:,}." in faults[0].detail


@pytest.mark.usefixtures("processes_are_kept")
def test_slots_that_change_their_tasks_keep_the_balance() -> None:
    """Steps of interrupted episodes count, but not for the expected length of episodes."""
    slots = [Slot(task=number % 3, index=number) for number in range(3)]
    every = [replace(slot, task=task) for slot in slots for task in range(3)]
    chosen = [seed_of(slot, episode) for slot in every for episode in range(60)]
    plan = {seed: (3, "raises") for seed in chosen if seed % 4 == 0}
    plan |= {seed_of(slot, 0): (1, "raises") for slot in slots}
    engine = ProcessEngine(MakeBreaking(plan), BREAKING, slots, Split.TRAIN)
    env = MultitaskVectorEnv(engine, BREAKING, slots, SEED)
    env.balance_frames([0, 40, 100])
    env.supervise(LONG, 0, 0)
    observation, info = env.reset()
    taken, over = np.array([0, 40, 100]), np.zeros(3, bool)
    lengths: list[list[int]] = [[], [], []]
    for _ in range(150):
        task = observation["task"].copy()
        observation, _, terminated, truncated, info = env.step(np.zeros(3, np.int32))
        np.add.at(taken, task[~over & ~info["interrupted"]], 1)
        for slot in np.flatnonzero(info["episode_length"]):
            lengths[task[slot]].append(int(info["episode_length"][slot]))
        over = terminated | truncated | info["interrupted"]
        seen = observation["vector"][:, 0].astype(int) << 16 | observation["vector"][:, 1].astype(int)
        assert seen.tolist() == [
            seed_of(replace(slot, task=int(played)), episode)
            for slot, played, episode in zip(slots, observation["task"], info["episode"], strict=True)
        ]
    env.close()
    assert env._balance is not None
    assert env._balance._steps.tolist() == taken.tolist()
    assert env._balance._finished_steps.tolist() == [sum(one) for one in lengths]
    assert env._balance._finished.tolist() == [len(one) for one in lengths]
    assert taken.max() - taken.min() <= 3 * 7
    assert len(env.take_faults()) > 8


@pytest.mark.usefixtures("processes_are_kept")
def test_reset_returns_to_the_first_episodes() -> None:
    played = Played([{1: (1, "raises")}, {0: (2, "raises"), 1: (0, "raises")}], patience=0.0)
    for _ in range(2):
        for _ in range(25):
            played.step()
        played.check()
        observation, info = played.env.reset()
        played.frames.clear()
        nothing = np.zeros(2)
        played._keep({**observation, **info, "reward": nothing, "terminated": nothing, "truncated": nothing})
    played.env.close()


def played_alone(config: Any, spec: EnvSpec, slot: Slot, episode: int, steps: int) -> list[dict[str, Any]]:
    """The frames of a slot in this process, from that episode on."""
    env = make_env(replace(config, processes=False), spec, [replace(slot, episode=episode)], SEED, Split.TRAIN)
    frames = [{key: value[0].copy() for key, value in env.reset()[0].items()}]
    for _ in range(steps):
        observation = env.step(np.ones(1, np.int32))[0]
        frames.append({key: value[0].copy() for key, value in observation.items()})
    env.close()
    return frames


@pytest.mark.usefixtures("processes_are_kept", "alone")
@pytest.mark.parametrize(
    "config",
    [
        GymnasiumConfig(tasks=["environments:Counts-v0", "environments:Segfaults-v0"], processes=True),
        DMLab30Config(tasks=["dmlab28"], width=32, height=24),
    ],
    ids=["gymnasium", "dmlab30"],
)
def test_suites_with_processes_continue_after_a_fault(config: Any) -> None:
    """Registered environments, one of which fails; and DeepMind Lab, whose process is killed."""
    spec = make_spec(config)
    slots = [Slot(task=0, index=0), Slot(task=1, index=1)]
    env = make_env(config, spec, slots, SEED, Split.TRAIN)
    env.supervise(LONG, 0, 0)
    observation, info = env.reset()
    frames, infos = [{key: value.copy() for key, value in observation.items()}], []
    while not infos or not infos[-1]["interrupted"][1]:
        if config.name == "dmlab30" and len(frames) == 5:
            os.kill(pids(env._engine)[1], signal.SIGKILL)  # type: ignore[arg-type]
        observation, *_, info = env.step(np.ones(2, np.int32))
        frames.append({key: value.copy() for key, value in observation.items()})
        infos.append({key: value.copy() for key, value in info.items()})
    broken = len(frames)
    for _ in range(8):
        observation, *_ = env.step(np.ones(2, np.int32))
        frames.append({key: value.copy() for key, value in observation.items()})
    episode = int(info["episode"][1])
    (fault, *_) = env.take_faults()
    env.close()
    assert (fault.task, fault.cause) == (spec.tasks[1], "killed")
    for key in frames[0]:
        for mine, alone in zip(frames, played_alone(config, spec, slots[0], 0, len(frames) - 1), strict=True):
            assert np.array_equal(mine[key][0], alone[key])
        assert np.array_equal(frames[broken - 1][key][1], frames[broken - 2][key][1])
        after = played_alone(config, spec, slots[1], episode + 1, 1)
        for mine, alone in zip(frames[broken : broken + 2], after, strict=True):
            assert np.array_equal(mine[key][1], alone[key])
