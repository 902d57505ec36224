"""ProcessEngine: the same results as GymnasiumEngine, named faults, no orphans, and slow resets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
import torch  # noqa: F401  (so that it is there to be inherited)
import walks
from processes import eventually, is_gone
from walks import FAULTY, WALKS

from envs.engines import process_engine, slot_process
from envs.engines.gymnasium_engine import GymnasiumEngine
from envs.engines.process_engine import ProcessEngine
from envs.engines.slot_process import SlotError
from envs.faults import signal_name
from envs.spec import EnvSpec, Slot, Split
from envs.vector import MultitaskVectorEnv
from system.errors import InputError

SLOTS = [Slot(task=task, index=number) for number, task in enumerate((0, 2, 0, 1))]


def pids(engine: ProcessEngine) -> list[int]:
    return [int(number) for number in engine.observation["vector"][:, 0]]


def zeros(engine: Any) -> np.ndarray:
    return np.zeros(len(engine.observation["vector"]), np.int32)


@pytest.mark.usefixtures("processes_are_kept")
def test_every_frame_equals_that_of_one_process() -> None:
    envs = [
        MultitaskVectorEnv(engine(walks.make_walk, WALKS, SLOTS, Split.TRAIN), WALKS, SLOTS, 3)
        for engine in (ProcessEngine, GymnasiumEngine)
    ]
    for first_seed in (3, 4):
        for mine, other in zip(*(env.reset(seed=first_seed) for env in envs), strict=True):
            np.testing.assert_equal(mine, other)
        for action in np.random.default_rng(0).integers(0, 2, (120, len(SLOTS))):
            for mine, other in zip(*(env.step(action) for env in envs), strict=True):
                np.testing.assert_equal(mine, other)
    for env in envs:
        env.close()


@pytest.mark.usefixtures("processes_are_kept")
@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"num_actions": 7, "action_sizes": (3, 4)}, np.array([[1, 3], [2, 0]], np.int32)),
        ({"num_actions": 2, "action_low": (-1.0, -1.0), "action_high": (1.0, 1.0)}, np.array([[0.5, 0.25], [-0.5, 0]])),
    ],
)
def test_actions_of_every_kind_arrive(changes: dict[str, Any], action: np.ndarray) -> None:
    spec = replace(WALKS, **changes)
    engine = ProcessEngine(walks.make_walk, spec, [Slot(task=2, index=0), Slot(task=2, index=1)], Split.TRAIN)
    engine.start(0)
    engine.step(action)
    assert engine.observation["vector"][:, 4].tolist() == action.sum(axis=1).tolist()
    engine.close()


def test_processes_import_what_they_need_and_leave_control_c_to_the_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = ProcessEngine(
        walks.make_modules, replace(WALKS, tasks=("long",)), [Slot(task=0, index=0)] * 2, Split.TRAIN
    )
    engine.start(0)
    assert "torch" in sys.modules
    assert engine.observation["vector"][:, 1:4].tolist() == [[0, 0, 0]] * 2
    processes = pids(engine)
    assert len({os.getpid(), *processes}) == 3
    for pid in processes:
        os.kill(pid, signal.SIGINT)
    engine.step(zeros(engine))
    assert pids(engine) == processes and engine.observation["vector"].any()
    engine.close()
    engine.close()
    assert all(map(is_gone, processes))


def faulty(*faults: str) -> ProcessEngine:
    slots = [Slot(task=FAULTY.tasks.index(fault), index=number) for number, fault in enumerate(faults)]
    return ProcessEngine(walks.make_faulty, FAULTY, slots, Split.TRAIN)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", r"(?s)slot 1 \(task raises\) failed.*Traceback.*walks\.py.*failed as planned"),
        ("raises in reset", r"(?s)slot 1 \(task raises in reset\) failed.*Traceback.*failed as planned"),
        ("exits", r"slot 1 \(task exits\) ended unexpectedly \(exit code 17\)"),
        ("is killed", r"slot 1 \(task is killed\) ended unexpectedly \(killed by SIGKILL\)"),
        ("is killed in real time", r"ended unexpectedly \(killed by SIGRTMIN\+3\)"),
    ],
)
def test_errors_name_task_and_slot(fault: str, message: str) -> None:
    engine = faulty("none", fault)
    processes: list[int] = []
    with pytest.raises(SlotError, match=message):
        engine.start(0)
        processes = pids(engine)
        for _ in range(5):
            engine.step(zeros(engine))
    engine.close()
    assert all(map(is_gone, processes))


@pytest.mark.parametrize("processes", [False, True])
def test_a_forked_copy_of_the_process_ends(processes: bool) -> None:
    """It would otherwise answer, and write checkpoints, like the original process."""
    slots = [Slot(task=FAULTY.tasks.index("forks"), index=number) for number in range(2)]
    engine = (ProcessEngine if processes else GymnasiumEngine)(walks.make_faulty, FAULTY, slots, Split.TRAIN)
    here = psutil.Process()
    before = set(here.children())
    engine.start(0)
    # The third task forks.
    for _ in range(6):
        engine.step(zeros(engine))
    if processes:
        copies = [copy.pid for pid in pids(engine) for copy in psutil.Process(pid).children()]
        eventually(lambda: len(copies) == 2 and all(map(is_gone, copies)))
    else:
        assert len(copied := set(here.children()) - before) == 2
        assert {copy.wait() for copy in copied} == {1}
    engine.close()


def test_signals_have_names() -> None:
    names = {9: "SIGKILL", signal.SIGRTMIN: "SIGRTMIN", signal.SIGRTMIN + 1: "SIGRTMIN+1", signal.SIGRTMAX: "SIGRTMAX"}
    assert {number: signal_name(number) for number in names} == names
    assert all(signal_name(number) for number in range(1, 65)) and signal_name(32) == "signal 32"


def test_an_input_error_stays_an_input_error() -> None:
    with pytest.raises(InputError, match=r"^env.tasks=short is unavailable: choose another\.$"):
        ProcessEngine(walks.make_refused, WALKS, [Slot(task=0, index=0)], Split.TRAIN)


def test_an_import_error_in_the_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("only_here")
    exec("def make(task): ...", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(SlotError, match=r"(?s)slot 0 \(task short\) failed.*No module named 'only_here'"):
        ProcessEngine(vars(module)["make"], WALKS, [Slot(task=0, index=0)], Split.TRAIN)


def test_closing_takes_limited_time(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """And the output of an engine does not go to standard output."""
    monkeypatch.setattr(slot_process, "GRACE_SECONDS", 0.05)
    engine = faulty("none", "hangs", "prints")
    engine.start(0)
    processes = pids(engine)
    for _ in range(2):
        engine.step(zeros(engine))
    engine._processes[1].ask("step", 1, 1)  # the third step, which is never answered
    engine._processes[2].ask("step", 2, 1)
    engine._answer(2)
    engine.close()
    assert all(map(is_gone, processes))
    assert capfd.readouterr().out == ""


PARENT = """
import sys, walks
from envs.engines.process_engine import ProcessEngine
from envs.spec import Slot, Split
slots = [Slot(task=walks.FAULTS.index(fault), index=0) for fault in ("none", "hangs")]
engine = ProcessEngine(walks.make_faulty, walks.FAULTY, slots, Split.TRAIN)
engine.start(0)
print(*(int(number) for number in engine.observation["vector"][:, 0]), flush=True)
while True:
    engine.step(engine.observation["vector"][:, 0].astype("int32"))
