"""The process group of the learners of one run: rendezvous, sums and messages, all by torch.distributed.

Rank 0 is the leader; the other ranks are followers. The leader (leader.py), torchrun or another program starts the followers
(follower.py, `follow`) and gives each the same store, its rank and the size.

Messages are tensors and plain data. They are not encrypted, and a program that reaches a learner's port can take part. On one machine
ports are bound to loopback. Between machines the network has to be private (docs/security.md, "What listens").
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import io
import ipaddress
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed

from agents.distributed.torchrun import Launched
from agents.runtime.base import StreamPositions
from system.errors import ErrorReport, InputError, RunError

LEADER = 0

_CHECK_SECONDS = 0.05
"""Seconds between two checks whether all learners have connected."""

_CONNECT_SECONDS = 60.0
"""Time for all processes of torchrun to connect."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_SUM_TIMEOUT = datetime.timedelta(minutes=10)
"""For sums: all learners are in the same update then."""

_MESSAGE_TIMEOUT = datetime.timedelta(days=365)
"""For messages: a batch may take any time. If a process ends, its connections close, which raises at once."""


class LearnerError(RunError):
    """Another learner failed. The message holds its traceback or the signal that killed it."""


class Group:
    """One learner's side of the process group.

    Args:
        loopback: Whether all learners are on this machine.

    Attributes:
        joined: Whether `join` has returned.
        seconds: Total time in `reduce`, including waits for the slowest learner.
    """

    def __init__(self, store: Any, rank: int, size: int, *, loopback: bool) -> None:
        self._store, self.rank, self.size = store, rank, size
        self.joined = False
        self.seconds = 0.0
        self._loopback = loopback
        self._sums: Any = None
        self._store.set(f"connected/{self.rank}", "")

    def is_complete(self) -> bool:
        """Whether every learner has connected."""
        return bool(self._store.check([f"connected/{rank}" for rank in range(self.size)]))

    def wait_for_all(self) -> bool:
        """Waits until every learner has connected. False if the leader has cancelled the run."""
        while not self.is_complete():
            if self._store.check(["cancelled"]):
                return False
            time.sleep(_CHECK_SECONDS)
        return True

    def cancel(self) -> None:
        """Cancels the run for learners that have not connected yet."""
        self._store.set("cancelled", "")

    def join(self) -> None:
        """Connects the learners. Call it after `is_complete`."""
        if self._loopback:
            for library in ("GLOO", "NCCL"):
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        with _as_learner_error():
            distributed.init_process_group(
                "gloo",
                store=distributed.PrefixStore("learners", self._store),  # type: ignore[attr-defined]
                rank=self.rank,
                world_size=self.size,
                timeout=_MESSAGE_TIMEOUT,
            )
        self.joined = True

    def sum_on(self, device: torch.device) -> None:
        """Chooses the backend of `reduce` for tensors on `device`. Collective: every learner has to call it."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with _as_learner_error():
            backend = "nccl" if device.type == "cuda" else "gloo"
            self._sums = distributed.new_group(backend=backend, timeout=_SUM_TIMEOUT)

    def reduce(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over all learners. The result has the same bits on every learner."""
        began = time.perf_counter()
        with _as_learner_error():
            distributed.all_reduce(tensor, group=self._sums)
        self.seconds += time.perf_counter() - began

    def send(self, message: dict[str, Any], rank: int) -> None:
        """Sends tensors and plain data. Returns after the receiver has them."""
        file = io.BytesIO()
        torch.save(message, file)
        data = torch.frombuffer(bytearray(file.getbuffer()), dtype=torch.uint8)
        with _as_learner_error():
            distributed.send(torch.tensor([len(data)]), rank)
            distributed.send(data, rank)

    def receive(self, rank: int) -> dict[str, Any]:
        """The next message of learner `rank`."""
        size = torch.zeros(1, dtype=torch.int64)
        with _as_learner_error():
            distributed.recv(size, rank)
            data = torch.empty(int(size), dtype=torch.uint8)
            distributed.recv(data, rank)
        message: dict[str, Any] = torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
        return message

    def fail(self, error: Exception) -> None:
        """Stores the reason why this learner ends, for the leader to read."""
        # Setting raises if the store has ended, for example together with the leader.
        with contextlib.suppress(RuntimeError):
            self._store.set(f"failed/{self.rank}", json.dumps(ErrorReport.of(error)))

    def failure(self) -> Exception | None:
        """The reason that a follower has stored with `fail`, as an InputError or LearnerError; None without one."""
        for rank in range(1, self.size):
            if self._store.check([f"failed/{rank}"]):
                report = ErrorReport(*json.loads(self._store.get(f"failed/{rank}")))
                return report.exception(LearnerError, f"learner {rank} failed:\n")
        return None

    def leave(self) -> None:
        """Closes the connections."""
        if self.joined:
            self.joined = False
            distributed.destroy_process_group()


