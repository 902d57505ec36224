"""Update rate of several learners.

Usage:

    python -m benchmarks.learners [rounds=5] [seconds=5] [learners=1,2] [key=value of train.py ...]

Data-parallel learning without actors. Every learner is a process (learner_team.py). It learns from its part of a synthetic batch and has an
equal part of the cores. The cases take turns; the others wait. The default batch is large, because gradient sums cost more than they gain
with a small one.

Prints one line of JSON for each number of learners:

- updates_per_second and columns_per_second: {median, min, max}.
- times_first: Their ratio to the first case in the same round.
- reduce: The share of time in gradient sums, including waits for the slowest learner.
- threads: The threads of each learner.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from agents.distributed.process_group import shared_file
from agents.setup.machine import num_cores
from benchmarks.cases import configured, merged
from benchmarks.learner_team import threads
from benchmarks.options import BenchmarkError, Row, parse, report
from benchmarks.turns import ratios, spread, take_turns
from system.words import count

SETTINGS = [
    *("env=conditional", "env.tasks=[map-0,memory-1]", "fusion=film", "runtime=local", "precision=fp32"),
    *("runtime.slots_per_actor=128", "learner.batch_size=128", "learner.unroll_length=20"),
]


class Reading(NamedTuple):
    """`updates` is updates per second in a turn; `reduce` is the share of time in gradient sums."""

    updates: float
    reduce: float


class Team:
    """The processes of one case. This class controls the first one, which controls the others.

    Args:
        size: Number of learners.
        words: Arguments of train.py.
    """

    def __init__(self, size: int, words: Sequence[str]) -> None:
        descriptor = shared_file()
        program = [sys.executable, "-m", "benchmarks.learner_team", str(descriptor), str(size)]
        self._members = [
            subprocess.Popen(
                [*program, str(rank), *words],
                pass_fds=[descriptor],
                stdin=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
                stdout=subprocess.PIPE if rank == 0 else None,
                text=True,
            )
            for rank in range(size)
        ]

    def turn(self, seconds: float) -> Reading:
        """Makes updates for `seconds`."""
        first = self._members[0]
        assert first.stdin and first.stdout
        # The process may have ended; then readline() below returns nothing.
        with contextlib.suppress(BrokenPipeError):
            first.stdin.write(f"{seconds}\n")
            first.stdin.flush()
        if not (line := first.stdout.readline()):
            raise BenchmarkError(f"a learner of {len(self._members)} ended during its turn.")
        return Reading(**json.loads(line))

    def close(self) -> None:
        """Ends the processes: the first by the end of its input, which it passes on to the others."""
        first = self._members[0]
        assert first.stdin and first.stdout
        first.stdin.close()
        for member in self._members:
            try:
                member.wait(30)
            except subprocess.TimeoutExpired:
                member.kill()
                member.wait()
        first.stdout.close()


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per number of learners."""
    options = parse(arguments, rounds=5, seconds=5.0, own=("learners",))
    settings = merged(SETTINGS, options.overrides)
    cases = {number: [*settings, f"learner.num_processes={number}"] for number in options.numbers("learners", (1, 2))}
    configs = {number: configured(words)[0] for number, words in cases.items()}
    with contextlib.ExitStack() as stack:
        teams: dict[int, Team] = {}
        for number, words in cases.items():
            teams[number] = Team(number, words)
            stack.callback(teams[number].close)
        turns = take_turns(
            {number: partial(team.turn, options.seconds) for number, team in teams.items()}, options.rounds
        )
    first = [turn.updates for turn in next(iter(turns.values()))]
    for number, readings in turns.items():
        updates = [turn.updates for turn in readings]
        yield {
            "case": count(number, "learner"),
            "updates_per_second": spread(updates),
            "columns_per_second": spread(
                (configs[number].learner.batch_size or configs[number].runtime.slots_per_actor) * rate
                for rate in updates
            ),
            "times_first": ratios(updates, first),
            "reduce": spread(turn.reduce for turn in readings),
            "threads": threads(configs[number]),
            "cores": num_cores(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "arguments": cases[number],
        }


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
