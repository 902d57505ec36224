"""What can go wrong with an environment or an actor while a run goes on, as data: mended, counted and told, never fatal by itself."""

from __future__ import annotations

import signal
from typing import NamedTuple

NONFINITE = "nonfinite"
CAUSES = ("raised", "exited", "killed", "hung", "lost", "memory", "recycled", NONFINITE)
"""raised: an exception. exited: the process ended by itself. killed: by a signal. hung: no sign of life for runtime.hang_seconds.
lost: the node of a cluster that it ran on is gone, or Ray's process there.
memory: more than runtime.memory_limit. recycled: renewed after runtime.recycle_episodes, as asked for.
nonfinite: an environment gave an observation or a reward that is NaN or infinite. Its episode is broken off; nothing is started again.
"""

ASKED_FOR = ("memory", "recycled")
"""Causes that are no failures, and lose nothing."""


class NotFiniteError(ArithmeticError):
    """Raised by the `reset` or `step` of an environment of `envs.engines.gymnasium_engine.MakeEnv` whose observation is not finite and
    has no
    place for that, as a picture of uint8. The message says what is not finite, and the episode is broken off.
    """


class Fault(NamedTuple):
    """One environment or actor that was renewed, or whose episode was broken off, and why.

    Attributes:
        task: its name; of an actor that plays several and died without telling which, all of them with commas between.
        cause: one of CAUSES.
        detail: the traceback, or a sentence.
    """

    task: str
    cause: str
    detail: str


def signal_name(number: int) -> str:
    """As `SIGKILL`; also of real-time signals, most of which `signal.Signals` does not know."""
    try:
        return signal.Signals(number).name
    except ValueError:
        offset = number - signal.SIGRTMIN
        return f"SIGRTMIN+{offset}" if 0 < offset <= signal.SIGRTMAX - signal.SIGRTMIN else f"signal {number}"
