"""How every program ends: the exit codes, and what a user is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agents.cli.signals import INTERRUPTED
from agents.cli.terminal import TextConsole, warn
from system.errors import InputError

DONE, FAILED, BAD_INPUT = 0, 1, 2


def exit_code(work: Callable[[], int], *, failures: tuple[type[Exception], ...] = (), interrupted: str = "") -> int:
    """What `work` returns. A user's mistake, one of `failures` and a KeyboardInterrupt are told on stderr and become an exit code;
    everything else is a defect of the program and keeps its traceback.

    Args:
        failures: exceptions that say what went wrong and, in their notes, what comes of it.
        interrupted: said after a KeyboardInterrupt, unless it is empty.
    """
    try:
        return work()
    except InputError as error:
        warn(f"error: {error}")
        return BAD_INPUT
    except failures as error:
        warn(f"error: {error}", *getattr(error, "__notes__", ()))
        return FAILED
    except KeyboardInterrupt:
        if interrupted:
            warn(interrupted)
        return INTERRUPTED


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the help is wanted, whatever else is given."""
    return bool({"--help", "-h"} & set(arguments))


def overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments that are `key=value`."""
    return [argument for argument in arguments if not argument.startswith("-")]


def show_help(about: str | None, keys: Mapping[str, object]) -> int:
    """Prints what the program is for and every key with its value."""
    TextConsole().say("\n".join([about or "", *(f"  {key}={value}" for key, value in keys.items())]))
    return DONE
