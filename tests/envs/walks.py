"""Gymnasium environments for the tests of engines, some of which fail. Child processes import this module."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from envs.engines.process_engine import ProcessEngine
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suite import EnvConfig
from system.errors import InputError

WORDS = ("", "?", "go", "left", "right")
WALKS = EnvSpec(
    suite="walks",
    tasks=("short", "middle", "long"),
    observation={
        "image": ArraySpec(shape=(5, 3, 2), dtype="uint8"),
        "vector": ArraySpec(shape=(5,), dtype="float32"),
    },
    instruction_length=3,
    vocabulary=WORDS,
    num_actions=3,
    action_counts=(3, 2, 3),
    switches_tasks=True,
)
MEAN_LENGTHS = {"short": 4, "middle": 12, "long": 30}


class Walk(gymnasium.Env[dict[str, Any], Any]):
    """An episode of about the task's mean length. Its vector is (process id, seed in two parts, step, sum of the last action)."""

    def __init__(self, task: str) -> None:
        self.mean_length = MEAN_LENGTHS.get(task, 4)
        self.seed = self.length = self.age = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.seed, self.age = seed, 0
        self.length = int(self.np_random.integers(1, 2 * self.mean_length))
        return self._see(0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        ended = self.age == self.length
        terminated = ended and self.seed % 3 > 0
        return self._see(action), float(self.np_random.integers(-8, 9)) / 8, terminated, ended and not terminated, {}

    def _see(self, action: Any) -> dict[str, Any]:
        numbers = (os.getpid(), self.seed >> 16, self.seed & 0xFFFF, self.age, np.sum(action))
        return {
            "image": self.np_random.integers(0, 256, (5, 3, 2), np.uint8),
            "vector": np.array(numbers, np.float32),
            "instruction": f"go {self.np_random.choice(['left', 'right', 'nowhere'])}",
        }

    def render(self) -> Any:
        return self.np_random.integers(0, 256, (8, 6, 3), np.uint8)


class PlainWalk(Walk):
    """A walk without the process id, so that every process gives the same observations."""

    def _see(self, action: Any) -> dict[str, Any]:
        seen = super()._see(action)
        seen["vector"][0] = 0
        return seen


def make_walk(task: str) -> Walk:
    return PlainWalk(task)


class Faulty(Walk):
    """Fails in its third step, or in its reset, as the name of its task says."""

    def __init__(self, task: str) -> None:
        super().__init__("long")
        self.fault = task

    def reset(self, **kwargs: Any) -> Any:
        if self.fault == "raises in reset":
            raise RuntimeError("the walk failed as planned")
        seen = super().reset(**kwargs)
        self.length = 1000
        return seen

    def step(self, action: Any) -> Any:
        seen = super().step(action)
        if self.age == 3:
            if self.fault == "raises":
                raise RuntimeError("the walk failed as planned")
            if self.fault == "exits":
                os._exit(17)
            if self.fault == "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "is killed in real time":
                os.kill(os.getpid(), signal.SIGRTMIN + 3)
            if self.fault == "forks":
                os.fork()
            if self.fault == "hangs":
                print("hanging", file=sys.stderr, flush=True)
                ctypes.PyDLL(None).sleep(1000)  # without releasing the interpreter lock
            if self.fault == "prints":
                print("a word from the engine")
        return seen


FAULTS = (
    "none",
    "raises",
    "raises in reset",
    "exits",
    "is killed",
    "is killed in real time",
    "forks",
    "hangs",
    "prints",
)
FAULTY = EnvSpec(
    suite="faulty",
    tasks=FAULTS,
    observation=WALKS.observation,
    instruction_length=0,
    vocabulary=(),
    num_actions=3,
    action_counts=(3,) * len(FAULTS),
)


def make_faulty(task: str) -> Walk:
    return Faulty(task)


def make_refused(task: str) -> Walk:
    raise InputError(f"env.tasks={task} is unavailable: choose another.")


class Modules(Walk):
    """Its vector shows whether unwanted modules are loaded in its process."""

    def _see(self, action: Any) -> dict[str, Any]:
        seen = super()._see(action)
        seen["vector"][1:] = ["torch" in sys.modules, "pytest" in sys.modules, "hydra" in sys.modules, 0]
        return seen


def make_modules(task: str) -> Walk:
    return Modules(task)


class Gated(PlainWalk):
    """Episodes of `length` steps. Every reset but the first waits for a file `gate`-<number of the reset>."""

    def __init__(self, task: str, gate: Path, length: int) -> None:
        super().__init__(task)
        self.gate, self.fixed_length, self.resets = gate, length, 0

    def reset(self, **kwargs: Any) -> Any:
        path = self.gate.with_name(f"{self.gate.name}-{self.resets}")
        while self.resets and not path.exists():
            time.sleep(0.002)
        self.resets += 1
        seen = super().reset(**kwargs)
        self.length = self.fixed_length
        return seen


class MakeGated:
    """Each task has its own gate and length."""

    def __init__(self, folder: Path, lengths: dict[str, int]) -> None:
        self.folder, self.lengths = folder, lengths

    def __call__(self, task: str) -> Walk:
        return Gated(task, self.folder / task, self.lengths[task])

    def open(self, task: str, reset: int = 1) -> None:
        (self.folder / f"{task}-{reset}").touch()


def make_spec(config: EnvConfig) -> EnvSpec:
    return WALKS


def make_engine(config: EnvConfig, spec: EnvSpec, slots: list[Slot], split: Split) -> ProcessEngine:
    return ProcessEngine(make_walk, spec, slots, split)
