"""Batched inference: one process acts for all actors of a machine, with one network, on whatever is ready.

An actor writes what it observes into its rows of a shared segment, wakes the server with one byte, and sleeps until a byte comes back.
The server takes the requests of all actors that wait as one batch, in the order of the actors, and answers with the parameters of
their action distributions. Each actor samples from its own stream, so who was batched with whom changes no action.

Core states stay with the server; an actor asks for its own when an unroll begins.
"""

from __future__ import annotations

import contextlib
import selectors
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import recv_handle, send_handle
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.acting.policy import Policy, Sampler, Slots
from agents.cli.signals import end_with_the_parent
from agents.network.actions import ActionDistribution
from agents.runtime.base import MakePolicy, PoolConfig
from agents.runtime.processes.buffers import SharedWeights, TrajectoryBuffers
from agents.runtime.processes.process import (
    SAVING_SECONDS,
    configure_process,
    kill,
    leave_signals_to_the_learner,
    start,
)
from agents.trajectory import OBSERVED
from envs.faults import signal_name
from envs.spec import ArraySpec

# The bytes an actor sends: take a step; show me my core state. Any byte is an answer.
_STEP, _STATE, _ANSWER = b"s", b"c", b"a"


class InferenceServerError(RuntimeError):
    """The server is gone, so an actor cannot act; what happened to it the learner knows."""


