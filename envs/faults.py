"""Failures of environments and actors that a run survives, as data."""

from __future__ import annotations

import signal
from typing import NamedTuple

from system.errors import InputError

NONFINITE = "nonfinite"
CAUSES = ("raised", "exited", "killed", "hung", "lost", "memory", "recycled", NONFINITE)
"""
- raised: An exception.
- exited: The process ended by itself.
- killed: The process died of a signal.
- hung: No sign of life for runtime.hang_seconds.
- lost: The cluster node that it ran on is gone, or Ray's process there.
- memory: It held more than runtime.memory_limit.
- recycled: It was restarted after runtime.recycle_episodes, as configured.
- nonfinite: An observation or a reward was NaN or infinite. The episode was broken off; nothing was restarted.
"""

ASKED_FOR = ("memory", "recycled")
"""Causes that are no failures, and lose nothing."""


class NotFiniteError(ArithmeticError):
    """Raised by `reset` or `step` of an environment if an observation is not finite and its array cannot hold NaN, as a picture of
    uint8. GymnasiumEngine then breaks the episode off. The message names what is not finite.
    """


class NoContextError(InputError):
    """A task shows no context of the group that was to be played, seen or unseen (envs/holdout.py)."""


class Fault(NamedTuple):
    """One restart of an environment or actor, or one episode that was broken off.

    Attributes:
        task: Its name; all names, separated by commas, if an actor of several tasks died without reporting which one it played.
        cause: One of CAUSES.
        detail: The traceback, or a sentence.
    """

    task: str
    cause: str
    detail: str


def signal_name(number: int) -> str:
    """As `SIGKILL`; also names real-time signals, most of which `signal.Signals` lacks."""
    try:
        return signal.Signals(number).name
    except ValueError:
        offset = number - signal.SIGRTMIN
        return f"SIGRTMIN+{offset}" if 0 < offset <= signal.SIGRTMAX - signal.SIGRTMIN else f"signal {number}"
