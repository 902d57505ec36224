"""The process of one slot: it plays the slot's environment as messages ask, and writes what it observes to shared memory.

It imports only what the environment needs, ends with its parent, and ignores Ctrl-C.
"""

from __future__ import annotations

import faulthandler
import fcntl
import mmap
import os
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NamedTuple

from envs.engines.base import Arrays
from envs.engines.gymnasium_engine import GymnasiumEngine, MakeEnv
from envs.shared_arrays import layout_size, map_arrays
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from system.descendants import own
from system.errors import ErrorReport

STACKS_SIGNAL = signal.SIGUSR1
"""Makes the process write the Python stacks of its threads, even inside an engine that never returns to Python, and end."""


class Attach(NamedTuple):
    """Use row `row` of these shared arrays; the descriptor of their memory follows."""

    arrays: dict[str, ArraySpec]
    row: int


class Build(NamedTuple):
    """Make the environment of a slot; see `envs.engines.gymnasium_engine.GymnasiumEngine`."""

    make: MakeEnv
    spec: EnvSpec
    slot: Slot
    split: Split


class Start(NamedTuple):
    """Begin the slot's first episode under the run seed `seed`, and write its observation to bank `bank`."""

    seed: int
    bank: int


class Step(NamedTuple):
    """Take the action in shared memory, or begin the next episode, of `task`, if the last one has ended. Write the observation to
    bank `bank`.

    Step and Start are answered with a list of Faults, or with None if there are no faults.
    """

    task: int
    bank: int


class Render(NamedTuple):
    """Answer with a picture."""


def shared_spec(spec: EnvSpec, slots: int) -> dict[str, ArraySpec]:
    """The arrays in shared memory: the observation [2, slots, ...], and `action`, `reward`, `terminated`, `truncated`, `success`,
    `interrupted` and `episode` [slots, ...].

    The observation has two banks. A process writes one while its slot still shows the other, so the last observation stays
    complete if the process dies.
    """
    seen = dict(spec.observation)
    if spec.instruction_length:
        seen["instruction"] = ArraySpec(shape=(spec.instruction_length,), dtype="int32")
    scalars = {"reward": "float32", "terminated": "bool", "truncated": "bool", "success": "float32"}
    scalars |= {"interrupted": "bool", "episode": "int64"}
    single = {"action": spec.action} | {key: ArraySpec(shape=(), dtype=dtype) for key, dtype in scalars.items()}
    banks = {key: ArraySpec(shape=(2, slots, *array.shape), dtype=array.dtype) for key, array in seen.items()}
    return banks | {key: ArraySpec(shape=(slots, *array.shape), dtype=array.dtype) for key, array in single.items()}


def map_descriptor(arrays: dict[str, ArraySpec], descriptor: int) -> Arrays:
    """The arrays in the memory of a file, whose descriptor may be closed afterwards."""
    return map_arrays(arrays, mmap.mmap(descriptor, layout_size(arrays)))


class _Child:
    """The state of this process: its row of the shared arrays, and an engine of one slot."""

    def __init__(self) -> None:
        self._arrays: Arrays = {}
        self._row = slice(0)
        self._engine: GymnasiumEngine | None = None
        self._written_in_place: tuple[str, ...] = ()

    def attach(self, message: Attach, descriptor: int) -> None:
        self._arrays = map_descriptor(message.arrays, descriptor)
        self._row = slice(message.row, message.row + 1)

    def answer(self, message: Any) -> Any:
        """The answer to any message but Attach."""
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
            # The engine never replaces its array of tokens.
            arrays["instruction"][message.bank, row] = seen["instruction"]
        return self._engine.take_faults() or None

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def main(descriptor: int, stacks: int) -> None:
    """Answers the messages of the connection `descriptor` until it ends.

    If the process dies of a crash or of STACKS_SIGNAL, the Python stacks of its threads are written to the file `stacks`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_the_parent()
    own()
    # Programs that the environment starts would keep the connection open.
    os.set_inheritable(descriptor, False)
    os.set_inheritable(stacks, False)
    faulthandler.enable(stacks)
    # `chain`: the signal's default action follows, which ends the process.
    faulthandler.register(STACKS_SIGNAL, stacks, chain=True)
    connection = Connection(descriptor)
    child = _Child()
    try:
        while True:
            try:
                message = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            except Exception as error:  # the message names a module that cannot be imported here
                connection.send(ErrorReport.of(error))
                continue
            answer: Any = None
            try:
                if isinstance(message, Attach):
                    with os.fdopen(recv_handle(connection), "rb") as memory:
                        child.attach(message, memory.fileno())
                else:
                    answer = child.answer(message)
            except Exception as error:
                answer = ErrorReport.of(error)
            connection.send(answer)
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        child.close()


def _end_with_the_parent() -> None:
    """Lets the kernel end this process with its parent, even inside an engine that never returns to Python.

    Standard input is a pipe to which no process writes. When the parent dies its other end closes, and the kernel sends SIGIO,
    whose default action ends the process. A thread that waits for the end of the pipe would need the interpreter's lock.
    """
    fcntl.fcntl(sys.stdin, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sys.stdin, fcntl.F_SETFL, fcntl.fcntl(sys.stdin, fcntl.F_GETFL) | os.O_ASYNC)
