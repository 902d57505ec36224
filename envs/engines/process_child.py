"""The process of one slot: it plays the slot's environment, told by messages, and leaves what it sees in shared memory.

It imports what the environment needs and nothing else, ends with its parent, and leaves Ctrl-C to it.
"""

from __future__ import annotations

import faulthandler
import fcntl
import mmap
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NamedTuple

import numpy as np

from envs.engines.base import Arrays
from envs.engines.gymnasium_engine import GymnasiumEngine, MakeEnv
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from system.descendants import own
from system.errors import InputError

STACKS_SIGNAL = signal.SIGUSR1
"""Makes the process write where in Python its threads are, even inside an engine that never returns to Python, and end."""

_ALIGNMENT = 64


class Attach(NamedTuple):
    """Take part in these shared arrays, as row `row`; their memory follows as a handle."""

    arrays: dict[str, ArraySpec]
    row: int


class Build(NamedTuple):
    """Make the environment of a slot; see `envs.engines.gymnasium_engine.GymnasiumEngine`."""

    make: MakeEnv
    spec: EnvSpec
    slot: Slot
    split: Split


class Start(NamedTuple):
    """Begin the slot's first episode under that run seed; show it in that bank."""

    seed: int
    bank: int


class Step(NamedTuple):
    """Take the action that lies in shared memory, or begin the next episode, of `task`, if the last one has ended. Show what
    there is to see in that bank.

    This and Start are answered with a list of Faults where there are some, and with None where not.
    """

    task: int
    bank: int


class Render(NamedTuple):
    """Answer with a picture."""


class ChildError(NamedTuple):
    """The answer to a message that raised: a traceback, or the sentence of an InputError."""

    text: str
    is_input_error: bool


def shared_spec(spec: EnvSpec, slots: int) -> dict[str, ArraySpec]:
    """What lies in shared memory: the observation [2, slots, ...], and `action`, `reward`, `terminated`, `truncated`, `success`,
    `interrupted` and `episode` [slots, ...].

    The observation has two banks, of which a process writes one while its slot still shows the other: whatever happens to the
    process in the meantime, the last observation is whole.
    """
    seen = dict(spec.observation)
    if spec.instruction_length:
        seen["instruction"] = ArraySpec(shape=(spec.instruction_length,), dtype="int32")
    one = {
        "action": spec.action,
        "reward": ArraySpec(shape=(), dtype="float32"),
        "terminated": ArraySpec(shape=(), dtype="bool"),
        "truncated": ArraySpec(shape=(), dtype="bool"),
        "success": ArraySpec(shape=(), dtype="float32"),
        "interrupted": ArraySpec(shape=(), dtype="bool"),
        "episode": ArraySpec(shape=(), dtype="int64"),
    }
    banks = {key: ArraySpec(shape=(2, slots, *array.shape), dtype=array.dtype) for key, array in seen.items()}
    return banks | {key: ArraySpec(shape=(slots, *array.shape), dtype=array.dtype) for key, array in one.items()}


def shared_size(arrays: Mapping[str, ArraySpec]) -> int:
    """Bytes of memory that `map_arrays` needs."""
    return sum(_padded(_num_bytes(array)) for array in arrays.values())


def map_arrays(arrays: Mapping[str, ArraySpec], descriptor: int) -> Arrays:
    """The arrays in the memory behind `descriptor`, which may be closed afterwards."""
    memory = mmap.mmap(descriptor, shared_size(arrays))
    mapped, offset = {}, 0
    for key, array in arrays.items():
        size = _num_bytes(array)
        raw = np.frombuffer(memory, np.uint8, size, offset)
        mapped[key] = raw.view(array.dtype).reshape(array.shape)
        offset += _padded(size)
    return mapped


def _num_bytes(array: ArraySpec) -> int:
    return int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class _Seat:
    """What this process knows of its slot: its row of the shared arrays, and an engine of one slot."""

    def __init__(self) -> None:
        self._arrays: Arrays = {}
        self._row = slice(0)
        self._engine: GymnasiumEngine | None = None
        self._written_in_place: tuple[str, ...] = ()

    def attach(self, message: Attach, descriptor: int) -> None:
        self._arrays = map_arrays(message.arrays, descriptor)
        self._row = slice(message.row, message.row + 1)

    def obey(self, message: Any) -> Any:
        """The answer to any other message."""
        if isinstance(message, Build):
            self.close()
            self._engine = GymnasiumEngine(message.make, message.spec, (message.slot,), message.split)
            self._written_in_place = tuple(message.spec.observation)
            return None
        assert self._engine is not None
        if isinstance(message, Render):
            return self._engine.render(0)
        arrays, row, seen = self._arrays, self._row, self._engine.observation
        seen.update({key: arrays[key][message.bank, row] for key in self._written_in_place})
        if isinstance(message, Start):
            self._engine.start(message.seed)
        else:
            self._engine.assign(0, message.task)
            reward, terminated, truncated = self._engine.step(arrays["action"][row])
            arrays["reward"][row], arrays["terminated"][row], arrays["truncated"][row] = reward, terminated, truncated
            arrays["success"][row] = self._engine.success
        arrays["interrupted"][row], arrays["episode"][row] = self._engine.interrupted, self._engine.episode
        if "instruction" in seen:
            # The tokens are the engine's own.
            arrays["instruction"][message.bank, row] = seen["instruction"]
        return self._engine.take_faults() or None

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def main(descriptor: int, stacks: int) -> None:
    """Obeys the messages that come through the connection `descriptor` until it ends.

    Where in Python its threads were when it dies of a crash or of STACKS_SIGNAL is written to the file `stacks`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_the_parent()
    own()
    # Programs that the environment starts would hold the connection open.
    os.set_inheritable(descriptor, False)
    os.set_inheritable(stacks, False)
    faulthandler.enable(stacks)
    # `chain`: after that the signal does what it does by default, which is to end the process.
    faulthandler.register(STACKS_SIGNAL, stacks, chain=True)
    connection = Connection(descriptor)
    seat = _Seat()
    try:
        while True:
            try:
                message = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            except Exception:  # what is asked for cannot be imported here
                connection.send(ChildError(traceback.format_exc(), False))
                continue
            answer: Any = None
            try:
                if isinstance(message, Attach):
                    with os.fdopen(recv_handle(connection), "rb") as memory:
                        seat.attach(message, memory.fileno())
                else:
                    answer = seat.obey(message)
            except InputError as error:
                answer = ChildError(str(error), True)
            except Exception:
                answer = ChildError(traceback.format_exc(), False)
            connection.send(answer)
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        seat.close()


def _end_with_the_parent() -> None:
    """The kernel ends this process when the parent is gone, even inside an engine that never returns to Python.

    Standard input is a pipe that nobody writes to. When its other end closes, however the parent died, the kernel sends
    SIGIO, whose default is to terminate. A thread that waits for the same would wait for the interpreter, too.
    """
    fcntl.fcntl(sys.stdin, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sys.stdin, fcntl.F_SETFL, fcntl.fcntl(sys.stdin, fcntl.F_GETFL) | os.O_ASYNC)
