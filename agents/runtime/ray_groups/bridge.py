"""The process that speaks to Ray for the learner, so that whatever happens to a cluster, nothing happens to the learner.

It asks the cluster for groups of actors (actor_group.py), copies what they finish into buffers that it shares with the learner, and
passes on buffers that come back, weights, and what broke. A group that is lost is asked for anew; one for which there is no room waits
until there is, which may be on a node that joins later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Mapping, Sequence
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

from agents.cli.signals import outlive_the_parent
from agents.runtime.base import PoolConfig, StreamPositions
from agents.runtime.processes.buffers import SharedWeights, TrajectoryBuffers
from agents.runtime.processes.process import configure_process, leave_signals_to_the_learner
from agents.runtime.ray_groups.actor_group import ActorGroup, Arrays, Broken, ReceivedWeights, Unroll
from agents.runtime.ray_groups.actor_group_handle import ActorGroupHandle
from agents.runtime.ray_groups.connection import joined
from agents.runtime.ray_groups.messages import Delivered, Dropped, Placement, Processes, Restarted, Said
from agents.trajectory import num_bytes
from envs.faults import Fault
from system.descendants import supervise
from system.errors import InputError

_ASKED_AT_ONCE = 2
"""Unrolls that are asked of a group before the first has come: the second is on its way while the first is told."""

_BESIDE = 4
"""Calls that a group answers at once while it waits for an unroll."""

_NEWS_SECONDS = 2.0
"""How long a group waits for news before it says that there is none."""

_ROOM_SECONDS = 30.0
"""How often it is told that there is no room for some groups, if these are not the same as before."""

_END_SECONDS = 8.0
"""Time in which groups end their actors when the run ends."""


_LAST_SECONDS = 30.0
"""After the learner's end, in which everything has ended in order."""


