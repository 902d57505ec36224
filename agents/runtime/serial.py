"""Everything in one process, in a fixed order: bit-for-bit reproducible, and the easiest to debug."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from typing import Any

from agents.network.agent import AgentNetwork
from agents.runtime.base import ActorError, Batch, MakeActor, Positions, allocate, concatenate
from envs.errors import InputError
from envs.spec import ArraySpec


class SerialRuntime:
    """Actors take turns in this process and act with the learner's own network, so policy lag is zero.

    Args:
        make_actor: see runtime/base.py.
        network: the learner's.
        spec: of one trajectory.
        num_actors: actors; a batch holds one unroll of each of the next `unrolls_per_batch`, in turn.
        unrolls_per_batch: unrolls joined into one batch.
        version: of the weights that `network` begins with.
        state: `state_dict` of a runtime with as many actors of as many slots, to go on exactly where it was taken.
    """

    def __init__(
        self,
        make_actor: MakeActor,
        network: AgentNetwork,
        spec: Mapping[str, ArraySpec],
        *,
        num_actors: int,
        unrolls_per_batch: int,
        version: int = 0,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.positions = Positions()
        self._actors = [make_actor(index, network) for index in range(num_actors)]
        self._buffers = [allocate(spec) for _ in range(unrolls_per_batch)]
        self._version = version
        self._turn = 0
        if state is not None:
            try:
                for actor, frozen in zip(self._actors, state["actors"], strict=True):
                    actor.load_state_dict(frozen)
            except (LookupError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"resume=true: the checkpoint does not fit its environments ({error}): use an earlier one."
                ) from error
            self._turn = int(state["turn"])
        self._idle_since = time.perf_counter()

    only_waits = False

    def collect(self) -> Batch:
        """Plays the unrolls of one batch; ActorError when one fails."""
        idle_since, began = self._idle_since, time.perf_counter()
        env_seconds = inference_seconds = 0.0
        for buffer in self._buffers:
            index, actor = self._turn, self._actors[self._turn]
            self._turn = (self._turn + 1) % len(self._actors)
            try:
                actor.unroll(buffer)
            except Exception as error:
                raise ActorError(f"actor {index} failed:\n{traceback.format_exc()}") from error
            env_seconds += actor.env_seconds
            inference_seconds += actor.inference_seconds
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

    def publish(self, version: int) -> None:
        """The actors' network is the learner's: only what they derived from it is out of date."""
        self._version = version
        for actor in self._actors:
            actor.policy.weights_changed()

    def state_dict(self) -> dict[str, Any] | None:
        """All actors as they stand, or None where one cannot be frozen."""
        actors = [actor.state_dict() for actor in self._actors]
        return None if None in actors else {"actors": actors, "turn": self._turn}

    def close(self) -> None:
        """Closes the environments."""
        for actor in self._actors:
            actor.close()
        self._actors = []
