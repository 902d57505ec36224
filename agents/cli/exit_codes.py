"""Exit codes, error messages and help of all programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents.cli.signals import INTERRUPTED
from agents.cli.terminal import TextConsole, warn
from system.errors import InputError

DONE, FAILED, BAD_INPUT = 0, 1, 2


def exit_code(work: Callable[[], int], *, failures: tuple[type[Exception], ...] = (), interrupted: str = "") -> int:
    """Returns what `work` returns. An InputError, one of `failures` and a KeyboardInterrupt are printed on stderr and become an exit code;
    any other exception is a bug and propagates.

    Args:
        failures: Exceptions whose message is the error and whose notes are the advice.
        interrupted: Message after a KeyboardInterrupt; "" for none.
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
    """Whether --help or -h is among the arguments."""
    return bool({"--help", "-h"} & set(arguments))


def print_text(text: str) -> int:
    """Prints what the command line asks for, such as its help. Returns DONE."""
    TextConsole().verbatim(text)
    return DONE
