"""Learners that learn as one: where they meet, the sums they make together, and what they tell each other.

All go by torch.distributed, so that it does not matter who has started them: the first learner (leader.py), torchrun, or anybody who
gives each of them the same store, its rank and the number of all (follower.py, `follow`). The first, of rank 0, has the run; the others
follow it. Messages are tensors and plain data. They are not encrypted, and whoever reaches the ports of a learner can take part: on one
machine they are bound to its loopback, on several the network between them has to be one's own (docs/security.md, "What listens").
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
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from agents.runtime.base import StreamPositions
from system.errors import InputError

FIRST = 0
"""Rank of the learner that has the run."""

_LOOK_SECONDS = 0.05
"""How often one looks whether the others have come."""

_COMING_SECONDS = 60.0
"""In which every process that torchrun has started has come."""

_SUM_TIMEOUT = datetime.timedelta(minutes=10)
"""For learners that are all in the middle of an update."""

_MESSAGE_TIMEOUT = datetime.timedelta(days=365)
"""A batch takes as long as it takes. The end of a process is noticed without: its connections end with it."""


class LearnerError(RuntimeError):
    """Another learner raised or vanished; the message holds its traceback or how it ended."""


class LearnerFailure(NamedTuple):
    """Why a learner ended: the traceback of what it raised, or the sentence of an InputError."""

    rank: int
    error: str
    is_input_error: bool


class Rank(NamedTuple):
    """Of one learner: where it meets the others, which of them it is, and how many they are."""

    store: Any
    rank: int
    size: int


class Group:
    """All learners, as one of them sees the others.

    Args:
        place: of this one.
        loopback: whether all are on this machine.

    Attributes:
        rank, size: this learner's number and that of all.
        joined: whether `join` is over.
        seconds: spent in `reduce`, waiting for the slowest included.
    """

    def __init__(self, place: Rank, *, loopback: bool) -> None:
        self._store, self.rank, self.size = place
        self.joined = False
        self.seconds = 0.0
        self._loopback = loopback
        self._sums: Any = None
        self._store.set(f"here/{self.rank}", "")

    def is_complete(self) -> bool:
        """Whether all have come."""
        return bool(self._store.check([f"here/{rank}" for rank in range(self.size)]))

    def wait_for_all(self) -> bool:
        """Waits until all have come; False if the first has called the run off."""
        while not self.is_complete():
            if self._store.check(["off"]):
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def call_off(self) -> None:
        """Sends those home that are still to come."""
        self._store.set("off", "")

    def join(self) -> None:
        """Connects all, which have come."""
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
        """Says where the tensors of `reduce` are. All have to say it before they go on."""
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with _as_learner_error():
            self._sums = distributed.new_group(backend=backend(device), timeout=_SUM_TIMEOUT)

    def reduce(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over all learners, which all get to the same bits."""
        began = time.perf_counter()
        with _as_learner_error():
            distributed.all_reduce(tensor, group=self._sums)
        self.seconds += time.perf_counter() - began

    def send(self, message: dict[str, Any], rank: int) -> None:
        """Sends tensors and plain data, and waits until they are received."""
        file = io.BytesIO()
        torch.save(message, file)
        data = torch.frombuffer(bytearray(file.getbuffer()), dtype=torch.uint8)
        with _as_learner_error():
            distributed.send(torch.tensor([len(data)]), rank)
            distributed.send(data, rank)

    def receive(self, rank: int) -> dict[str, Any]:
        """The next message of another learner."""
        size = torch.zeros(1, dtype=torch.int64)
        with _as_learner_error():
            distributed.recv(size, rank)
            data = torch.empty(int(size), dtype=torch.uint8)
            distributed.recv(data, rank)
        message: dict[str, Any] = torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
        return message

    def fail(self, error: str, *, is_input_error: bool) -> None:
        """Leaves word for the first learner of why this one ends."""
        # If that is gone, there is nobody to tell.
        with contextlib.suppress(RuntimeError):
            self._store.set(f"failed/{self.rank}", json.dumps([error, is_input_error]))

    def failure(self) -> LearnerFailure | None:
        """What another learner has left word of."""
        for rank in range(1, self.size):
            if self._store.check([f"failed/{rank}"]):
                return LearnerFailure(rank, *json.loads(self._store.get(f"failed/{rank}")))
        return None

    def leave(self) -> None:
        """Ends the connections."""
        if self.joined:
            self.joined = False
            distributed.destroy_process_group()


def backend(device: torch.device) -> str:
    """What adds up tensors of that device."""
    return "nccl" if device.type == "cuda" else "gloo"


class Launched(NamedTuple):
    """Which of how many processes this is, of those that torchrun has started."""

    rank: int
    size: int


