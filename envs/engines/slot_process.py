"""The parent's end of a slot's process: starts it, talks to it, and knows how it ended."""

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

import psutil

from envs.engines.process_child import STACKS_SIGNAL
from envs.faults import signal_name
from system.descendants import end_orphans, own

GRACE_SECONDS = 3.0
"""Time that environments have to close; less than the learner gives an actor."""

_LONGEST = 2**31 - 1
"""Milliseconds that poll(2) can count."""

_STACKS_SECONDS = 1.0
"""Time that a process has to write where it hangs."""

# Started like this and not by multiprocessing, whose children import the program's main module, and with it torch, and may
# have no children of their own where they are daemons, as actors are.
_MAIN = (
    "import sys; _, connection, stacks, *sys.path = sys.argv; del sys.argv[1:]; "
    "from envs.engines.process_child import main; main(int(connection), int(stacks))"
)


class SlotProcess:
    """A process that runs `envs.engines.process_child.main`, and the connection to it.

    Attributes:
        connection: carries the messages of `envs.engines.process_child` and their answers.
    """

    def __init__(self) -> None:
        self._leaves_until = math.inf
        # Without a name, and still there when the process is gone.
        self._stacks = os.fdopen(os.memfd_create("stacks"), "rb")
        self.connection, theirs = multiprocessing.Pipe()
        self._answers = select.poll()
        self._answers.register(self.connection, select.POLLIN)
        # Before it is there, or it would be nobody's.
        own()
        with theirs:
            handles = (theirs.fileno(), self._stacks.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, *map(str, handles), *map(os.path.abspath, sys.path)],
                # The end of it ends the process; see `_end_with_the_parent`.
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=handles,
                # The terminal's Ctrl-C goes to the program's own group; the process could not ignore it from the first moment on.
                start_new_session=True,
            )

    def send_memory(self, descriptor: int) -> None:
        """The handle that follows Attach."""
        send_handle(self.connection, descriptor, self._process.pid)

    def has_answered(self, until: float) -> bool:
        """Waits until `until` (time.monotonic) for something to read: an answer, or the connection's end."""
        milliseconds = max(0.0, 1000 * (until - time.monotonic()))
        return bool(self._answers.poll(None if milliseconds == math.inf else math.ceil(min(milliseconds, _LONGEST))))

    def memory(self) -> int:
        """Bytes of resident memory, those of the processes that it has started included; 0 when it is gone."""
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += one.memory_info().rss
        return total

    def stop(self) -> None:
        """Ends a process that does not answer, at once but for writing its stacks."""
        self._process.send_signal(STACKS_SIGNAL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STACKS_SECONDS)
        # Also one that is stopped, to which no other signal gets through.
        self._process.kill()
        self._process.wait()
        end_orphans()

    def ending(self) -> tuple[str, str]:
        """How a process ended whose connection is at its end: a cause of envs.faults, and in words."""
        try:
            code = self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            # It might still write where another will. Of one that is writing its memory to the disk, this is not how it ended.
            self._process.kill()
            if (code := self._process.wait()) == -signal.SIGKILL:
                return "exited", "it closed its connection"
        finally:
            end_orphans()
        return ("killed", f"killed by {signal_name(-code)}") if code < 0 else ("exited", f"exit code {code}")

    def stacks(self) -> str:
        """Where in Python the threads of a process were that died of a signal; empty where it had no time to say so."""
        self._stacks.seek(0)
        return self._stacks.read().decode(errors="replace")

    def hang_up(self) -> None:
        """Ends the connection, whereupon the process closes its environment and ends. It has GRACE_SECONDS for that."""
        self._leaves_until = time.monotonic() + GRACE_SECONDS
        self.connection.close()

    def has_left(self) -> bool:
        """Whether a process that was hung up on is gone; ends it when its time is over."""
        if self._process.poll() is None and time.monotonic() < self._leaves_until:
            return False
        self.end()
        end_orphans()
        return True

    def end(self) -> None:
        """Waits for a process that was hung up on, and ends it when its time is over."""
        try:
            self._process.wait(max(0.0, self._leaves_until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin
        self._process.stdin.close()
        self._stacks.close()
