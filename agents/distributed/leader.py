"""The leader, rank 0 of several learners. It starts the followers (follower.py), starts every update, and adds up their statistics."""

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
    LEADER,
    Group,
    LearnerError,
    add_shard,
    listen,
    meet_at_file,
    meet_at_torchrun,
    shared_file,
)
from agents.distributed.torchrun import torchrun_rank
from agents.runtime.base import Batch, Runtime, StreamPositions, never_interrupt
from agents.runtime.processes.actor_process import total_seconds
from agents.runtime.processes.process import kill_with_descendants, signals_blocked
from agents.runtime.restarts import Faults
from agents.trajectory import COUNTED, concatenate
from envs.faults import signal_name
from system.python_paths import child_environment

_CHECK_SECONDS = 0.5
"""Seconds between two checks for followers that have ended."""
_GRACE_SECONDS = 5.0
"""Grace period after a connection closes, in which its process ends."""
_CLOSING_SECONDS = 15.0
"""Time for a follower to finish its batch and close its actors."""

# Not multiprocessing.Process: at exit the interpreter waits for one, and a daemonic one cannot start actors.
_MAIN = (
    "import sys; _, parent, descriptor, rank, size, *sys.path = sys.argv; del sys.argv[1:]; "
    "from agents.cli.signals import end_with_the_parent; end_with_the_parent(int(parent)); "
    "from agents.distributed.follower import main; sys.exit(main(int(descriptor), int(rank), int(size)))"
)


class DataParallelGroup:
    """The leader's side of the group of `size` learners. With one learner every method returns at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._group: Group | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._initial: dict[str, Any] = {}
        self._device = torch.device("cpu")
        self._address_pipe: Connection
        self._threads: list[threading.Thread] = []
        self._received: queue.SimpleQueue[list[dict[str, Any]] | Exception] = queue.SimpleQueue()
        self._reports: list[dict[str, Any]] = []
        self._summed_at = (time.perf_counter(), 0.0)

    @property
    def reduce(self) -> Callable[[Tensor], None] | None:
        """Sums a tensor over all learners, for agents/learning/learner.py; None with one learner."""
        return self._reduce if self._size > 1 else None

    def start(self, initial: dict[str, Any], device: torch.device, *, cluster: str = "") -> None:
        """Starts the followers on this machine or on the nodes of the Ray cluster at this address, unless torchrun has started them.

        Args:
            initial: Their first message (follower.initial_message).
            device: Of the gradients.
        """
        if self._size == 1:
            return
        self._initial, self._device = initial, device
        if torchrun_rank():
            self._group = meet_at_torchrun()
            return
        if cluster:
            self._address_pipe, child_end = multiprocessing.Pipe()
            with child_end:
                arguments = map(str, (os.getpid(), cluster, child_end.fileno(), self._size, int(device.type == "cuda")))
                self._start_process(
                    "learners", ["-m", "agents.distributed.ray_followers", *arguments], passed=child_end.fileno()
                )
            return
        descriptor = shared_file()
        self._group = meet_at_file(descriptor, LEADER, self._size)
        for rank in range(1, self._size):
            arguments = map(str, (os.getpid(), descriptor, rank, self._size))
            self._start_process(f"learner-{rank}", ["-c", _MAIN, *arguments], rank=rank, passed=descriptor)

    def _start_process(self, name: str, arguments: list[str], *, passed: int, rank: int = 0) -> None:
        with signals_blocked():
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-P", *arguments, *map(os.path.abspath, sys.path)],
                pass_fds=[passed],
                stdin=subprocess.DEVNULL,
                env=child_environment() | {"LOCAL_RANK": str(rank)},
            )

    def wrap_runtime(self, own: Runtime, positions: StreamPositions, faults: Faults) -> Runtime:
        """The runtime of the whole run: `own` is the leader's, `positions` of the run are updated, `faults` counts those of all actors."""
        return GroupRuntime(self, own, positions, faults) if self._size > 1 else own

    def signal_step(self, steps: dict[int, int]) -> None:
        """Makes the followers learn from the batches that they reported. `steps`: of the whole run, by task id."""
        self._send({"run_ends": False, "steps": steps})

    def gather(self, batch: Batch) -> Batch:
        """Joins the batches of all learners. The trajectory holds only the keys in COUNTED (agents/trajectory.py)."""
        if not self._reports:
            return batch
        reported = [Batch(**report["batch"]) for report in self._reports]
        own = {key: batch.trajectory[key] for key in COUNTED}
        batches = (batch, *reported)
        return Batch(
            trajectory=concatenate([own, *(part.trajectory for part in reported)]),
            weights_versions=[version for part in batches for version in part.weights_versions],
            wait_seconds=batch.wait_seconds,
            **total_seconds(batches),
        )

    def row(self) -> dict[str, float]:
        """For metrics.jsonl: `time/reduce`, the share of the time since the last row spent in sums. `time/learner` includes it."""
        if self._group is None:
            return {}
        (before, summed), self._summed_at = self._summed_at, (time.perf_counter(), self._group.seconds)
        return {"time/reduce": (self._group.seconds - summed) / max(1e-9, self._summed_at[0] - before)}

    def processes(self) -> dict[str, int]:
        """Ids, by name, of the processes of followers that this process started."""
        return {name: process.pid for name, process in self._processes.items()}

    def join(self, check: Callable[[], object]) -> None:
        """Waits until all followers have connected, and sends their first message. Returns at once when called again."""
        if self._group is None:
            self._group = self._listen_on_request(check)
        if self._group.joined:
            return
        while not self._group.is_complete():
            check()
            self._check()
            time.sleep(_CHECK_SECONDS / 10)
        self._group.join()
        self._send(self._initial)
        self._initial = {}
        self._group.sum_on(self._device)
        self._start_thread(partial(self._listen, self._group))

    def _listen_on_request(self, check: Callable[[], object]) -> Group:
        """The group for followers on a cluster. They report the address on which this process has to listen."""
        try:
            while not self._address_pipe.poll(_CHECK_SECONDS / 10):
                check()
            group, port = listen(self._address_pipe.recv(), self._size)
            self._address_pipe.send(port)
        except (EOFError, ConnectionError) as error:
            raise self._find_reason(LearnerError("the other learners have ended")) from error
        return group

    def receive(self, check: Callable[[], object]) -> list[dict[str, Any]]:
        """Waits for the followers' reports (follower.report) of their next batches. Raises LearnerError or InputError if one failed."""
        while True:
            try:
                received = self._received.get(timeout=_CHECK_SECONDS)
            except queue.Empty:
                check()
                self._check()
                continue
            if isinstance(received, Exception):
                raise self._find_reason(received)
            self._reports = received
            return received

    def dismiss(self) -> None:
        """Sends the followers the message that the run ends. They read it after their present batches."""
        if self._group and self._group.joined:
            self._start_thread(partial(self._send_end, self._group))
        elif self._group:
            self._group.cancel()

    def end(self) -> None:
        """Waits until the followers end. Kills the ones that this process started if they are late."""
        group, self._group = self._group, None
        deadline = time.monotonic() + (_CLOSING_SECONDS if group and group.joined else 0.0)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if process.poll() is None:
                kill_with_descendants(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
        for thread in self._threads:
            thread.join(max(_GRACE_SECONDS, deadline - time.monotonic()))
        # A thread that still waits for another machine ends with the process.
        if group and not any(thread.is_alive() for thread in self._threads):
            group.leave()

    def _start_thread(self, target: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=target, daemon=True))
        self._threads[-1].start()

    def _listen(self, group: Group) -> None:
        """Runs in a thread, because receiving a message cannot be interrupted and Ctrl-C must work meanwhile."""
        try:
            while True:
                self._received.put([group.receive(rank) for rank in range(1, self._size)])
        except Exception as error:
            self._received.put(error)

    def _send_end(self, group: Group) -> None:
        """Runs in a thread, because a follower reads the message only after its batch."""
        for rank in range(1, self._size):
            # A follower may have ended already.
            with contextlib.suppress(LearnerError):
                group.send({"run_ends": True}, rank)

    def _send(self, message: dict[str, Any]) -> None:
        for rank in range(1, self._size):
            assert self._group
            try:
                self._group.send(message, rank)
            except LearnerError as error:
                raise self._find_reason(error) from error

    def _reduce(self, tensor: Tensor) -> None:
        assert self._group
        try:
            self._group.reduce(tensor)
        except LearnerError as error:
            raise self._find_reason(error) from error

    def _check(self) -> None:
        if any(process.poll() is not None for process in self._processes.values()):
            raise self._find_reason(LearnerError("another learner has ended"))

    def _find_reason(self, error: Exception) -> Exception:
        """The reason why a follower ended, if it is known here; else `error`."""
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline:
            if self._group and (failure := self._group.failure()):
                return failure
            for name, process in self._processes.items():
                # Only the first one to end is killed by a signal (a negative code). Others lose their connection and exit with FAILED.
                if (process.poll() or 0) < 0:
                    return LearnerError(f"{name.replace('-', ' ')} was killed: {signal_name(-process.returncode)}")
            if self._processes and all(process.poll() is not None for process in self._processes.values()):
                codes = ", ".join(str(process.returncode) for process in self._processes.values())
                return LearnerError(f"the other learners have ended (exit code {codes})")
            time.sleep(_CHECK_SECONDS / 10)
        return error