"""


def test_processes_die_with_their_parent_even_while_they_hang() -> None:
    here = Path(__file__).parents[1]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout and parent.stderr
    processes = [int(number) for number in parent.stdout.readline().split()]
    assert len(processes) == 2 and not any(map(is_gone, processes))
    assert parent.stderr.readline() == "hanging\n"
    parent.kill()
    parent.wait()
    parent.stdout.close()
    parent.stderr.close()
    eventually(lambda: all(map(is_gone, processes)))


# Slow resets


LENGTHS = {"short": 2, "brief": 2, "middle": 5, "long": 1000}


class Resets:
    """Engines with gates in front of their resets, one slot per task."""

    def __init__(self, folder: Path, tasks: tuple[str, ...], patience: float) -> None:
        self.spec: EnvSpec = replace(WALKS, tasks=tasks, action_counts=(3,) * len(tasks))
        self.make = walks.MakeGated(folder, LENGTHS)
        slots = [Slot(task=number, index=0) for number in range(len(tasks))]
        self.engine = ProcessEngine(self.make, self.spec, slots, Split.TRAIN)
        self.engine.patience = patience
        self.env = MultitaskVectorEnv(self.engine, self.spec, slots, 5)
        self.frames: list[dict[str, Any]] = []
        observation, info = self.env.reset()
        self._keep(observation, info, np.zeros(len(tasks)))

    def step(self) -> dict[str, Any]:
        observation, reward, terminated, truncated, info = self.env.step(np.zeros(self.env.num_envs, np.int32))
        return self._keep(observation, info, reward, terminated | truncated)

    def _keep(self, observation: Any, info: Any, reward: Any, ended: Any = False) -> dict[str, Any]:
        frame = {**observation, **info, "reward": reward, "ended": np.zeros(self.env.num_envs, bool) | ended}
        self.frames.append({key: value.copy() for key, value in frame.items()})
        return self.frames[-1]

    def open_all(self) -> None:
        for task in self.spec.tasks:
            for reset in range(1, 20):
                self.make.open(task, reset)

    def life(self, slot: int) -> list[dict[str, Any]]:
        """A slot's frames, except those in which it was still resetting."""
        frames = [{key: value[slot] for key, value in frame.items()} for frame in self.frames]
        return [frame for frame in frames if not frame["resetting"]]


