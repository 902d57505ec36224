"""The bridge between the learner and Ray, in its own process, so that no failure of a cluster can end the learner.

It places groups of actors on the cluster (actor_group.py) and copies their unrolls into buffers that it shares with the learner. It
forwards free buffers and weights to the groups, and faults to the learner. It restarts a group that is lost. A group waits until a node
has room for it; that node may join the cluster later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine, Sequence
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, NamedTuple

from torch.nn.utils import parameters_to_vector

from agents.cli.signals import outlive_the_parent
from agents.runtime.base import ActorError, PoolConfig, StreamPositions
from agents.runtime.processes.actor_process import Unroll
from agents.runtime.processes.buffers import AnonymousFile, SharedArrays, SharedWeights
from agents.runtime.processes.process import configure_process, leave_signals_to_the_learner
from agents.runtime.ray_groups.actor_group import ActorGroup, ActorGroupHandle, Arrays, FreeBuffer, make_parameters
from agents.runtime.ray_groups.connection import joined
from agents.runtime.restarts import Faults
from agents.trajectory import num_bytes
from envs.faults import Fault
from system.descendants import supervise
from system.errors import ErrorReport, InputError
from system.words import count

_REQUESTS = 2
"""Pending calls of a group's `unroll`, so that the second unroll travels while the first is copied."""

_THREADS = 4
"""Threads of a group for its other methods, which answer while `unroll` waits."""

_REPORT_SECONDS = 2.0
"""How long a group's `report` waits for a restart."""

_ROOM_SECONDS = 30.0
"""Seconds between two notices that groups wait for room."""

_END_SECONDS = 8.0
"""Time for groups to end their actors when the run ends, before they are killed."""


_LAST_SECONDS = 30.0
"""Time that the bridge has after the learner's end."""


class Dropped(NamedTuple):
    """To the learner: finished unrolls that were lost on the way."""

    unrolls: int


class Processes(NamedTuple):
    """To the learner: process ids of a group's actors by name, and the host that they run on."""

    host: str
    ids: dict[str, int]


def run_bridge(learner: Connection, output: AnonymousFile, buffers: SharedArrays, weights: SharedWeights) -> None:
    """Main function of the process. The learner's first message has the address of the cluster (connection.joined), the actors of each
    group, the CPUs that Ray reserves for an actor, the PoolConfig and the StreamPositions. Ray prints to `output`.
    """
    # When the learner dies, its pipe ends and the bridge cleans up. If the bridge cannot, its supervisor does.
    outlive_the_parent(_LAST_SECONDS)
    supervise()
    os.dup2(output.descriptor, 1)
    os.dup2(output.descriptor, 2)
    leave_signals_to_the_learner()
    configure_process(1)
    try:
        address, groups, cpus_per_actor, pool, positions = learner.recv()
    except (EOFError, OSError):
        return
    cpus = max(1, round(pool.num_actors * cpus_per_actor + 0.5))
    # The trajectories of all buffers, and some versions of the weights.
    trajectories = pool.num_actors * pool.buffers_per_actor * num_bytes(pool.spec)
    parameters = sum(shape.numel() for shape in weights.shapes)
    try:
        with joined(address, num_cpus=cpus, store_bytes=int(1.5 * (trajectories + 16 * parameters))) as ray:
            asyncio.run(Bridge(ray, learner, groups, cpus_per_actor, pool, positions, buffers, weights).run())
    except InputError as error:
        learner.send(ErrorReport.of(error))


