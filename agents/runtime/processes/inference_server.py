"""Batched inference: one process acts for all actors of a pool with one network.

An actor writes its inputs into its rows of shared memory, sends one byte and sleeps until a byte comes back. The server takes the requests
of all waiting actors as one batch, in the order of the actors, and answers with the parameters of their action distributions. Each actor
samples from its own stream, so the composition of the batches changes no action.

The server holds the core states; an actor asks for its own when an unroll begins.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import selectors
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.acting.policy import Policy, Sampler
from agents.network.actions import ActionDistribution
from agents.runtime.base import PoolConfig
from agents.runtime.processes import fork_server
from agents.runtime.processes.buffers import SharedArrays, SharedWeights
from agents.trajectory import OBSERVED
from envs.spec import ArraySpec

# Requests of an actor: take a step; copy my core state to shared memory. The answer is any byte.
_STEP, _STATE, _ANSWER = b"s", b"c", b"a"


class InferenceServerError(RuntimeError):
    """The server is gone, so an actor cannot act. The learner finds out why."""


class RemotePolicy:
    """The policy of an actor for which a server acts; an ActingPolicy (agents/acting/actor.py). An actor process gets it as an argument.

    Args:
        connection: To the server; the pool closes its copy.
        exchange: One set of arrays of `exchange_spec`.
        member: Index of the actor in its pool.

    Attributes:
        weights_version: Version of the weights in the first step since `seed`; -1 before. Later steps may have newer ones.
    """

    def __init__(
        self, connection: Connection, actions: ActionDistribution, exchange: SharedArrays, member: int
    ) -> None:
        self.connection, self.weights_version = connection, -1
        self._arguments = connection, actions, exchange, member
        self._arrays = {key: array[member] for key, array in exchange[0].items()}
        self._observed = [key for key in OBSERVED if key in self._arrays]
        self._sampler = Sampler(actions)

    @property
    def core_state(self) -> Tensor:
        """[B, S], after the last step; valid until it is asked for again."""
        self._ask(_STATE)
        return self._arrays["core_state"]

    def seed(self, seed: int) -> None:
        """Starts an unroll, and the stream of its sampled actions."""
        self._sampler.seed(seed)
        self.weights_version = -1

    def weights_changed(self) -> None:
        """Does nothing: nothing here is derived from the weights."""

    def act(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As Policy.act. Raises InferenceServerError if the server is gone."""
        for key in self._observed:
            self._arrays[key].copy_(inputs[key])
        self._ask(_STEP)
        if self.weights_version < 0:
            self.weights_version = int(self._arrays["weights_version"])
        return self._sampler.sample(self._arrays["distribution"])

    def _ask(self, request: bytes) -> None:
        try:
            self.connection.send_bytes(request)
            self.connection.recv_bytes()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise InferenceServerError("the inference server is gone") from None

    def __reduce__(self) -> Any:
        return RemotePolicy, self._arguments


class InferenceServer:
    """The handle of the server process, which ends when the handle closes its pipe.

    Args:
        config: Of the run's actors, with a `make_policy`.
        weights: That the learner publishes; the server reads new ones between two batches.
        num_actors: Actors of the pool.

    Attributes:
        connection: Readable when the server has failed or ended.
    """

    def __init__(self, config: PoolConfig, weights: SharedWeights, *, num_actors: int) -> None:
        self._actions = config.actions
        self._exchange = SharedArrays(exchange_spec(config.spec, num_actors, config.actions))
        self._process, self.connection = fork_server.start_child(
            "inference", _run_server, config, self._exchange, weights, threads=config.actor_threads
        )
        self.pid = self._process.pid or 0

    def connect(self, actor: int) -> RemotePolicy:
        """The policy of this actor, with a new connection, so that an actor finds no answer for its predecessor."""
        ours, theirs = multiprocessing.Pipe()
        # The pool notices a dead server when it waits for it.
        with contextlib.suppress(OSError), theirs:
            self.connection.send(actor)
            send_handle(self.connection, theirs.fileno(), self.pid)
        return RemotePolicy(ours, self._actions, self._exchange, actor)

    def ending(self) -> tuple[str, str]:
        """Cause (envs.faults.CAUSES) and description of its end."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self.connection.poll(fork_server.ENDING_SECONDS):
                return "raised", self.connection.recv().text
        return fork_server.ending(self._process)

    def close(self, patience: float) -> None:
        """Closes the pipe, waits up to `patience` seconds for the server's end, and then kills it; may be called twice."""
        self.connection.close()
        self._process.join(patience)
        fork_server.kill(self._process)


