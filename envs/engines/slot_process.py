"""The parent's end of a slot's process: starts it, talks to it, and reports how it ended."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from multiprocessing.reduction import send_handle
from typing import Any

from envs.engines.process_child import STACKS_SIGNAL
from envs.faults import signal_name
from envs.spec import Slot
from system.descendants import end_orphans, own
from system.errors import ErrorReport, InputError
from system.memory import resident_memory
from system.python_paths import ROOT

GRACE_SECONDS = 3.0
"""Time that environments have to close; less than the learner gives an actor."""

_LONGEST = 2**31 - 1
"""The largest timeout of poll(2), in milliseconds."""

_STACKS_SECONDS = 1.0
"""Time that a process has to write its stacks."""

# Not started by multiprocessing: its children import the program's main module, and with it torch, and daemons such as actors may not have
# children.
_MAIN = (
    "import sys; _, connection, stacks, *sys.path = sys.argv; del sys.argv[1:]; "
    "from envs.engines.process_child import main; main(int(connection), int(stacks))"
)


class SlotError(RuntimeError):
    """A slot's environment raised, or its process ended or does not answer; `cause` is one of envs.faults.CAUSES."""

    def __init__(self, message: str, task: str, cause: str) -> None:
        super().__init__(message)
        self.task, self.cause = task, cause


class SlotProcess:
    """A process that runs `envs.engines.process_child.main`, and the connection to it.

    Attributes:
        connection: Carries the messages of `envs.engines.process_child` and their answers.
        owed: Number of answers that the process owes.
        asked: Time of the last message to it (time.monotonic).
        built: The slot of its environment; None before it has one.
        episodes: Number of episodes that it started.
    """

    def __init__(self) -> None:
        self.owed, self.asked, self.episodes = 0, 0.0, 0
        self.built: Slot | None = None
        self._killed_at = math.inf
        # An anonymous file: it needs no removal, and can be read after the process has died.
        self._stacks = os.fdopen(os.memfd_create("stacks"), "rb")
        self.connection, theirs = multiprocessing.Pipe()
        self._answers = select.poll()
        self._answers.register(self.connection, select.POLLIN)
        # Before the process starts, because it inherits the owner.
        own()
        with theirs:
            handles = (theirs.fileno(), self._stacks.fileno())
            self._process = subprocess.Popen(
                # ROOT first: a caller's script folder may have a package `envs`, too.
                [sys.executable, "-c", _MAIN, *map(str, handles), str(ROOT), *map(os.path.abspath, sys.path)],
                # The process ends when this pipe closes; see `process_child._end_with_the_parent`.
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=handles,
                # Ctrl-C in the terminal signals the program's process group, and the process could not ignore it while it starts.
                start_new_session=True,
            )

    def ask(self, method: str, *arguments: Any, descriptor: int | None = None) -> None:
        """Asks for a call of a method of `process_child._Child`, and sends the descriptor that follows `attach`.

        A dead process is noticed when its answer is read.
        """
        self.owed += 1
        self.asked = time.monotonic()
        with contextlib.suppress(OSError):
            self.connection.send((method, arguments))
            if descriptor is not None:
                send_handle(self.connection, descriptor, self._process.pid)

    def answer(self, slot: int, task: str, hang_seconds: float) -> Any:
        """Waits for the next answer, until `hang_seconds` after the last message. Raises an InputError of the process.

        SlotError if the environment raised something else, or the process does not answer or has ended. Then it is dead, and so are the
        programs that it started.
        """
        name = f"the process of slot {slot} (task {task})"
        lost = ""
        if not self.has_answered(self.asked + hang_seconds):
            self._stop()
            cause, lost = "hung", f"gave no answer for {hang_seconds:g} s."
        else:
            try:
                answer = self.connection.recv()
            except (EOFError, OSError):
                cause, how = self._ending()
                lost = f"ended unexpectedly ({how})."
        if lost:
            end_orphans()
            # The Python stacks of a process that died of a signal; nothing if it had no time to write them.
            self._stacks.seek(0)
            raise SlotError(f"{name} {lost}\n{self._stacks.read().decode(errors='replace')}".rstrip(), task, cause)
        self.owed -= 1
        if isinstance(answer, ErrorReport):
            if answer.is_input_error:
                raise InputError(answer.text)
            raise SlotError(f"{name} failed:\n{answer.text}", task, "raised")
        return answer

    def has_answered(self, until: float) -> bool:
        """Waits until `until` (time.monotonic); True if there is an answer to read, or the end of the connection."""
        milliseconds = max(0.0, 1000 * (until - time.monotonic()))
        return bool(self._answers.poll(None if milliseconds == math.inf else math.ceil(min(milliseconds, _LONGEST))))

    def memory(self) -> float:
        """MiB of resident memory, its descendants included; 0 after its end."""
        return resident_memory([self._process.pid]).get(self._process.pid, 0.0)

    def _stop(self) -> None:
        """Lets a process that does not answer write its stacks, then kills it."""
        self._process.send_signal(STACKS_SIGNAL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STACKS_SECONDS)
        # SIGKILL also ends a stopped process, which receives no other signal.
        self._process.kill()
        self._process.wait()

    def _ending(self) -> tuple[str, str]:
        """Waits for the end of a process whose connection has ended. Returns its cause (envs.faults.CAUSES) and a description."""
        try:
            code = self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            # It could still write to the row of its successor. A process that dumps core at this moment keeps its own exit code.
            self._process.kill()
            if (code := self._process.wait()) == -signal.SIGKILL:
                return "exited", "it closed its connection"
        return ("killed", f"killed by {signal_name(-code)}") if code < 0 else ("exited", f"exit code {code}")

    def hang_up(self) -> None:
        """Closes the connection, so that the process closes its environment and ends. It has GRACE_SECONDS for that."""
        self._killed_at = time.monotonic() + GRACE_SECONDS
        self.connection.close()

    def has_left(self) -> bool:
        """Whether the process has ended after `hang_up`. Kills it after GRACE_SECONDS."""
        if self._process.poll() is None and time.monotonic() < self._killed_at:
            return False
        self.end()
        return True

    def end(self) -> None:
        """Waits for the end of the process after `hang_up`, and kills it after GRACE_SECONDS."""
        try:
            self._process.wait(max(0.0, self._killed_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin
        self._process.stdin.close()
        self._stacks.close()
