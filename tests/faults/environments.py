"""An environment that counts, and fails as planned. Child processes import this module, and so can runs:
env=gymnasium env.processes=true env.tasks=[environments:Raises-v0], with tests/faults in PYTHONPATH.

An episode is a function of its seed. It has seed % 5 + 3 steps. One episode in three terminates, the others are truncated. Observations
are (seed in two parts, age, last action), where age counts the steps from 0. Each reward is computed from them (`reward_of`). So tests
can check every result by arithmetic, whatever process played it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.faults import CAUSES
from envs.spec import ArraySpec, EnvSpec

CAUSE_OF = {
    "raises": "raised",
    "raises halfway": "raised",
    "exits": "exited",
    "is killed": "killed",
    "segfaults": "killed",
    "hangs": "hung",
    "stops": "hung",
}
"""Kind of failure -> the cause in its Fault."""

assert set(CAUSE_OF.values()) < set(CAUSES)

NUM_ACTIONS = 3
LEAK = 64 * 2**20
"""Bytes that a leaking environment allocates and keeps in every episode."""

BREAKING = EnvSpec(
    suite="breaking",
    tasks=("one", "other", "third"),
    observation={
        "image": ArraySpec(shape=(4, 4, 3), dtype="uint8"),
        "vector": ArraySpec(shape=(4,), dtype="float32"),
    },
    instruction_length=0,
    vocabulary=(),
    num_actions=NUM_ACTIONS,
    action_counts=(NUM_ACTIONS,) * 3,
    switches_tasks=True,
)


def length_of(seed: int) -> int:
    return seed % 5 + 3


def reward_of(seed: int, age: int, action: int) -> float:
    """Reward of the step that leads to `age`; exact in float32."""
    return (seed % 64 + age) / 8 + action


def terminates(seed: int) -> bool:
    return seed % 3 == 0


def action_for(vector: Any) -> int:
    """The action of the tests after this observation."""
    return int(vector[1] + vector[2]) % NUM_ACTIONS


class Breaking(gymnasium.Env[Any, Any]):
    """See the module.

    Args:
        plan: Seed -> (age, fault): the failure, a key of CAUSE_OF, in the step that would lead to `age`; 0 is the reset.
        marker: File that is written before the process hangs or stops, with the process id appended to its name; holds which of the two.
        leaks: Whether every episode leaks LEAK bytes.
    """

    def __init__(self, plan: Mapping[int, tuple[int, str]], marker: Path | None = None, leaks: bool = False) -> None:
        self.plan, self.marker, self.leaks = plan, marker, leaks
        self.lost: list[Any] = []
        self.seed = self.age = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.seed, self.age = seed, 0
        if self.leaks:
            self.lost.append(np.ones(LEAK, np.uint8))
        return self._see(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        ended, terminated = self.age == length_of(self.seed), terminates(self.seed)
        reward = reward_of(self.seed, self.age, int(action))
        return self._see(int(action)), reward, ended and terminated, ended and not terminated, {}

    def _see(self, action: int) -> dict[str, Any]:
        vector = np.array((self.seed >> 16, self.seed & 0xFFFF, self.age, action), np.float32)
        seen = {"image": np.full((4, 4, 3), self.seed % 200 + self.age, np.uint8), "vector": vector}
        when, fault = self.plan.get(self.seed, (-1, ""))
        if when == self.age:
            if fault == "raises halfway":
                # The engine writes the image before it fails.
                del seen["vector"]
                return seen
            self._break(fault)
        return seen

    def _break(self, fault: str) -> None:
        if self.marker and fault in ("hangs", "stops"):
            # Renamed, so that the file appears complete.
            written = self.marker.with_name(f"being-written-{os.getpid()}")
            written.write_text(fault)
            written.rename(self.marker.with_name(f"{self.marker.name}-{os.getpid()}"))
        if fault == "raises":
            raise RuntimeError("the environment failed as planned")
        if fault == "exits":
            os._exit(17)
        if fault == "segfaults":
            faulthandler._sigsegv()  # type: ignore[attr-defined]
        if fault == "hangs":
            ctypes.PyDLL(None).sleep(1000)  # without releasing the interpreter lock
        os.kill(os.getpid(), {"is killed": signal.SIGKILL, "stops": signal.SIGSTOP}[fault])


@dataclass
class MakeBreaking:
    """Environments for `envs.engines.process_engine.ProcessEngine`; see Breaking."""

    plan: dict[int, tuple[int, str]] = field(default_factory=dict)
    marker: Path | None = None
    leaks: bool = False

    def __call__(self, task: str) -> Breaking:
        return Breaking(self.plan, self.marker, self.leaks)


def life(seed_of: Callable[[int], int], plan: Mapping[int, tuple[int, str]]) -> Iterator[dict[str, Any]]:
    """The expected frames of a slot whose episodes have these seeds, without frames in which it is only resetting:
    vector, reward, terminated, truncated, interrupted, episode, episode_return, episode_length.
    """
    for episode in itertools.count():
        seed = seed_of(episode)
        when, _ = plan.get(seed, (-1, ""))
        if when == 0:
            continue
        vector = [seed >> 16, seed & 0xFFFF, 0, 0]
        frame = {
            "vector": vector,
            "reward": 0.0,
            "terminated": False,
            "truncated": False,
            "interrupted": False,
            "episode": episode,
            "episode_return": None,
            "episode_length": 0,
        }
        yield frame
        total = 0.0
        for age in range(1, length_of(seed) + 1):
            if age == when:
                yield {**frame, "vector": vector, "interrupted": True}
                break
            action = action_for(vector)
            vector = [*vector[:2], age, action]
            reward = reward_of(seed, age, action)
            total += reward
            ended = age == length_of(seed)
            yield {
                **frame,
                "vector": vector,
                "reward": reward,
                "terminated": ended and terminates(seed),
                "truncated": ended and not terminates(seed),
                "episode_return": total if ended else None,
                "episode_length": age if ended else 0,
            }


class Registered(Breaking):
    """For suite gymnasium: fails in its second step in one of `every` episodes, chosen by their seeds."""

    observation_space = spaces.Box(0, 2**16, (4,), np.float32)
    action_space = spaces.Discrete(NUM_ACTIONS)

    def __init__(self, fault: str = "", every: int = 4, leaks: bool = False, render_mode: str | None = None) -> None:
        super().__init__({}, leaks=leaks)
        self.fault, self.every, self.render_mode = fault, every, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        # The lowest bit of a seed is its split.
        breaks = bool(self.fault) and seed // 2 % self.every == 0
        self.plan = {seed: (2, self.fault)} if breaks else {}
        return super().reset(seed=seed)

    def _see(self, action: int) -> Any:
        return super()._see(action)["vector"]


STARTED = "STARTED_PROGRAMS"
"""Environment variable: path of the file of the process ids of programs, one per line."""


def start_programs(file: Path) -> None:
    """Starts two programs that never end: one in a new session, and a daemon without environment variables."""
    own = subprocess.Popen(["sleep", "100000"], start_new_session=True)
    command = "setsid env -i sleep 100000 <&- >&- 2>&- & echo $!"
    daemon = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, check=True)
    with file.open("a", encoding="utf-8") as written:
        written.write(f"{own.pid}\n{int(daemon.stdout)}\n")


class Starts(Registered):
    """Starts programs in every reset, and fails as Registered does. `file` replaces the value of STARTED."""

    def __init__(self, file: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.file = file

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        start_programs(Path(self.file or os.environ[STARTED]))
        return super().reset(seed=seed)


@dataclass
class MakeStarting(MakeBreaking):
    """Environments for ProcessEngine that start programs in every reset and write their ids to a file."""

    started: Path = Path()

    def __call__(self, task: str) -> Breaking:
        return _Starting(self.started, self.plan)


class _Starting(Breaking):
    def __init__(self, started: Path, plan: Mapping[int, tuple[int, str]]) -> None:
        super().__init__(plan)
        self.started = started

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        start_programs(self.started)
        return super().reset(seed=seed)


for _name, _options in {
    "Counts": {},
    "Raises": {"fault": "raises"},
    "Exits": {"fault": "exits"},
    "Killed": {"fault": "is killed"},
    "Segfaults": {"fault": "segfaults"},
    "Hangs": {"fault": "hangs"},
    "Leaks": {"leaks": True},
}.items():
    if f"{_name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{_name}-v0", Registered, kwargs=_options)
if "Starts-v0" not in gymnasium.registry:
    gymnasium.register("Starts-v0", Starts)
