"""The first of several learners: it starts those that follow it (follower.py), goes ahead of them, and counts what all of them did."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from agents.distributed.process_group import (
    FIRST,
    Group,
    LearnerError,
    add_shard,
    listen,
    meet_at_file,
    meet_at_torchrun,
    shard,
    shared_file,
    torchrun_place,
)
from agents.runtime.base import Batch, Runtime, StreamPositions, never_interrupt
from agents.runtime.processes.process import kill_with_descendants, signals_blocked
from agents.runtime.restarts import Faults
from agents.trajectory import COUNTED, concatenate
from envs.faults import Fault, signal_name
from system.errors import InputError

_LOOK_SECONDS = 0.5
"""How often one looks for processes that have ended."""

_ENDING_SECONDS = 5.0
"""Time in which a process whose connections are at their end has ended."""

_CLOSING_SECONDS = 15.0
"""Time that a follower has to finish its batch and to close its actors."""

# A program of its own: children of multiprocessing are waited for when this process ends by an error, or could have no actors.
_MAIN = (
    "import sys; _, parent, descriptor, rank, size, *sys.path = sys.argv; del sys.argv[1:]; "
    "from agents.cli.signals import end_with_the_parent; end_with_the_parent(int(parent)); "
    "from agents.distributed.follower import main; sys.exit(main(int(descriptor), int(rank), int(size)))"
)


class DataParallelGroup:
    """The learners that follow the first; of a run with one learner there are none, and nothing here does anything.

    Args:
        size: learners of the run, the first included.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._group: Group | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._begin: dict[str, Any] = {}
        self._device = torch.device("cpu")
        self._descriptor = -1
        self._asked: Connection
        self._threads: list[threading.Thread] = []
        self._heard: queue.SimpleQueue[list[dict[str, Any]] | Exception] = queue.SimpleQueue()
        self._reports: list[dict[str, Any]] = []
        self._summed_at = (time.perf_counter(), 0.0)

    @property
    def reduce(self) -> Callable[[Tensor], None] | None:
        """For the learner (agents/learning/learner.py)."""
        return self._reduce if self._size > 1 else None

    def start(self, begin: dict[str, Any], device: torch.device, *, cluster: str = "") -> None:
        """Starts them, unless torchrun has: on this machine, or on the nodes of a cluster.

        Args:
            begin: their first message (follower.py).
            device: of the gradients.
            cluster: address of a Ray cluster that runs.
        """
        if self._size == 1:
            return
        self._begin, self._device = begin, device
        if torchrun_place():
            self._group = meet_at_torchrun()
            return
        if cluster:
            self._asked, theirs = multiprocessing.Pipe()
            with theirs:
                words = map(str, (os.getpid(), cluster, theirs.fileno(), self._size, int(device.type == "cuda")))
                self._start_process(
                    "learners", ["-m", "agents.distributed.ray_followers", *words], passed=theirs.fileno()
                )
            return
        self._descriptor = shared_file()
        self._group = meet_at_file(self._descriptor, FIRST, self._size)
        for rank in range(1, self._size):
            words = map(str, (os.getpid(), self._descriptor, rank, self._size))
            self._start_process(f"learner-{rank}", ["-c", _MAIN, *words], rank=rank, passed=self._descriptor)

    def _start_process(self, name: str, words: list[str], *, passed: int, rank: int = 0) -> None:
        with signals_blocked():
            self._processes[name] = subprocess.Popen(
                [sys.executable, *words, *map(os.path.abspath, sys.path)],
                pass_fds=[passed],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"LOCAL_RANK": str(rank)},
            )

    def shard(self, positions: StreamPositions) -> StreamPositions:
        """The positions of the first learner's own actors."""
        return shard(positions, FIRST, self._size)

    def wrap_runtime(self, own: Runtime, positions: StreamPositions, faults: Faults) -> Runtime:
        """The runtime of the whole run.

        Args:
            own: that of the first learner.
            positions: of the run; taken over, and kept up to date.
            faults: takes in what goes wrong with the actors of all.
        """
        return Leading(self, own, positions, faults) if self._size > 1 else own

    def signal_step(self, steps: dict[int, int]) -> None:
        """Makes them learn from the batches that they have reported, as the first is about to. `steps`: by task id, of the run."""
        self._tell({"over": False, "steps": steps})

    def gather(self, batch: Batch) -> Batch:
        """What all learners together make of a batch; of its trajectory what is counted (agents/trajectory.py)."""
        if not self._reports:
            return batch
        parts = [Batch(**report["batch"]) for report in self._reports]
        own = {key: batch.trajectory[key] for key in COUNTED}
        every = (batch, *parts)
        return Batch(
            trajectory=concatenate([own, *(part.trajectory for part in parts)]),
            weights_versions=[version for part in every for version in part.weights_versions],
            wait_seconds=batch.wait_seconds,
            actor_seconds=sum(part.actor_seconds for part in every),
            env_seconds=sum(part.env_seconds for part in every),
            inference_seconds=sum(part.inference_seconds for part in every),
            actor_wait_seconds=sum(part.actor_wait_seconds for part in every),
        )

    def row(self) -> dict[str, float]:
        """For metrics.jsonl: `time/reduce`, the share of the time since the last row in which sums were made, a part of `time/learner`."""
        if self._group is None:
            return {}
        (before, summed), self._summed_at = self._summed_at, (time.perf_counter(), self._group.seconds)
        return {"time/reduce": (self._group.seconds - summed) / max(1e-9, self._summed_at[0] - before)}

    def processes(self) -> dict[str, int]:
        """Process ids by name, of those that were started here."""
        return {name: process.pid for name, process in self._processes.items()}

    def join(self, check: Callable[[], object]) -> None:
        """Waits until they are there, and tells them how to begin. Does nothing the second time. `check`: see Runtime.collect."""
        if self._group is None:
            self._group = self._listen_where_asked(check)
        if self._group.joined:
            return
        while not self._group.is_complete():
            check()
            self._check()
            time.sleep(_LOOK_SECONDS / 10)
        self._group.join()
        self._tell(self._begin)
        self._begin = {}
        self._group.sum_on(self._device)
        self._run(partial(self._listen, self._group))

    def _listen_where_asked(self, check: Callable[[], object]) -> Group:
        """The group of learners on a cluster, which say at what address they can reach this one."""
        try:
            while not self._asked.poll(_LOOK_SECONDS / 10):
                check()
            group, port = listen(self._asked.recv(), self._size)
            self._asked.send(port)
        except (EOFError, ConnectionError) as error:
            raise self._lost(LearnerError("the other learners have ended")) from error
        return group

    def hear(self, check: Callable[[], object]) -> list[dict[str, Any]]:
        """Waits for what they report of their next batches. `check`: see Runtime.collect."""
        while True:
            try:
                heard = self._heard.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                check()
                self._check()
                continue
            if isinstance(heard, Exception):
                raise self._lost(heard)
            self._reports = heard
            return heard

    def dismiss(self) -> None:
        """Tells them that the run is over. They hear it when they have finished their batches."""
        if self._group and self._group.joined:
            self._run(partial(self._send_off, self._group))
        elif self._group:
            self._group.call_off()

    def end(self) -> None:
        """Waits for the end of those that were dismissed, and ends those that were started here and are late."""
        group, self._group = self._group, None
        deadline = time.monotonic() + (_CLOSING_SECONDS if group and group.joined else 0.0)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if process.poll() is None:
                kill_with_descendants(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDING_SECONDS)
        for thread in self._threads:
            thread.join(max(_ENDING_SECONDS, deadline - time.monotonic()))
        # What still waits for another machine is left to the end of the process.
        if group and not any(thread.is_alive() for thread in self._threads):
            group.leave()

    def _run(self, target: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=target, daemon=True))
        self._threads[-1].start()

    def _listen(self, group: Group) -> None:
        """In a thread of its own, because a message can only be waited for, and Ctrl-C shall not have to."""
        try:
            while True:
                self._heard.put([group.receive(rank) for rank in range(1, self._size)])
        except Exception as error:
            self._heard.put(error)

    def _send_off(self, group: Group) -> None:
        for rank in range(1, self._size):
            # Those that are gone need not be told.
            with contextlib.suppress(LearnerError):
                group.send({"over": True}, rank)

    def _tell(self, message: dict[str, Any]) -> None:
        for rank in range(1, self._size):
            assert self._group
            try:
                self._group.send(message, rank)
            except LearnerError as error:
                raise self._lost(error) from error

    def _reduce(self, tensor: Tensor) -> None:
        assert self._group
        try:
            self._group.reduce(tensor)
        except LearnerError as error:
            raise self._lost(error) from error

    def _check(self) -> None:
        if any(process.poll() is not None for process in self._processes.values()):
            raise self._lost(LearnerError("another learner has ended"))

    def _lost(self, error: Exception) -> Exception:
        """Why a follower is gone, as far as that can be known here; else `error`."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while time.monotonic() < deadline:
            failure = self._group.failure() if self._group else None
            if failure and failure.is_input_error:
                return InputError(failure.error)
            if failure:
                return LearnerError(f"learner {failure.rank} failed:\n{failure.error}")
            for name, process in self._processes.items():
                # Those that only lost the others end with an exit code.
                if (process.poll() or 0) < 0:
                    return LearnerError(f"{name.replace('-', ' ')} was killed: {signal_name(-process.returncode)}")
            if self._processes and all(process.poll() is not None for process in self._processes.values()):
                codes = ", ".join(str(process.returncode) for process in self._processes.values())
                return LearnerError(f"the other learners have ended (exit code {codes})")
            time.sleep(_LOOK_SECONDS / 10)
        return error


class Leading:
    """The runtime of a run with several learners: the first learner's own, whose batches are complete when all have theirs.

    Args:
        followers, own, positions, faults: see DataParallelGroup.wrap_runtime.
    """

    def __init__(self, followers: DataParallelGroup, own: Runtime, positions: StreamPositions, faults: Faults) -> None:
        self.positions = positions
        self._followers, self._own, self._faults = followers, own, faults
        self._part: Batch | None = None

    def collect(self, check: Callable[[], object] = never_interrupt) -> Batch:
        """The first learner's part of the next batch; waits until the others have theirs, too.

        Raises:
            LearnerError: another learner is gone.
            ActorError, InputError: see runtime/base.py; of the actors of all.
        """
        self._followers.join(check)
        # Kept while the others are waited for, which may be broken off.
        self._part = self._part or self._own.collect(check)
        began = time.perf_counter()
        reports = self._followers.hear(check)
        waited = time.perf_counter() - began
        batch, self._part = self._part, None
        size = len(reports) + 1
        add_shard(self.positions, self._own.positions, FIRST, size)
        for rank, report in enumerate(reports, start=1):
            add_shard(self.positions, StreamPositions(**report["positions"]), rank, size)
            for record in report["faults"]:
                self._faults.add(
                    f"{record['where']} of learner {rank}",
                    Fault(**{field: record[field] for field in Fault._fields}),
                    unrolls_dropped=record["unrolls_dropped"],
                    episodes_dropped=record["episodes_dropped"],
                )
        return replace(batch, wait_seconds=batch.wait_seconds + waited)

    def publish(self, version: int) -> None:
        """To the first learner's actors; the others publish for themselves."""
        self._own.publish(version)
        self._own.positions.steps = self.positions.steps

    def state_dict(self) -> None:
        """None: the actors of the others are not to be had."""

    def processes(self) -> dict[str, int]:
        """The first learner's actors, and the learners that were started here."""
        return self._own.processes() | self._followers.processes()

    def close(self) -> None:
        """Ends all actors and the other learners."""
        self._followers.dismiss()
        self._own.close()
        self._followers.end()
