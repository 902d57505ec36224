"""Actors whose environments run in separate processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import pytest
from counted import counting_pool, counting_runtime
from counting import COUNTING, NUM_ACTIONS, SLOTS, CountingNetwork
from pids import make_pid
from processes import is_gone

from agents.acting.actor import Actor
from agents.acting.policy import Policy
from agents.network.actions import Categorical
from agents.runtime.base import ActorError, StreamPositions
from envs.engines.process_engine import ProcessEngine
from envs.spec import Slot, Split
from envs.vector import MultitaskVectorEnv

SEATS = [Slot(task=0, index=number) for number in range(SLOTS)]


@dataclass(frozen=True)
class MakeProcessActor:
    """An actor with three slots in three processes."""

    def __call__(self, index: int, positions: StreamPositions, network: Any, policy: Any = None) -> Actor:
        env = MultitaskVectorEnv(ProcessEngine(make_pid, COUNTING, SEATS, Split.TRAIN), COUNTING, SEATS, seed=0)
        return Actor(env, Policy(CountingNetwork(), SLOTS), Categorical(NUM_ACTIONS), seed=(0, index))  # type: ignore[arg-type]


def test_environment_processes_end_with_their_actor() -> None:
    runtime = counting_runtime("local", counting_pool(1, make_actor=MakeProcessActor()), CountingNetwork())
    actor = runtime.processes()["actor-0"]
    try:
        processes = {int(pid) for pid in runtime.collect().trajectory["vector"][:, :, 0].unique()}
        assert len(processes) == SLOTS and not processes & {os.getpid(), actor}
        assert not any(map(is_gone, processes))
        os.kill(actor, signal.SIGKILL)
        with pytest.raises(ActorError, match="actor 0.*was killed"):
            while True:
                runtime.collect()
        deadline = time.monotonic() + 60
        while not all(map(is_gone, processes)):
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        runtime.close()
