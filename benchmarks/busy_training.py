"""train.py with environments that take as long as one says:  python -m benchmarks.busy_training [milliseconds=1]
[key=value of train.py ...]

Each step of each slot burns that much processor time - not wall-clock, so more actors than cores gain nothing. For scaling.py.
"""

from __future__ import annotations

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
    """A vector environment that burns processor time in every step.

    Args:
        env: whose steps, and whatever else, are passed through.
        seconds: of this thread's processor time, per step and slot.
    """

    def __init__(self, env: Any, seconds: float) -> None:
        self._env = env
        self._seconds = seconds * env.num_envs

    def step(self, actions: Any) -> Any:
        """As the environment's."""
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass
        return self._env.step(actions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class BusyActorFactory(ActorFactory):
    """The builder's factory, with busy environments.

    Attributes:
        seconds: see BusyEnv.
    """

    seconds: float

    def __call__(
        self, index: int, positions: StreamPositions, network: AgentNetwork | None, policy: ActingPolicy | None = None
    ) -> Actor:
        """See ActorFactory. (A dataclass with slots is made anew by its decorator; `super()` would look for the old one.)"""
        actor = ActorFactory.__call__(self, index, positions, network, policy)
        actor.env = BusyEnv(actor.env, self.seconds)  # type: ignore[assignment]
        return actor


def main(arguments: Sequence[str]) -> int:
    """train.py's main, and its exit codes."""
    options = parse(arguments, rounds=1, seconds=1, own=("milliseconds",))
    milliseconds = options.numbers("milliseconds", (1,))[0]
    # The only difference to train.py; build_runtime looks this name up when the run starts.
    builder.ActorFactory = partial(BusyActorFactory, seconds=milliseconds / 1000)  # type: ignore[misc, assignment]
    return train.main(options.overrides)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
