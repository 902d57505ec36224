"""All actors in the learner's process, in a fixed order: reproducible bit for bit, and easy to debug."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from typing import Any

from agents.acting.actor import Actor
from agents.network.agent import AgentNetwork
from agents.runtime.base import Batch, PoolConfig, StreamPositions, never_interrupt
from agents.runtime.restarts import Faults
from agents.trajectory import Trajectory, allocate, concatenate
from envs.faults import Fault
from system.errors import InputError


class SerialRuntime:
    """Actors that act in turn with the learner's network. The only policy lag is between the updates of one batch.

    A batch holds one unroll each of the next `unrolls_per_batch` actors, cyclically.

    Args:
        state: `state_dict` of a runtime with the same numbers of actors and slots, from which this one resumes bit for bit.
    """

    def __init__(
        self,
        pool: PoolConfig,
        network: AgentNetwork,
        *,
        positions: StreamPositions | None = None,
        version: int = 0,
        state: dict[str, Any] | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.positions = positions or StreamPositions()
        self._make_actor, self._network = pool.make_actor, network
        self._faults = faults or Faults()
        self._actors = [self._make_actor(index, self.positions, network) for index in range(pool.num_actors)]
        self._buffers = [allocate(pool.spec) for _ in range(pool.unrolls_per_batch)]
        self._version = version
        self._next_actor = 0
        if state is not None:
            self._load_state_dict(state)
        self._idle_since = time.perf_counter()

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            for actor, frozen in zip(self._actors, state["actors"], strict=True):
                actor.load_state_dict(frozen)
            self._next_actor = int(state["turn"]) % len(self._actors)
        except (LookupError, ArithmeticError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"resume=true: the state of the actors in the checkpoint does not fit ({reason}): use an earlier one."
            ) from error

    def collect(self, check: Callable[[], object] = never_interrupt) -> Batch:
        """Plays the unrolls of one batch; `check` is not called, because nothing waits."""
        idle_since, start = self._idle_since, time.perf_counter()
        env_seconds = inference_seconds = 0.0
        for buffer in self._buffers:
            index = self._next_actor
            self._next_actor = (self._next_actor + 1) % len(self._actors)
            actor = self._unroll(index, buffer)
            env_seconds += actor.env_seconds
            inference_seconds += actor.inference_seconds
            for fault in actor.faults:
                self._faults.add(f"an environment of actor {index}", fault, episodes_dropped=1)
            self.positions.unrolls[index] = actor.unrolls
            self.positions.episodes[index] = buffer["episode"].tolist()
        trajectory = concatenate(self._buffers)
        self._idle_since = time.perf_counter()
        # Actors and learner share a process: while one works, the other waits.
        return Batch(
            trajectory=trajectory,
            weights_versions=[self._version] * len(self._buffers),
            wait_seconds=self._idle_since - start,
            actor_seconds=self._idle_since - idle_since,
            env_seconds=env_seconds,
            inference_seconds=inference_seconds,
            actor_wait_seconds=start - idle_since,
        )

    def _unroll(self, index: int, buffer: Trajectory) -> Actor:
        """Plays an unroll with actor `index`, or with its successor if it raises. Returns the actor."""
        while True:
            actor = self._actors[index]
            try:
                actor.unroll(buffer)
                return actor
            except InputError:
                raise
            except Exception:
                episodes = actor.heartbeat.episodes.tolist()
                fault = Fault(actor.task(), "raised", traceback.format_exc())
                self._faults.add(f"actor {index}", fault, unrolls_dropped=1, episodes_dropped=len(episodes))
            with contextlib.suppress(Exception):
                # It may fail for the same reason as the unroll.
                actor.close()
            positions = StreamPositions({index: actor.unrolls}, {index: episodes}, self.positions.steps)
            self._actors[index] = self._build_successor(index, positions)

    def _build_successor(self, index: int, positions: StreamPositions) -> Actor:
        while True:
            try:
                return self._make_actor(index, positions, self._network)
            except InputError:
                raise
            except Exception:
                self._faults.add(f"actor {index}", Fault("", "raised", traceback.format_exc()))
                # Its first episodes may be the reason, so skip them.
                positions.episodes[index] = [episode + 1 for episode in positions.episodes[index]]

    def publish(self, version: int) -> None:
        """Drops what the actors have derived from earlier weights; they share the learner's network."""
        self._version = version
        for actor in self._actors:
            actor.policy.weights_changed()

    def state_dict(self) -> dict[str, Any] | None:
        """The states of all actors; None if an environment has no state to save."""
        actors = [actor.state_dict() for actor in self._actors]
        return None if None in actors else {"actors": actors, "turn": self._next_actor}

    def processes(self) -> dict[str, int]:
        """Empty: the actors have no processes."""
        return {}

    def close(self) -> None:
        """Closes the environments."""
        for actor in self._actors:
            actor.close()
        self._actors = []
