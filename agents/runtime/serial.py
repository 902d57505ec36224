"""Everything in one process, in a fixed order: bit-for-bit reproducible, and the easiest to debug."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from typing import Any

from agents.acting.actor import Actor
from agents.network.agent import AgentNetwork
from agents.runtime.base import Batch, PoolConfig, StreamPositions, allocate, concatenate, never_interrupt
from agents.runtime.restarts import Faults
from agents.trajectory import Trajectory
from envs.faults import Fault
from system.errors import InputError


class SerialRuntime:
    """Actors take turns in this process and act with the learner's own network: only the updates of the same batch make policy lag.

    Args:
        pool: the actors; a batch holds one unroll of each of the next `unrolls_per_batch`, in turn.
        network: the learner's.
        positions: where the random streams stand; taken over, and kept up to date.
        version: of the weights that `network` begins with.
        state: `state_dict` of a runtime with as many actors of as many slots, to go on exactly where it was taken.
        faults: takes in every restart of an actor that raised, and says when there are too many; by default the first is. Also takes in
            episodes that were broken off.
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
        self._turn = 0
        if state is not None:
            self._load_state_dict(state)
        self._idle_since = time.perf_counter()

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            for actor, frozen in zip(self._actors, state["actors"], strict=True):
                actor.load_state_dict(frozen)
            self._turn = int(state["turn"]) % len(self._actors)
        except (LookupError, ArithmeticError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"resume=true: the state of the actors in the checkpoint does not fit ({reason}): use an earlier one."
            ) from error

    def collect(self, check: Callable[[], object] = never_interrupt) -> Batch:
        """Plays the unrolls of one batch; there is nobody to wait for."""
        idle_since, began = self._idle_since, time.perf_counter()
        env_seconds = inference_seconds = 0.0
        for buffer in self._buffers:
            index = self._turn
            self._turn = (self._turn + 1) % len(self._actors)
            actor = self._unroll(index, buffer)
            env_seconds += actor.env_seconds
            inference_seconds += actor.inference_seconds
            for fault in actor.faults:
                self._faults.add(f"an environment of actor {index}", fault, episodes_dropped=1)
            self.positions.unrolls[index] = actor.unrolls
            self.positions.episodes[index] = buffer["episode"].tolist()
        trajectory = concatenate(self._buffers)
        self._idle_since = time.perf_counter()
        # One process, so one clock: what is the actors' turn is not the learner's, and the other way round.
        return Batch(
            trajectory=trajectory,
            weights_versions=[self._version] * len(self._buffers),
            wait_seconds=self._idle_since - began,
            actor_seconds=self._idle_since - idle_since,
            env_seconds=env_seconds,
            inference_seconds=inference_seconds,
            actor_wait_seconds=began - idle_since,
        )

    def _unroll(self, index: int, buffer: Trajectory) -> Actor:
        """One unroll of that actor, or of the one that takes its place if it fails."""
        begin: StreamPositions | None = None
        while True:
            try:
                if begin is not None:
                    self._actors[index] = self._make_actor(index, begin, self._network)
                    begin = None
                actor = self._actors[index]
                actor.unroll(buffer)
                return actor
            except InputError:
                raise
            except Exception:
                failed, played = self._actors[index], begin is None
                episodes = failed.heartbeat.episodes.tolist()
                self._faults.add(
                    f"actor {index}",
                    Fault(failed.task() if played else "", "raised", traceback.format_exc()),
                    unrolls_dropped=int(played),
                    episodes_dropped=len(episodes) if played else 0,
                )
                if begin is None:
                    begin = StreamPositions({index: failed.unrolls}, {index: episodes}, self.positions.steps)
                    with contextlib.suppress(Exception):
                        # It may be in no state to be closed.
                        failed.close()
                else:
                    # The episodes that it should have begun with may be what it failed at.
                    begin.episodes[index] = [episode + 1 for episode in begin.episodes[index]]

    def publish(self, version: int) -> None:
        """The actors' network is the learner's: only what they derived from it is out of date."""
        self._version = version
        for actor in self._actors:
            actor.policy.weights_changed()

    def state_dict(self) -> dict[str, Any] | None:
        """All actors as they stand, or None where one cannot be frozen."""
        actors = [actor.state_dict() for actor in self._actors]
        return None if None in actors else {"actors": actors, "turn": self._turn}

    def processes(self) -> dict[str, int]:
        """None but the learner's."""
        return {}

    def close(self) -> None:
        """Closes the environments."""
        for actor in self._actors:
            actor.close()
        self._actors = []
