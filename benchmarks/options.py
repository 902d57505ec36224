"""The command line that all benchmarks share:  python -m benchmarks.<name> [rounds=N] [seconds=S] [own keys] [key=value of train.py ...]"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agents.cli.exit_codes import DONE, FAILED, asks_for_help, exit_code, print_text
from system.errors import InputError

Row = dict[str, Any]
"""One line of output."""


class BenchmarkError(RuntimeError):
    """A measured program ended early or made no progress; the message ends with its last line of output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """A parsed command line.

    Attributes:
        rounds: Measured turns of every case; one warm-up turn precedes them.
        seconds: Length of one turn.
        own: Key of this benchmark -> its values in the order given; keys that were not given are absent.
        overrides: All other arguments, for train.py's configuration.
    """

    rounds: int
    seconds: float
    own: dict[str, list[str]]
    overrides: list[str]

    def words(self, key: str, default: Sequence[str]) -> list[str]:
        """The words of `key=a,b` or `key=[a,b]`."""
        if key not in self.own:
            return list(default)
        return [word for value in self.own[key] for word in value.strip("[]").split(",") if word]

    def numbers(self, key: str, default: Sequence[int]) -> list[int]:
        """The whole numbers of `key=1,2` or `key=[1,2]`; InputError unless all of them are 1 or more."""
        words = self.words(key, [str(number) for number in default])
        if not words or not all(word.isdecimal() and int(word) >= 1 for word in words):
            raise InputError(
                f"{key}={','.join(words)} is no list of whole numbers: give {key}={','.join(map(str, default))}."
            )
        return [int(word) for word in words]

    def number(self, key: str, default: float) -> float:
        """The number of `key=1.5`, the last one if the key was given twice; InputError unless it is above 0."""
        return _positive(key, self.own.get(key, [str(default)])[-1])


def parse(arguments: Sequence[str], *, rounds: int, seconds: float, own: Sequence[str] = ()) -> Options:
    """Splits a command line into the benchmark's keys and train.py's.

    Args:
        arguments: Words of the form key=value.
        rounds, seconds: Their defaults.
        own: Further keys of the benchmark.

    Raises:
        InputError: An argument that is not key=value, or a number out of range.
    """
    given, overrides = split(arguments, ("rounds", "seconds", *own))
    text = given.pop("rounds", [str(rounds)])[-1]
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"rounds={text} is out of range: give a whole number of at least 1.")
    return Options(
        rounds=int(text),
        seconds=_positive("seconds", given.pop("seconds", [str(seconds)])[-1]),
        own=given,
        overrides=overrides,
    )


def split(arguments: Sequence[str], own: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of each given key of `own`, in order, and all other arguments; InputError unless all are key=value."""
    given: dict[str, list[str]] = {}
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise InputError(f"{argument} cannot be read: write key=value.")
        if key in own:
            given.setdefault(key, []).append(value)
        else:
            overrides.append(argument)
    return given, overrides


def report(measure: Callable[[list[str]], Iterator[Row]], arguments: Sequence[str], description: str | None) -> int:
    """Prints each row as one JSON object per line, as soon as it is measured.

    Returns:
        0 done, 1 a measured program failed or a row has `ok` false, 2 bad input, 130 interrupted.
    """
    if asks_for_help(arguments):
        return print_text(description or "")
    # SIGTERM must run the `finally` clauses that end the measured programs.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell starts background jobs with SIGINT ignored, which the trainings would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def show_rows() -> int:
        held = True
        for row in measure(list(arguments)):
            print(json.dumps(row), flush=True)
            held = held and row.get("ok", True)
        return DONE if held else FAILED

    return exit_code(show_rows, failures=(BenchmarkError,))


def _positive(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"{key}={text} is out of range: give a number above 0.")
    return value