class GroupRuntime:
    """The leader's runtime (DataParallelGroup.wrap_runtime). It returns a batch when every follower has reported one."""

    def __init__(self, followers: DataParallelGroup, own: Runtime, positions: StreamPositions, faults: Faults) -> None:
        self.positions = positions
        self._followers, self._own, self._faults = followers, own, faults
        self._pending: Batch | None = None

    def collect(self, check: Callable[[], object] = never_interrupt) -> Batch:
        """The leader's shard of the next batch, after every follower has reported its own. Raises LearnerError if a follower has ended."""
        self._followers.join(check)
        # An attribute, because `check` may interrupt the wait, and the next call must return the same batch.
        self._pending = self._pending or self._own.collect(check)
        began = time.perf_counter()
        reports = self._followers.receive(check)
        waited = time.perf_counter() - began
        batch, self._pending = self._pending, None
        size = len(reports) + 1
        add_shard(self.positions, self._own.positions, LEADER, size)
        for rank, report in enumerate(reports, start=1):
            add_shard(self.positions, StreamPositions(**report["positions"]), rank, size)
            for record in report["faults"]:
                self._faults.add_record(record, of=f" of learner {rank}")
        return replace(batch, wait_seconds=batch.wait_seconds + waited)

    def publish(self, version: int) -> None:
        """Publishes to the leader's actors. Each follower publishes to its own."""
        self._own.publish(version)
        self._own.positions.steps = self.positions.steps

    def state_dict(self) -> None:
        """Returns None: the state of the followers' actors is not available, so a resumed run starts new episodes."""

    def processes(self) -> dict[str, int]:
        """The leader's actors, and the followers that this process started."""
        return self._own.processes() | self._followers.processes()

    def close(self) -> None:
        """Ends all actors and the followers."""
        self._followers.dismiss()
        self._own.close()
        self._followers.end()
