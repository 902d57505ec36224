"""Any gymnasium environment as an engine, each slot's in a process of its own; all slots step at the same time.

For engines that allow one instance per process, that keep the interpreter to themselves while they work, that crash, or whose
resets take long: other slots need not wait for them.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.reduction import send_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import InputError
from envs.gymnasium_engine import MakeEnv
from envs.process_child import Attach, Build, Failure, Render, Start, Step, map_arrays, shared_size, shared_spec
from envs.spec import EnvSpec, Slot, Split
from envs.vector import Arrays, Outcome

_GRACE_SECONDS = 3.0
"""Time that environments have to close; less than the learner gives an actor."""

# Started like this and not by multiprocessing, whose children import the program's main module, and with it torch, and may
# have no children of their own where they are daemons, as actors are.
_MAIN = "import sys; _, number, *sys.path = sys.argv; del sys.argv[1:]; from envs.process_child import main; main(int(number))"


class SlotError(RuntimeError):
    """A slot's environment raised, or its process ended; the message names task and slot."""


class ProcessEngine:
    """S gymnasium environments in S processes (see `envs.vector.Engine`), with the seeds and the results of GymnasiumEngine.

    A slot whose reset takes long need not hold up the others: `step` goes on without it once its reset has lasted for
    `patience`. Until the reset is done, the slot shows its last observation again, with reward 0. With infinite patience
    there is no such step, and what is played depends on the seeds alone. A step returns only when some slot has made one
    or has come to the end of its reset.

    After an error only `close` may be called. The processes ignore Ctrl-C, end with this one however it ends, and print to
    standard error.

    Args:
        make: see GymnasiumEngine; can be pickled. What it needs is imported in the processes.
        spec, slots, split: see `envs.suites.make_env`.

    Attributes:
        patience, resetting: see `envs.vector.SlowResetEngine`.

    Raises:
        InputError: `make` raised it.
        SlotError: an environment raised something else, or a process ended.
    """

    def __init__(self, make: MakeEnv, spec: EnvSpec, slots: Sequence[Slot], split: Split) -> None:
        self.patience = math.inf
        self._make, self._spec, self._split = make, spec, split
        self._slots = tuple(slots)
        size = len(self._slots)
        self.resetting = np.zeros(size, np.bool_)
        self._deadline = np.zeros(size)
        self._tasks = [slot.task for slot in self._slots]
        self._arrays = shared_spec(spec, size)
        # Without a name, so that there is nothing to remove however the processes end.
        self._memory = os.fdopen(os.memfd_create("slots"), "w+b")
        self._memory.truncate(shared_size(self._arrays))
        self._shared = map_arrays(self._arrays, self._memory.fileno())
        seen = [*spec.observation, *(["instruction"] if spec.instruction_length else [])]
        self.observation: Arrays = {key: self._shared[key].copy() for key in seen}
        # What a slot showed last, once its reset has begun.
        self._last: Arrays = {key: self._shared[key].copy() for key in seen}
        self._reward = np.zeros(size, np.float32)
        self._terminated = np.zeros(size, np.bool_)
        self._truncated = np.zeros(size, np.bool_)
        self._processes: list[SlotProcess] = []
        try:
            # All at once: each takes a second to import what it needs.
            for _ in self._slots:
                self._processes.append(SlotProcess())
            for row in range(size):
                self._build(row)
            for row in 2 * list(range(size)):
                self._answer(row)
        except BaseException:
            self.close()
            raise

    def _build(self, row: int) -> None:
        """Tells a new process what it is for; there will be two answers."""
        self._ask(row, Attach(self._arrays, row))
        self._ask(row, Build(self._make, self._spec, self._slots[row], self._split))

    def start(self, seed: int) -> None:
        for row in np.flatnonzero(self.resetting).tolist():
            self._answer(row)
        self.resetting[:] = False
        self._tasks = [slot.task for slot in self._slots]
        self._reward[:], self._terminated[:], self._truncated[:] = 0, False, False
        for row in range(len(self._slots)):
            self._ask(row, Start(seed))
        for row in range(len(self._slots)):
            self._answer(row)
        self._observe()

    def assign(self, slot: int, task: int) -> None:
        """From its next episode on, this slot plays that task (id); until `start`."""
        self._tasks[slot] = task

    def step(self, actions: NDArray[Any]) -> Outcome:
        ended = self._terminated | self._truncated
        playing = ~(ended | self.resetting)
        for key, last in self._last.items():
            last[ended] = self._shared[key][ended]
        self._shared["action"][:] = actions
        for row in np.flatnonzero(playing | ended).tolist():
            self._ask(row, Step(self._tasks[row]))
        self._deadline[ended] = time.monotonic() + self.patience
        self.resetting |= ended
        for row in np.flatnonzero(playing).tolist():
            self._answer(row)
        self._wait_for_resets(nothing_yet=not playing.any())
        for key, array in (("reward", self._reward), ("terminated", self._terminated), ("truncated", self._truncated)):
            array[:] = np.where(playing, self._shared[key], 0)
        self._observe()
        return self._reward, self._terminated, self._truncated

    def _wait_for_resets(self, *, nothing_yet: bool) -> None:
        """Until every reset is done or past its deadline, and one at least is done if there is `nothing_yet` to return."""
        while self.resetting.any():
            rows = {self._processes[row].connection: row for row in np.flatnonzero(self.resetting).tolist()}
            latest = self._deadline[self.resetting].max()
            forever = nothing_yet or latest == math.inf
            ready = wait(list(rows), None if forever else max(0.0, latest - time.monotonic()))
            if not ready:
                return
            nothing_yet = False
            for connection in ready:
                row = rows[connection]  # type: ignore[index]
                self._answer(row)
                self.resetting[row] = False

    def _observe(self) -> None:
        for key, array in self.observation.items():
            array[:] = self._shared[key]
            if self.resetting.any():
                # A reset may write at any moment.
                array[self.resetting] = self._last[key][self.resetting]

    def _ask(self, row: int, message: Any) -> None:
        try:
            self._processes[row].connection.send(message)
            if isinstance(message, Attach):
                self._processes[row].send_memory(self._memory.fileno())
        except (BrokenPipeError, ConnectionResetError):
            raise self._lost(row) from None

    def _answer(self, row: int) -> Any:
        try:
            answer = self._processes[row].connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._lost(row) from None
        if isinstance(answer, Failure):
            if answer.is_input_error:
                raise InputError(answer.text)
            raise SlotError(f"{self._place(row)} failed:\n{answer.text}")
        return answer

    def _lost(self, row: int) -> SlotError:
        """What is known of a slot whose process is gone; every loss is noticed here."""
        return SlotError(f"{self._place(row)} ended without a word ({self._processes[row].ending()}).")

    def _place(self, row: int) -> str:
        return f"the process of slot {row} (task {self._spec.tasks[self._tasks[row]]})"

    def render(self, slot: int) -> NDArray[np.uint8]:
        if self.resetting[slot]:
            raise RuntimeError("a slot that is resetting has no picture")
        self._ask(slot, Render())
        picture: NDArray[np.uint8] = self._answer(slot)
        return picture

    def state_dict(self) -> dict[str, Any] | None:
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError("gymnasium's environments cannot be frozen; resume with Slot.episode")

    def close(self) -> None:
        processes, self._processes = self._processes, []
        for process in processes:
            process.hang_up()
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            process.end(deadline)
        self._memory.close()


class SlotProcess:
    """A process that runs `envs.process_child.main`, and the connection to it.

    Attributes:
        connection: carries the messages of `envs.process_child` and their answers.
    """

    def __init__(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), *map(os.path.abspath, sys.path)],
                # The end of it ends the process; see `_end_with_the_parent`.
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=[theirs.fileno()],
                # The terminal's Ctrl-C goes to the program's own group; the process could not ignore it from the first moment on.
                start_new_session=True,
            )

    def send_memory(self, descriptor: int) -> None:
        """The handle that follows Attach."""
        send_handle(self.connection, descriptor, self._process.pid)

    def hang_up(self) -> None:
        """Ends the connection, whereupon the process closes its environment and ends."""
        self.connection.close()

    def end(self, deadline: float) -> None:
        """Waits until `deadline` (time.monotonic) for the process to end, and then ends it."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin
        self._process.stdin.close()

    def ending(self) -> str:
        """How a process ended whose connection is at its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_SECONDS)
        code = self._process.returncode
        if code is None:
            return "it is still running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