class RemotePolicy:
    """What an actor has in place of a policy of its own (agents/acting/policy.py) when a server acts for it.

    Args:
        connection: to the server.
        actions: what is sampled.
        arrays: this actor's part of `exchange_spec`.

    Attributes:
        weights_version: of the weights that acted in the first step since `seed`. Later steps may have been taken with newer ones.
    """

    def __init__(self, connection: Connection, actions: ActionDistribution, arrays: Mapping[str, Tensor]) -> None:
        self.weights_version = -1
        self._connection = connection
        self._inputs = {key: arrays[key] for key in OBSERVED if key in arrays}
        self._distribution, self._core_state, self._version = (
            arrays[key] for key in ("distribution", "core_state", "weights_version")
        )
        self._sampler = Sampler(actions)
        self._begins = True

    @property
    def core_state(self) -> Tensor:
        """[B, S], after the last step; valid until it is asked for again."""
        self._ask(_STATE)
        return self._core_state

    def seed(self, seed: int) -> None:
        """Restarts the stream of sampled actions: an unroll begins."""
        self._sampler.seed(seed)
        self._begins = True

    def weights_changed(self) -> None:
        """Nothing is kept here that weights could outdate."""

    def act(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As Policy.act.

        Raises:
            InferenceServerError: the server is gone.
        """
        for key, array in self._inputs.items():
            array.copy_(inputs[key])
        self._ask(_STEP)
        if self._begins:
            self.weights_version = int(self._version)
            self._begins = False
        return self._sampler.sample(self._distribution)

    def _ask(self, request: bytes) -> None:
        try:
            self._connection.send_bytes(request)
            self._connection.recv_bytes()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise InferenceServerError("the inference server is gone") from None


class InferenceClient(NamedTuple):
    """What an actor process is given to make its RemotePolicy from; `connection` is closed by whoever has passed it on."""

    connection: Connection
    exchange: TrajectoryBuffers
    actions: ActionDistribution
    actor: int

    def policy(self) -> RemotePolicy:
        """The policy of that actor."""
        return RemotePolicy(
            self.connection, self.actions, {key: array[self.actor] for key, array in self.exchange[0].items()}
        )


class InferenceServer:
    """The server as the learner sees it: a process that ends when the learner hangs up.

    Args:
        context: starts processes.
        config: of the run's actors.
        make_policy: `config.make_policy`.
        weights: that the learner publishes. They are read again between two batches whenever there are new ones.
        num_actors: that it acts for.

    Attributes:
        connection: readable when the server has failed or ended.
        pid: of its process.
    """

    def __init__(
        self,
        context: ForkServerContext,
        config: PoolConfig,
        make_policy: MakePolicy,
        weights: SharedWeights,
        *,
        num_actors: int,
    ) -> None:
        self._exchange = TrajectoryBuffers(exchange_spec(config.spec, num_actors, config.actions), 1)
        self._actions = config.actions
        self.connection, theirs = context.Pipe()
        self._pipe = context.Pipe
        self._process = context.Process(
            target=_run_server,
            args=(make_policy, theirs, self._exchange, weights, config.server_threads),
            name="inference",
            daemon=True,
        )
        start(self._process)
        self.pid = self._process.pid or 0
        # Without this copy the pipe ends with the server.
        theirs.close()

    def client(self, actor: int) -> InferenceClient:
        """For that actor, or for the one that takes its place: with a connection of its own, on which no old answer waits."""
        ours, theirs = self._pipe()
        # A server that is gone is noticed by whoever waits for it.
        with contextlib.suppress(OSError), theirs:
            self.connection.send(actor)
            send_handle(self.connection, theirs.fileno(), self.pid)
        return InferenceClient(ours, self._exchange, self._actions, actor)

    def ending(self, patience: float) -> tuple[str, str]:
        """Cause (envs/faults.py) and detail of the end of a server that has failed or ended; waits up to `patience` seconds for them."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            if self.connection.poll(patience):
                return "raised", self.connection.recv()
        self._process.join(patience)
        code = self._process.exitcode
        if code is not None and code < 0:
            return "killed", signal_name(-code)
        return "exited", f"exit code {code}"

    def close(self, patience: float) -> None:
        """Hangs up, waits for the server to end, up to `patience` seconds, and then ends it; may be called twice."""
        self.connection.close()
        self._process.join(patience)
        kill(self._process)


def exchange_spec(spec: Mapping[str, ArraySpec], num_actors: int, actions: ActionDistribution) -> dict[str, ArraySpec]:
    """What passes between the actors and their server, each [num_actors, ...]: the observed keys of a step, and the answers to it.

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
    """One policy for the slots of all actors, and its share of the exchanged arrays, each [num_actors, slots, ...]."""

    def __init__(self, policy: Policy, arrays: Mapping[str, Tensor], weights: SharedWeights) -> None:
        self._policy = policy
        self._inputs = {key: arrays[key] for key in OBSERVED if key in arrays}
        self._distribution, self._core_state, self._version = (
            arrays[key] for key in ("distribution", "core_state", "weights_version")
        )
        self._weights = weights
        self._current = -1
        self._slots = self._distribution.shape[1]

    def step(self, actors: Sequence[int]) -> None:
        """Acts for these actors, in increasing order, with the newest weights.

        Batches have one of few sizes, whole numbers of actors, so the kernels are soon compiled for all of them (agents/fusion/padding.py).
        """
        if self._weights.version != self._current:
            self._current = self._weights.read(self._policy.network)
            self._policy.weights_changed()
        rows = self._rows(actors)
        inputs = {key: array[rows].flatten(0, 1) for key, array in self._inputs.items()}
        distribution = self._policy.distribution(inputs, self._columns(rows))
        self._distribution[rows] = distribution.view(len(actors), self._slots, -1)
        self._version[rows] = self._current

    def begin(self, actor: int) -> None:
        """Another actor takes that place."""
        self._policy.core_state[self._columns(slice(actor, actor + 1))] = 0

    def show_state(self, actor: int) -> None:
        """Copies this actor's core state to where it can see it."""
        self._core_state[actor] = self._policy.core_state[self._columns(slice(actor, actor + 1))]

    def _rows(self, actors: Sequence[int]) -> Slots:
        """Neighbours are taken as they lie: nothing is copied to join them."""
        first, end = actors[0], actors[-1] + 1
        return slice(first, end) if end - first == len(actors) else np.array(actors)

    def _columns(self, rows: Slots) -> Slots:
        """The slots of these actors."""
        if isinstance(rows, slice):
            return slice(rows.start * self._slots, rows.stop * self._slots)
        return (rows[:, None] * self._slots + np.arange(self._slots)).ravel()


def _run_server(
    make_policy: MakePolicy,
    learner: Connection,
    exchange: TrajectoryBuffers,
    weights: SharedWeights,
    threads: int,
) -> None:
    """Main function of the server process. The last message to the learner is the traceback of what it raised, if it did."""
    end_with_the_parent()
    leave_signals_to_the_learner(patience=SAVING_SECONDS)
    configure_process(threads)
    try:
        arrays = exchange[0]
        num_actors, slots = arrays["distribution"].shape[:2]
        _serve(_Batcher(make_policy(num_actors * slots), arrays, weights), learner)
    except Exception:
        with contextlib.suppress(OSError):
            learner.send(traceback.format_exc())


@torch.inference_mode()
def _serve(batcher: _Batcher, learner: Connection) -> None:
    """Answers requests until the learner hangs up. It sends an actor's index and a connection to that actor, for each that it starts."""
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
                        # What the one before it has asked for would be a step of the new one.
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
    # An actor that is gone is found when its pipe is read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send_bytes(_ANSWER)