class Bridge:
    """Connects the learner's pipe with the groups on Ray.

    It sends an Unroll when its trajectory is in the learner's buffer, Dropped, Processes, records of Faults, lines for the user, and an
    ErrorReport that ends the run.

    Args:
        ray: The module, connected.
        learner: Pipe to the learner. It brings indices of free buffers, "weights" after each publish, and None to end.
        groups: Indices of the actors of each group.
        buffers, weights: Shared with the learner. All buffers are free at the start.
    """

    def __init__(
        self,
        ray: ModuleType,
        learner: Connection,
        groups: Sequence[Sequence[int]],
        cpus_per_actor: float,
        pool: PoolConfig,
        positions: StreamPositions,
        buffers: SharedArrays,
        weights: SharedWeights,
    ) -> None:
        self._ray, self._learner, self._cpus_per_actor, self._pool = ray, learner, cpus_per_actor, pool
        self._buffers, self._weights = buffers, weights
        self._groups = [ActorGroupHandle(indices, positions) for indices in groups]
        self._received = make_parameters(weights.shapes)
        # The newest weights in Ray's object store: their version, and the reference.
        self._stored: tuple[int, Any] = (-1, None)
        self._free: asyncio.Queue[int] = asyncio.Queue()
        # Unrolls that have arrived: the group, its Ray actor, the unroll, and the transfer of its trajectory.
        self._arrived: asyncio.Queue[tuple[ActorGroupHandle, Any, Unroll, asyncio.Future[Arrays]]] = asyncio.Queue()
        # By index of the learner's buffer: the group, its Ray actor, and the unroll that was copied. The group's buffer of that unroll
        # stays taken until the learner frees its own.
        self._origins: dict[int, tuple[ActorGroupHandle, Any, Unroll]] = {}
        self._anything_delivered = False
        # The learner counts the restarts.
        self._faults = Faults(max_restarts=sys.maxsize, record=self._send)
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Runs until the learner sends None or closes its pipe."""
        for number in range(len(self._buffers)):
            self._free.put_nowait(number)
        asyncio.get_running_loop().add_reader(self._learner.fileno(), self._receive)
        self._start(self._deliver())
        self._start(self._report_waiting_groups())
        for group in self._groups:
            self._start(self._run_with_restarts(group))
        await self._ended.wait()
        asyncio.get_running_loop().remove_reader(self._learner.fileno())
        for task in self._tasks:
            task.cancel()
        await self._end()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            asyncio.get_running_loop().call_exception_handler({"message": "", "exception": error})
            self._send(ErrorReport(f"the process that speaks to Ray failed: {error!r}", False))

    def _receive(self) -> None:
        try:
            while self._learner.poll():
                message = self._learner.recv()
                if message is None:
                    self._ended.set()
                elif message == "weights":
                    for group in self._groups:
                        group.published.set()
                else:
                    self._give_back(message)
        except (EOFError, OSError):
            self._ended.set()

    def _send(self, message: Any) -> None:
        # `_receive` notices the end of the learner.
        with contextlib.suppress(OSError):
            self._learner.send(message)

    def _give_back(self, number: int) -> None:
        self._free.put_nowait(number)
        group, handle, unroll = self._origins.pop(number)
        # A group that was restarted meanwhile has new buffers.
        if group.handle is handle:
            group.call("give_back", FreeBuffer(unroll.member, unroll.buffer, self._weights.version))

    async def _run_with_restarts(self, group: ActorGroupHandle) -> None:
        """Runs a group until it closes, and restarts it when it fails or is lost.

        An error of the program before the run's first unroll goes to the learner instead.
        """
        ray = self._ray
        while True:
            try:
                await self._run_group(group)
                return
            except (ActorError, InputError) as error:
                cause, reason = "raised", str(error)
                program_error: ErrorReport | None = ErrorReport.of(error, ActorError)
            except (ray.exceptions.RayActorError, ray.exceptions.RayTaskError) as error:
                nodes = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
                gone = group.node and not nodes.get(group.node.id)
                cause, reason = "lost", "its node is gone" if gone else " ".join(str(error).split())[:500]
                # Code of the program raised it. Otherwise Ray did, because it lost a process. Ray's message about a Ray actor whose
                # constructor failed has these words.
                raised = isinstance(error, ray.exceptions.RayTaskError) or "creation task" in str(error)
                program_error = ErrorReport(f"{group.name} cannot begin: {error}", False) if raised else None
            if program_error and not self._anything_delivered:
                # The program fails from the start, so a restart would fail, too.
                self._send(program_error)
                return
            slots = self._pool.spec["core_state"].shape[0]
            started = len(group.indices) if group.version >= 0 else 0
            fault = Fault("", cause, reason)
            self._faults.add(group.name, fault, unrolls_dropped=started, episodes_dropped=started * slots)
            with contextlib.suppress(Exception):
                ray.kill(group.handle)
            # The lost actors may have played more than they delivered.
            group.skip(self._pool.buffers_per_actor, self._pool.spec["action"].shape[0], slots)
            group.handle, group.node, group.version = None, None, -1

    async def _run_group(self, group: ActorGroupHandle) -> None:
        """Places a group, starts its actors and takes its unrolls until it closes. Raises if it fails or is lost."""
        remote = self._ray.remote(
            num_cpus=self._cpus_per_actor * len(group.indices),
            scheduling_strategy="SPREAD",
            max_restarts=0,
            concurrency_groups={"beside": _THREADS},
        )
        group.handle = handle = remote(ActorGroup).remote()
        group.node = await handle.node.remote()
        version, flat = self._newest_weights()
        error = await handle.begin.remote(
            self._pool, group.indices, group.positions, self._weights.shapes, flat, version
        )
        if error:
            raise error.exception(ActorError)
        group.version = version
        tasks = [self._start(self._publish(group)), self._start(self._forward_reports(group))]
        try:
            await self._take_unrolls(group)
        finally:
            for task in tasks:
                task.cancel()

    async def _report_waiting_groups(self) -> None:
        """Reports the groups that wait for room, when they have changed since the last check."""
        reported: list[ActorGroupHandle] = []
        while True:
            await asyncio.sleep(_ROOM_SECONDS)
            waiting = [group for group in self._groups if group.node is None]
            if waiting and waiting != reported:
                cpus = self._cpus_per_actor * len(waiting[0].indices)
                self._send(
                    f"{len(waiting)} of {count(len(self._groups), 'group')} of actors found no room on the Ray cluster yet: each waits for "
                    f"a node with {cpus:g} {'CPU' if cpus == 1 else 'CPUs'} free"
                )
            reported = waiting

    async def _take_unrolls(self, group: ActorGroupHandle) -> None:
        """Queues the unrolls of a started group for `_deliver`."""
        requests: list[tuple[Any, Any]] = []
        while True:
            while len(requests) < _REQUESTS:
                requests.append(group.handle.unroll.options(num_returns=2).remote())
            result, trajectory = requests.pop(0)
            unroll = await result
            if unroll is None:
                return
            if isinstance(unroll, ErrorReport):
                raise unroll.exception(ActorError)
            group.positions.unrolls[unroll.actor] = unroll.unrolls
            group.positions.episodes[unroll.actor] = unroll.episodes
            # `ensure_future` starts the transfer now, while `_deliver` copies others.
            self._arrived.put_nowait((group, group.handle, unroll, asyncio.ensure_future(trajectory)))

    async def _deliver(self) -> None:
        """Copies trajectories into the learner's buffers, in the order in which the unrolls came."""
        while True:
            group, handle, unroll, transfer = await self._arrived.get()
            try:
                arrays = await transfer
            except self._ray.exceptions.RayError:
                # Lost with its node; `_run_with_restarts` reports that.
                self._send(Dropped(1))
                continue
            number = await self._free.get()
            for key, value in self._buffers[number].items():
                value.numpy()[...] = arrays[key]
            self._origins[number] = group, handle, unroll
            self._anything_delivered = True
            self._send(unroll._replace(buffer=number))

    async def _forward_reports(self, group: ActorGroupHandle) -> None:
        """Forwards a group's restarts and process ids. Kills a group that does not answer."""
        known: dict[str, int] = {}
        seconds = _REPORT_SECONDS + self._pool.limits.hang_seconds
        while True:
            report = group.call("report", _REPORT_SECONDS if known else 0.0)
            try:
                records, processes = await asyncio.wait_for(report, seconds)
            except TimeoutError:
                # After that `_take_unrolls` raises, and the group is restarted.
                self._ray.kill(group.handle)
                return
            except self._ray.exceptions.RayError:
                return
            for record in records:
                self._send(record)
            if processes != known and group.node:
                known = processes
                self._send(Processes(group.node.host, known))

    async def _publish(self, group: ActorGroupHandle) -> None:
        """Sends a started group the newest weights whenever some were published."""
        while True:
            # If the group is lost, `_take_unrolls` raises, too, and the group is restarted. If Ray could not store the weights, the next
            # ones are sent.
            with contextlib.suppress(self._ray.exceptions.RayError):
                if group.version < self._weights.version:
                    version, flat = self._newest_weights()
                    await group.call("publish", flat, version)
                    group.version = version
            await group.published.wait()
            group.published.clear()

    def _newest_weights(self) -> tuple[int, Any]:
        """Version and Ray reference. Each version is stored once, and Ray copies it to each node once."""
        if self._stored[0] != self._weights.version:
            version = self._weights.read(self._received)
            flat = parameters_to_vector(self._received.parameters()).detach().numpy()
            self._stored = version, self._ray.put(flat)
        return self._stored

    async def _end(self) -> None:
        """Closes the groups, waits up to _END_SECONDS for their actors' end, and kills them."""
        started = [group for group in self._groups if group.version >= 0]
        with contextlib.suppress(self._ray.exceptions.RayError):
            # Keep the references of these calls, because Ray cancels a call whose reference is dropped.
            closing = [group.call("close") for group in started]
            ends = [asyncio.ensure_future(_drain(group)) for group in started]
            if ends:
                await asyncio.wait(ends, timeout=_END_SECONDS)
            del closing
        for group in self._groups:
            with contextlib.suppress(Exception):
                self._ray.kill(group.handle)


async def _drain(group: ActorGroupHandle) -> None:
    """Takes and drops the unrolls of a closing group, until it answers that its actors have ended."""
    with contextlib.suppress(Exception):
        while (await group.handle.unroll.options(num_returns=2).remote()[0]) is not None:
            pass