def torchrun_place() -> Launched | None:
    """As torchrun, or whoever sets the same variables, says; None where it has started one process alone, or none."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    size = int(os.environ["WORLD_SIZE"])
    return Launched(int(os.environ["RANK"]), size) if size > 1 else None


def with_learners(arguments: Sequence[str], launched: Launched | None) -> list[str]:
    """The command line, with as many learners as torchrun has started.

    Raises:
        InputError: it asks for another number.
    """
    if launched is None:
        return list(arguments)
    key = f"{_KEY}={launched.size}"
    if different := [argument for argument in arguments if argument.partition("=")[0] == _KEY and argument != key]:
        raise InputError(f"{different[0]} contradicts torchrun, which has started {launched.size}: leave the key out.")
    return [*arguments, key]


_KEY = "learner.num_processes"


def meet_at_torchrun() -> Group:
    """The group of the processes that torchrun has started."""
    return Group(_meeting_place(), loopback=os.environ["MASTER_ADDR"] in LOOPBACK)


def send_home(launched: Launched) -> None:
    """Tells the learners that torchrun has started beside the first that there is nothing to learn."""
    store = _meeting_place().store
    store.set("off", "")
    # The store may end with this process.
    others = [f"here/{rank}" for rank in range(1, launched.size)]
    until = time.monotonic() + _COMING_SECONDS
    while not store.check(others) and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    time.sleep(4 * _LOOK_SECONDS)


def _meeting_place() -> Rank:
    """Where torchrun's variables say. Its agent has a store there, or else the first learner has."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank == FIRST and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return Rank(_store_at(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size), rank, size)
    return Rank(*next(distributed.rendezvous("env://")))  # type: ignore[attr-defined]


def _store_at(host: str, port: int, size: int) -> Any:
    """A store that can be reached at that address alone. PyTorch by itself listens on every interface.

    Where the address is none of this machine's own, as behind a router that translates it, there is no other way.
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
        # Before torch 2.8 the other implementation takes no socket that listens already.
        use_libuv=False,
    )


def _listener(host: str, port: int) -> socket.socket | None:
    """None where the address is not this machine's own, or where it is to this machine alone: on some, their own name means loopback."""
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
    """The descriptor of a file for `meet_at_file`. It has no name, so that nothing is left of it whichever way its processes end.

    It stays open as long as this process lives. PyTorch's FileStore opens its file again, and writes to it, at the end of the last that
    knows of it: a process group, or a traceback that was kept. By then a descriptor that was closed could be that of another file.
    """
    return os.memfd_create("learners")


def meet_at_file(descriptor: int, rank: int, size: int) -> Group:
    """The group of processes on this machine that share a file (`shared_file`), whose descriptor none of them closes."""
    store = distributed.FileStore(f"/proc/self/fd/{descriptor}", size)  # type: ignore[attr-defined]
    return Group(Rank(store, rank, size), loopback=True)


def listen(host: str, size: int) -> tuple[Group, int]:
    """The group of learners that find the first at `host`, as the first sees it, and the port at which they do."""
    store = _store_at(host, 0, size)
    return Group(Rank(store, FIRST, size), loopback=host in LOOPBACK), store.port


def meet_at_port(host: str, port: int, rank: int, size: int) -> Group:
    """The group of the learner that listens there."""
    store = distributed.TCPStore(host, port, size, is_master=False)  # type: ignore[attr-defined]
    return Group(Rank(store, rank, size), loopback=host in LOOPBACK)


LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses of this machine for itself."""


def shard(positions: StreamPositions, rank: int, size: int) -> StreamPositions:
    """The positions of the actors of one learner, by its own numbers (agents.setup.plan.actor_of_run)."""
    own = range(rank, 1 + max([rank, *positions.unrolls, *positions.episodes]), size)
    return StreamPositions(
        unrolls={index: positions.unrolls[number] for index, number in enumerate(own) if number in positions.unrolls},
        episodes={
            index: positions.episodes[number] for index, number in enumerate(own) if number in positions.episodes
        },
        steps=dict(positions.steps),
    )


def add_shard(positions: StreamPositions, share: StreamPositions, rank: int, size: int) -> None:
    """The inverse: takes the positions of one learner's actors over into those of the run."""
    positions.unrolls |= {index * size + rank: unrolls for index, unrolls in share.unrolls.items()}
    positions.episodes |= {index * size + rank: episodes for index, episodes in share.episodes.items()}


@contextlib.contextmanager
def _as_learner_error() -> Iterator[None]:
    """Around what fails when another learner is gone."""
    try:
        yield
    except RuntimeError as error:
        raise LearnerError(f"another learner is gone ({str(error).splitlines()[0]})") from error
