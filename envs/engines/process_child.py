"""The process of one slot: it plays the slot's environment as messages ask, and writes what it observes to shared memory.

It imports only what the environment needs, ends with its parent, and ignores Ctrl-C.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import mmap
import os
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

import numpy as np
from numpy.typing import NDArray

from envs.engines.base import Arrays
from envs.engines.gymnasium_engine import GymnasiumEngine, MakeEnv
from envs.faults import Fault
from envs.shared_arrays import layout_size, map_arrays
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from system.descendants import own
from system.errors import ErrorReport

STACKS_SIGNAL = signal.SIGUSR1
"""Makes the process write the Python stacks of its threads, even inside an engine that never returns to Python, and end."""


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
    """The state of this process: its row of the shared arrays, and an engine of one slot. The parent calls the public methods."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._arrays: Arrays = {}
        self._row = slice(0)
        self._engine: GymnasiumEngine | None = None

    def attach(self, arrays: dict[str, ArraySpec], row: int) -> None:
        """Uses row `row` of these shared arrays; the descriptor of their memory follows in the connection."""
        with os.fdopen(recv_handle(self._connection), "rb") as memory:
            self._arrays = map_descriptor(arrays, memory.fileno())
        self._row = slice(row, row + 1)

    def build(self, make: MakeEnv, spec: EnvSpec, slot: Slot, split: Split) -> None:
        """Makes the environment of a slot; see `envs.engines.gymnasium_engine.GymnasiumEngine`."""
        self.close()
        self._engine = GymnasiumEngine(make, spec, (slot,), split)

    def start(self, seed: int, bank: int) -> list[Fault]:
        """Begins the slot's first episode under the run seed `seed`, and writes its observation to bank `bank`. Returns the faults."""
        engine = self._write_to(bank)
        engine.start(seed)
        return self._finish(engine, bank)

    def step(self, task: int, bank: int) -> list[Fault]:
        """Takes the action in shared memory, or begins the next episode, of `task`, if the last one has ended. Otherwise like `start`."""
        engine, arrays, row = self._write_to(bank), self._arrays, self._row
        engine.assign(0, task)
        arrays["reward"][row], arrays["terminated"][row], arrays["truncated"][row] = engine.step(arrays["action"][row])
        arrays["success"][row] = engine.success
        return self._finish(engine, bank)

    def render(self) -> NDArray[np.uint8]:
        assert self._engine is not None
        return self._engine.render(0)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _write_to(self, bank: int) -> GymnasiumEngine:
        """The engine, which now writes its observation to the bank."""
        assert self._engine is not None
        seen = self._engine.observation
        seen.update({key: self._arrays[key][bank, self._row] for key in seen if key != "instruction"})
        return self._engine

    def _finish(self, engine: GymnasiumEngine, bank: int) -> list[Fault]:
        arrays, row = self._arrays, self._row
        arrays["interrupted"][row], arrays["episode"][row] = engine.interrupted, engine.episode
        if "instruction" in engine.observation:
            # The engine never replaces its array of tokens.
            arrays["instruction"][bank, row] = engine.observation["instruction"]
        return engine.take_faults()


def main(descriptor: int, stacks: int) -> None:
    """Answers the messages of the connection `descriptor` until it ends. A message is the name of a method and its arguments.

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
    child = _Child(connection)
    with contextlib.closing(child), contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            try:
                method, arguments = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            except Exception as error:  # the message names a module that cannot be imported here
                connection.send(ErrorReport.of(error))
                continue
            try:
                answer = getattr(child, method)(*arguments)
            except Exception as error:
                answer = ErrorReport.of(error)
            connection.send(answer)


def _end_with_the_parent() -> None:
    """Lets the kernel end this process with its parent, even inside an engine that never returns to Python.

    Standard input is a pipe to which no process writes. When the parent dies its other end closes, and the kernel sends SIGIO,
    whose default action ends the process. A thread that waits for the end of the pipe would need the interpreter's lock.
    """
    fcntl.fcntl(sys.stdin, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sys.stdin, fcntl.F_SETFL, fcntl.fcntl(sys.stdin, fcntl.F_GETFL) | os.O_ASYNC)