class _BrokenGroupError(Exception):
    """A group has said that it cannot go on."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken.error)
        self.broken = broken


class _Bridge:
    """Between the learner's pipe and Ray.

    Args:
        ray: the module, connected.
        learner: buffer numbers that are free again, "weights" when there are new ones, and None to end come through it.
        placement, pool, positions: of the run.
        buffers: shared with the learner; all are free at first.
        weights: that the learner publishes.
    """

    def __init__(
        self,
        ray: ModuleType,
        learner: Connection,
        placement: Placement,
        pool: PoolConfig,
        positions: StreamPositions,
        buffers: TrajectoryBuffers,
        weights: SharedWeights,
    ) -> None:
        self._ray, self._learner, self._placement, self._pool = ray, learner, placement, pool
        self._buffers, self._weights = buffers, weights
        self._groups = [ActorGroupHandle(indices, positions) for indices in placement.groups]
        self._received = ReceivedWeights(weights.shapes)
        self._stored: tuple[int, Any] = (-1, None)
        self._free: asyncio.Queue[int] = asyncio.Queue()
        self._coming: asyncio.Queue[tuple[ActorGroupHandle, Any, Unroll, asyncio.Future[Arrays]]] = asyncio.Queue()
        self._homes: dict[int, tuple[ActorGroupHandle, Any, Unroll]] = {}
        self._anything_delivered = False
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the learner says that it is over, or hangs up."""
        for number in range(len(self._buffers)):
            self._free.put_nowait(number)
        asyncio.get_running_loop().add_reader(self._learner.fileno(), self._hear)
        self._start(self._deliver())
        self._start(self._tell_of_waiting())
        for group in self._groups:
            self._start(self._keep(group))
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
            self._tell(Broken(f"the process that speaks to Ray failed: {error!r}", False))

    def _hear(self) -> None:
        try:
            while self._learner.poll():
                message = self._learner.recv()
                if message is None:
                    self._ended.set()
                elif message == "weights":
                    for group in self._groups:
                        if group.version >= 0:
                            self._start(self._publish(group))
                else:
                    self._give_back(message)
        except (EOFError, OSError):
            self._ended.set()

    def _tell(self, message: Any) -> None:
        # A learner that is gone is noticed when its pipe is read.
        with contextlib.suppress(OSError):
            self._learner.send(message)

    def _give_back(self, number: int) -> None:
        self._free.put_nowait(number)
        group, handle, unroll = self._homes.pop(number)
        if group.handle is handle:
            group.beside("give_back", unroll.place, unroll.finished.buffer, self._weights.version)

    async def _keep(self, group: ActorGroupHandle) -> None:
        """A group's life, as often as it has one."""
        ray = self._ray
        while True:
            try:
                await self._play(group)
                return
            except _BrokenGroupError as error:
                cause, reason = "raised", error.broken.error
                final: Broken | None = error.broken
            except (ray.exceptions.RayActorError, ray.exceptions.RayTaskError) as error:
                cause, reason = "lost", self._reason(group, error)
                final = Broken(f"{group.name} cannot begin: {error}", False) if self._is_ours(error) else None
            if final and not self._anything_delivered:
                # That is no accident.
                self._tell(final)
                return
            slots = self._pool.spec["core_state"].shape[0]
            begun = len(group.indices) if group.version >= 0 else 0
            self._tell(Restarted(group.name, Fault("", cause, reason), begun, begun * slots))
            with contextlib.suppress(Exception):
                ray.kill(group.handle)
            group.skip(self._pool.buffers_per_actor, self._pool.spec["action"].shape[0], slots)
            group.handle, group.place, group.version = None, None, -1

    def _is_ours(self, error: Exception) -> bool:
        """Whether it was raised by the program and not by the loss of a process."""
        return isinstance(error, self._ray.exceptions.RayTaskError) or "creation task" in str(error)

    def _reason(self, group: ActorGroupHandle, error: Exception) -> str:
        nodes = {node["NodeID"]: node["Alive"] for node in self._ray.nodes()}
        if group.place and not nodes.get(group.place.node):
            return "its node is gone"
        return " ".join(str(error).split())[:500]

    async def _play(self, group: ActorGroupHandle) -> None:
        """From the moment at which the group is asked for to its end; raises when it is lost."""
        asked = self._ray.remote(
            num_cpus=self._placement.cpus_per_actor * len(group.indices),
            scheduling_strategy="SPREAD",
            max_restarts=0,
            concurrency_groups={"beside": _BESIDE},
        )
        group.handle = handle = asked(ActorGroup).remote()
        group.place = await handle.arrive.remote()
        version, flat = self._newest_weights()
        begun = await handle.begin.remote(
            self._pool, group.indices, group.positions, self._weights.shapes, flat, version
        )
        if isinstance(begun, Broken):
            raise _BrokenGroupError(begun)
        group.version = version
        self._tell(Processes(group.place.host, begun))
        beside = [self._start(self._publish(group)), self._start(self._follow(group))]
        try:
            await self._take(group)
        finally:
            for task in beside:
                task.cancel()

    async def _tell_of_waiting(self) -> None:
        told: list[ActorGroupHandle] = []
        while True:
            await asyncio.sleep(_ROOM_SECONDS)
            waiting = [group for group in self._groups if group.place is None]
            if waiting and waiting != told:
                cpus = self._placement.cpus_per_actor * len(waiting[0].indices)
                self._tell(
                    Said(
                        f"{len(waiting)} of {len(self._groups)} groups of actors have found no room on the Ray cluster yet: each waits for "
                        f"a node with {cpus:g} CPUs free"
                    )
                )
            told = waiting

    async def _take(self, group: ActorGroupHandle) -> None:
        """Takes one unroll after the other from a group that has begun."""
        asked: list[tuple[Any, Any]] = []
        while True:
            while len(asked) < _ASKED_AT_ONCE:
                asked.append(group.handle.unroll.options(num_returns=2).remote())
            said, trajectory = asked.pop(0)
            unroll = await said
            if unroll is None:
                return
            if isinstance(unroll, Broken):
                raise _BrokenGroupError(unroll)
            group.positions.unrolls[unroll.actor] = unroll.finished.unrolls
            group.positions.episodes[unroll.actor] = unroll.episodes
            # It is under way from here on, whoever else is.
            coming = asyncio.ensure_future(_result(trajectory))
            self._coming.put_nowait((group, group.handle, unroll, coming))

    async def _deliver(self) -> None:
        """Copies trajectories to where the learner sees them, in the order in which they were finished."""
        while True:
            group, handle, unroll, coming = await self._coming.get()
            try:
                arrays = await coming
            except self._ray.exceptions.RayError:
                # It went with its node, which others tell.
                self._tell(Dropped(1))
                continue
            number = await self._free.get()
            for key, value in self._buffers[number].items():
                value.numpy()[...] = arrays[key]
            self._homes[number] = group, handle, unroll
            self._anything_delivered = True
            self._tell(Delivered(number, unroll))

    async def _follow(self, group: ActorGroupHandle) -> None:
        """Passes on what was started again inside the group, and notices one that says nothing any more."""
        known: dict[str, int] = {}
        patience = self._pool.limits.hang_seconds
        while True:
            try:
                records = await asyncio.wait_for(_result(group.beside("news", _NEWS_SECONDS)), _NEWS_SECONDS + patience)
            except TimeoutError:
                # Whoever waits for its unrolls hears of it.
                self._ray.kill(group.handle)
                return
            except self._ray.exceptions.RayError:
                return
            for record in records:
                fault = Fault(record["task"], record["cause"], record["detail"])
                dropped = record["unrolls_dropped"], record["episodes_dropped"]
                self._tell(Restarted(record["where"], fault, *dropped))
            if records or not known:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    known = await group.beside("processes")
                    assert group.place
                    self._tell(Processes(group.place.host, known))

    async def _publish(self, group: ActorGroupHandle) -> None:
        """Sends a group the newest weights, one version at a time, for as long as there are newer ones when it has them."""
        if group.publishing:
            return
        handle, group.publishing = group.handle, True
        try:
            while group.version >= 0 and group.handle is handle and group.version < self._weights.version:
                version, flat = self._newest_weights()
                await group.beside("publish", flat, version)
                if group.handle is handle:
                    group.version = version
        except self._ray.exceptions.RayError:
            # Whoever waits for its unrolls hears of it.
            pass
        finally:
            group.publishing = False

    def _newest_weights(self) -> tuple[int, Any]:
        """Version and reference. Each version is stored once, and Ray brings it to each node once, whoever asks for it there."""
        if self._stored[0] != self._weights.version:
            version = self._weights.read(self._received)
            self._stored = version, self._ray.put(self._received.flat)
        return self._stored

    async def _end(self) -> None:
        """Lets the groups end their actors, for a while."""
        begun = [group for group in self._groups if group.version >= 0]
        with contextlib.suppress(self._ray.exceptions.RayError):
            ends = [group.beside("close") for group in begun]
            lasts = [asyncio.ensure_future(_last(group)) for group in begun]
            if lasts:
                await asyncio.wait(lasts, timeout=_END_SECONDS)
            del ends
        for group in self._groups:
            with contextlib.suppress(Exception):
                self._ray.kill(group.handle)