def exchange_spec(spec: Mapping[str, ArraySpec], num_actors: int, actions: ActionDistribution) -> dict[str, ArraySpec]:
    """Arrays that the actors and their server exchange, each [num_actors, ...]: the observed keys of a step, and the answers:

    distribution f32 [slots, P], core_state f32 [slots, S], weights_version int64 [].
    """
    slots, state_size = spec["core_state"].shape
    arrays = {key: ArraySpec(shape=spec[key].shape[1:], dtype=spec[key].dtype) for key in OBSERVED if key in spec}
    arrays |= {
        "distribution": ArraySpec(shape=(slots, actions.num_parameters), dtype="float32"),
        "core_state": ArraySpec(shape=(slots, state_size), dtype="float32"),
        "weights_version": ArraySpec(shape=(), dtype="int64"),
    }
    return {key: ArraySpec(shape=(num_actors, *array.shape), dtype=array.dtype) for key, array in arrays.items()}


class _Batcher:
    """One policy for the slots of all actors, and the arrays of `exchange_spec`."""

    def __init__(self, policy: Policy, arrays: Mapping[str, Tensor], weights: SharedWeights) -> None:
        self._policy, self._arrays, self._weights = policy, arrays, weights
        self._observed = [key for key in OBSERVED if key in arrays]
        self._current = -1
        actors, slots = arrays["distribution"].shape[:2]
        # The slots of each actor in the policy.
        self._slots = np.arange(actors * slots).reshape(actors, slots)

    def step(self, actors: Sequence[int]) -> None:
        """Acts for these actors, which are in increasing order, with the newest weights.

        The batch size is a multiple of an actor's slots, so oneDNN soon has its kernels for all sizes (agents/fusion/padding.py).
        """
        if self._weights.version != self._current:
            self._current = self._weights.read(self._policy.network)
            self._policy.weights_changed()
        first, end = actors[0], actors[-1] + 1
        # If they are adjacent, a slice, which copies no observations.
        rows = slice(first, end) if end - first == len(actors) else np.array(actors)
        inputs = {key: self._arrays[key][rows].flatten(0, 1) for key in self._observed}
        distribution = self._policy.distribution(inputs, self._slots[rows].ravel())
        self._arrays["distribution"][rows] = distribution.view(len(actors), self._slots.shape[1], -1)
        self._arrays["weights_version"][rows] = self._current

    def begin(self, actor: int) -> None:
        """Zeroes the core state for a new actor."""
        self._policy.core_state[self._slots[actor]] = 0

    def show_state(self, actor: int) -> None:
        """Copies this actor's core state to shared memory."""
        self._arrays["core_state"][actor] = self._policy.core_state[self._slots[actor]]


def _run_server(learner: Connection, config: PoolConfig, exchange: SharedArrays, weights: SharedWeights) -> None:
    """Main function of the server process."""
    arrays = exchange[0]
    num_actors, slots = arrays["distribution"].shape[:2]
    assert config.make_policy
    _serve(_Batcher(config.make_policy(num_actors * slots), arrays, weights), learner)


@torch.inference_mode()
def _serve(batcher: _Batcher, learner: Connection) -> None:
    """Answers requests until the learner's pipe closes. Through it come, for each new actor, its index and a connection to it."""
    served: dict[int, Connection] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(learner, selectors.EVENT_READ)

        def leave(actor: int) -> None:
            if connection := served.pop(actor, None):
                selector.unregister(connection)
                connection.close()

        while True:
            ready: dict[int, Connection] = {}
            for key, _ in selector.select():
                connection, actor = key.fileobj, key.data
                assert isinstance(connection, Connection)
                try:
                    if actor is None:
                        actor = learner.recv()
                        # A request of its predecessor must not become a step of the new actor.
                        leave(actor)
                        ready.pop(actor, None)
                        served[actor] = Connection(recv_handle(learner))
                        selector.register(served[actor], selectors.EVENT_READ, actor)
                        batcher.begin(actor)
                        continue
                    if served.get(actor) is not connection:
                        continue
                    request = connection.recv_bytes()
                except (EOFError, ConnectionResetError):
                    if key.data is None:
                        return
                    leave(actor)
                    continue
                if request == _STEP:
                    ready[actor] = connection
                else:
                    batcher.show_state(actor)
                    _answer(connection)
            if ready:
                batcher.step(sorted(ready))
                for connection in ready.values():
                    _answer(connection)


def _answer(connection: Connection) -> None:
    # A dead actor is noticed when its pipe is read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send_bytes(_ANSWER)