def meet_at_torchrun() -> Group:
    """The group of the processes of torchrun."""
    return Group(*_meet_torchrun(), loopback=os.environ["MASTER_ADDR"] in LOOPBACK)


def dismiss_followers(launched: Launched) -> None:
    """Ends the followers of torchrun if the leader has nothing to train."""
    store, _, _ = _meet_torchrun()
    store.set("cancelled", "")
    # The store may end with this process, so wait until the followers have read it.
    others = [f"connected/{rank}" for rank in range(1, launched.size)]
    until = time.monotonic() + _CONNECT_SECONDS
    while not store.check(others) and time.monotonic() < until:
        time.sleep(_CHECK_SECONDS)
    time.sleep(4 * _CHECK_SECONDS)


def _meet_torchrun() -> tuple[Any, int, int]:
    """The store at torchrun's address, and rank and size of this process. torchrun's agent hosts the store, or else the leader."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank == LEADER and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return _store_at(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size), rank, size
    found: tuple[Any, int, int] = next(distributed.rendezvous("env://"))  # type: ignore[attr-defined]
    return found


def _store_at(host: str, port: int, size: int) -> Any:
    """A store that listens on the address of `host` only. PyTorch's default is every interface.

    If the address does not belong to this machine, for example behind network address translation, the store listens on every interface.
    """
    listener = _listener(host, port)
    if listener is None:
        host, listener = "localhost", socket.create_server(("", port))
    return distributed.TCPStore(  # type: ignore[attr-defined]
        host,
        listener.getsockname()[1],
        size,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
        # Before torch 2.8 libuv's store accepts no listening socket.
        use_libuv=False,
    )


def _listener(host: str, port: int) -> socket.socket | None:
    """A listening socket. None if the address is not this machine's, or if `host` is a host name that resolves to loopback here."""
    with contextlib.suppress(socket.gaierror):
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            found = str(address[0])
            if ipaddress.ip_address(found).is_loopback and host not in (*LOOPBACK, found):
                return None
            try:
                return socket.create_server((found, port), family=family)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise InputError(
                        f"port {port} of {host} is taken: give the learners another MASTER_PORT."
                    ) from error
    return None


def shared_file() -> int:
    """The descriptor of a file in memory for `meet_at_file`. The file disappears with its processes, even if they are killed.

    Do not close it. FileStore reopens the file by the number of the descriptor, and writes to it when its last reference ends, which
    may be a stored traceback. A closed number could belong to another file by then.
    """
    return os.memfd_create("learners")


def meet_at_file(descriptor: int, rank: int, size: int) -> Group:
    """The group of the processes on this machine that share the file of `shared_file`. The descriptor must stay open."""
    store = distributed.FileStore(f"/proc/self/fd/{descriptor}", size)  # type: ignore[attr-defined]
    return Group(store, rank, size, loopback=True)


def listen(host: str, size: int) -> tuple[Group, int]:
    """The leader's group, for followers that connect to `host`, and the port of its store."""
    store = _store_at(host, 0, size)
    return Group(store, LEADER, size, loopback=host in LOOPBACK), store.port


def meet_at_port(host: str, port: int, rank: int, size: int) -> Group:
    """A follower's group, by the store that the leader opened with `listen`."""
    store = distributed.TCPStore(host, port, size, is_master=False)  # type: ignore[attr-defined]
    return Group(store, rank, size, loopback=host in LOOPBACK)


def shard(positions: StreamPositions, rank: int, size: int) -> StreamPositions:
    """The positions of one learner's actors, keyed by the learner's own actor numbers (agents.setup.builder.ActorFactory)."""
    own = range(rank, 1 + max([rank, *positions.unrolls, *positions.episodes]), size)
    return positions.of(dict(enumerate(own)))


def add_shard(positions: StreamPositions, part: StreamPositions, rank: int, size: int) -> None:
    """The inverse of `shard`: writes one learner's positions into the run's."""
    positions.unrolls |= {index * size + rank: unrolls for index, unrolls in part.unrolls.items()}
    positions.episodes |= {index * size + rank: episodes for index, episodes in part.episodes.items()}


@contextlib.contextmanager
def _as_learner_error() -> Iterator[None]:
    """Raises LearnerError where torch.distributed reports that another learner has ended."""
    try:
        yield
    except RuntimeError as error:
        raise LearnerError(f"another learner is gone ({str(error).splitlines()[0]})") from error