@pytest.mark.usefixtures("processes_are_kept")
def test_other_slots_continue_while_one_is_resetting(tmp_path: Path) -> None:
    run = Resets(tmp_path, ("short", "long", "middle"), patience=0.0)
    for _ in range(2):
        last = run.step()
    assert last["ended"].tolist() == [True, False, False]
    for age in range(3, 6):
        frame = run.step()
        assert frame["resetting"].tolist() == [True, False, False]
        for key in ("image", "vector", "instruction"):
            assert np.array_equal(frame[key][0], last[key][0])
            assert not np.array_equal(frame[key][1:], last[key][1:]) or key == "instruction"
        assert frame["reward"][0] == 0 and frame["episode"][0] == 0 and np.isnan(frame["episode_return"][0])
        assert frame["vector"][1:, 3].tolist() == [age, age]
    assert frame["ended"].tolist() == [False, False, True]
    assert run.step()["resetting"].tolist() == [True, False, True]
    run.make.open("middle")
    # The observation of the reset is not shown before the step that reports its end.
    written = run.engine._shared["vector"][1 - run.engine._bank[2], 2]
    eventually(lambda: np.array_equal(written, [0, *written[1:3], 0, 0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_engine, "wait", lambda *_: [])
        again = run.step()
    for key in ("image", "vector", "instruction"):
        assert np.array_equal(again[key][::2], frame[key][::2])
    eventually(lambda: not run.step()["resetting"][2])
    assert run.frames[-1]["resetting"].tolist() == [True, False, False]
    run.open_all()
    run.env.wait_for_resets(np.inf)
    # Waits for resets that start from now on. The running one started with patience 0.
    eventually(lambda: not run.step()["resetting"].any())
    for _ in range(7):
        assert not run.step()["resetting"].any()
    run.env.close()
    for slot in range(3):
        check_life(run, slot)


def check_life(run: Resets, slot: int) -> None:
    """Except for waiting steps, a slot plays the same as in an engine that waits."""
    seat = run.env.slots[slot]
    env = MultitaskVectorEnv(GymnasiumEngine(run.make, run.spec, [seat], Split.TRAIN), run.spec, [seat], 5)
    seen, info = env.reset()
    reward, ended = np.zeros(1), np.zeros(1, bool)
    for number, frame in enumerate(run.life(slot)):
        if number:
            seen, reward, terminated, truncated, info = env.step(np.zeros(1, np.int32))
            ended = terminated | truncated
        for key, value in {**seen, **info, "reward": reward, "ended": ended}.items():
            np.testing.assert_array_equal(frame[key], value[0], key)
    assert number > 7
    env.close()


@pytest.mark.usefixtures("processes_are_kept")
def test_a_step_with_nothing_to_show_sleeps_until_one_reset_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Resets(tmp_path, ("short", "brief"), patience=0.0)
    run.step()
    assert run.step()["ended"].all()
    waits = []

    def wait(*arguments: Any) -> Any:
        waits.append(arguments)
        return connection.wait(*arguments)

    monkeypatch.setattr(process_engine, "wait", wait)
    timer = threading.Timer(0.05, run.make.open, ["brief"])
    timer.start()
    assert run.step()["resetting"].tolist() == [True, False]
    timer.join()
    assert len(waits) == 2
    assert run.step()["vector"][:, 3].tolist() == [2, 1]
    run.open_all()
    eventually(lambda: not run.step()["resetting"].any())
    run.env.close()


@pytest.mark.usefixtures("processes_are_kept")
def test_infinite_patience_waits_for_every_reset(tmp_path: Path) -> None:
    run = Resets(tmp_path, ("short", "long"), patience=np.inf)
    run.step()
    run.step()
    timer = threading.Timer(0.05, run.make.open, ["short"])
    timer.start()
    frame = run.step()
    timer.join()
    assert not frame["resetting"].any() and frame["episode"].tolist() == [1, 0]
    run.env.close()
