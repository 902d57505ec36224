"""Environments alone.

Usage:  python -m benchmarks.environment [rounds=5] [seconds=1] [cases=suites] [case="name: key=value ..."]
[slots=1,16,64,256] [key=value of train.py ...]

Measures agent steps per second of each case at each number of slots. It runs in one process, with random actions.
The time of resets is included; steps that only reset are not counted. The cases take turns; the first round is dropped.

Prints one line of JSON each: steps_per_second by wall-clock and steps_per_cpu_second by the processor time of all threads, and
microseconds per step, each {median, min, max}.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial

from agents.runtime.processes.process import configure_process
from benchmarks.batches import RandomPlay
from benchmarks.cases import chosen, configurations
from benchmarks.options import Row, parse, report
from benchmarks.turns import cost, microseconds, spread, take_turns


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case and number of slots."""
    options = parse(arguments, rounds=5, seconds=1.0, own=("cases", "case", "slots"))
    slots = options.numbers("slots", (1, 16, 64, 256))
    configs = configurations(chosen(options, "suites"))
    configure_process(1)
    players = {(name, count): RandomPlay(*configs[name], count) for name in configs for count in slots}
    try:
        turns = {key: partial(cost, player.play, options.seconds) for key, player in players.items()}
        readings = take_turns(turns, options.rounds)
    finally:
        for player in players.values():
            player.close()
    for (name, count), costs in readings.items():
        config, env = configs[name]
        yield {
            "case": name,
            "slots": count,
            "steps_per_second": spread(1 / reading.wall for reading in costs),
            "steps_per_cpu_second": spread(1 / max(reading.cpu, 1e-12) for reading in costs),
            "microseconds": microseconds(reading.wall for reading in costs),
            "tasks": len(env.tasks),
            "engine": env.engine,
            "threads": getattr(config.env, "threads", 1),
            "rounds": options.rounds,
            "seconds": options.seconds,
        }


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