async def _result(reference: Any) -> Any:
    return await reference


async def _last(group: ActorGroupHandle) -> None:
    """Waits until a group that closes has given out all that it still had."""
    with contextlib.suppress(Exception):
        while (await group.handle.unroll.options(num_returns=2).remote()[0]) is not None:
            pass


def run_bridge(
    learner: Connection,
    last_words: str,
    buffers: TrajectoryBuffers,
    weights: SharedWeights,
) -> None:
    """Main function of the process. Placement, pool and positions are the first that comes from the learner. What Ray prints goes to the
    file `last_words`.
    """
    # It hears the learner's pipe end, and then leaves nothing behind. A supervisor of its own sees to that if it cannot.
    outlive_the_parent(_LAST_SECONDS)
    supervise()
    with open(last_words, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    leave_signals_to_the_learner()
    configure_process(1)
    try:
        placement, pool, positions = learner.recv()
    except (EOFError, OSError):
        return
    actors = sum(len(indices) for indices in placement.groups)
    try:
        with joined(
            placement.address,
            num_cpus=max(1, round(actors * placement.cpus_per_actor + 0.5)),
            store_bytes=store_bytes(pool.spec, actors, pool.buffers_per_actor, weights.shapes),
        ) as ray:
            asyncio.run(_Bridge(ray, learner, placement, pool, positions, buffers, weights).run())
    except InputError as error:
        learner.send(Broken(str(error), True))


def store_bytes(spec: Mapping[str, Any], actors: int, buffers_per_actor: int, shapes: Sequence[Any]) -> int:
    """What can be in the cluster's object stores at once: every buffer's trajectory, and some versions of the weights."""
    weights = 4 * sum(shape.numel() for shape in shapes)
    return int(1.5 * (actors * buffers_per_actor * num_bytes(spec) + 4 * weights))
