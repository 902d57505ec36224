"""train.py with environments of a given cost:  python -m benchmarks.busy_training [milliseconds=1]
[key=value of train.py ...]

Each step of each slot uses so much processor time. It is not wall-clock time, so that more actors than cores gain nothing. For scaling.py.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import train
from agents.acting.actor import ActingPolicy, Actor
from agents.network.agent import AgentNetwork
from agents.runtime.base import StreamPositions
from agents.setup import builder
from agents.setup.builder import ActorFactory
from benchmarks.options import parse


class BusyEnv:
    """Wraps a vector environment and uses processor time in every step.

    Args:
        env: The wrapped environment.
        seconds: Processor time of this thread for each step and slot.
    """

    def __init__(self, env: Any, seconds: float) -> None:
        self._env = env
        self._seconds = seconds * env.num_envs

    def step(self, actions: Any) -> Any:
        """Uses the time, then steps the environment."""
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass
        return self._env.step(actions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class BusyActorFactory(ActorFactory):
    """The builder's factory, with BusyEnv around the environments.

    Attributes:
        seconds: See BusyEnv.
    """

    seconds: float

    def __call__(
        self, index: int, positions: StreamPositions, network: AgentNetwork | None, policy: ActingPolicy | None = None
    ) -> Actor:
        """See ActorFactory. (`super()` fails here: the decorator replaces a dataclass with slots by a new class.)"""
        actor = ActorFactory.__call__(self, index, positions, network, policy)
        actor.env = BusyEnv(actor.env, self.seconds)  # type: ignore[assignment]
        return actor


def main(arguments: Sequence[str]) -> int:
    """train.py's main, and its exit codes."""
    options = parse(arguments, rounds=1, seconds=1, own=("milliseconds",))
    milliseconds = options.numbers("milliseconds", (1,))[0]
    # The only difference to train.py. build_runtime reads this name when training starts.
    builder.ActorFactory = partial(BusyActorFactory, seconds=milliseconds / 1000)  # type: ignore[misc, assignment]
    return train.main(options.overrides)


if __name__ == "__main__":
    # Actors import the factory by the name of its module, and they have no `__main__` of ours.
    sys.exit(importlib.import_module("benchmarks.busy_training").main(sys.argv[1:]))
