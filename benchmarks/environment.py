"""Environments alone.

Usage:  python -m benchmarks.environment [rounds=5] [seconds=1] [cases=suites] [case="name: key=value ..."]
[slots=1,16,64,256] [key=value of train.py ...]

Measures agent steps per second of each case at each number of slots. It runs in one process, with random actions.
The time of resets is included; steps that only reset are not counted. The cases take turns; the first round is dropped.

A suite on envpool takes turns with envpool alone, which plays the same environments with the same actions: `fraction_of_engine` is the
suite's speed divided by envpool's, round by round.

Prints one line of JSON each: steps_per_second by wall-clock and steps_per_cpu_second by the processor time of all threads, and
microseconds per step, each {median, min, max}.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial

from agents.runtime.processes.process import configure_process
from benchmarks.batches import EnginePlay, RandomPlay
from benchmarks.cases import chosen, configurations
from benchmarks.options import Row, parse, report
from benchmarks.turns import cost, microseconds, spread, take_turns

_SUITE, _ENGINE = "suite", "engine"


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case and number of slots."""
    options = parse(arguments, rounds=5, seconds=1.0, own=("cases", "case", "slots"))
    slots = options.numbers("slots", (1, 16, 64, 256))
    configs = configurations(chosen(options, "suites"))
    configure_process(1)
    players: dict[tuple[str, int, str], RandomPlay | EnginePlay] = {}
    for name, (config, env) in configs.items():
        for count in slots:
            players[name, count, _SUITE] = RandomPlay(config, env, count)
            if env.engine == "envpool":
                players[name, count, _ENGINE] = EnginePlay(config, env, count)
    try:
        turns = {key: partial(cost, player.play, options.seconds) for key, player in players.items()}
        readings = take_turns(turns, options.rounds)
    finally:
        for player in players.values():
            player.close()
    for name, count in [(name, count) for name, count, part in readings if part == _SUITE]:
        config, env = configs[name]
        costs, alone = readings[name, count, _SUITE], readings.get((name, count, _ENGINE))
        fractions = [engine.wall / suite.wall for engine, suite in zip(alone, costs, strict=True)] if alone else []
        yield {
            "case": name,
            "slots": count,
            "steps_per_second": spread(1 / reading.wall for reading in costs),
            "steps_per_cpu_second": spread(1 / max(reading.cpu, 1e-12) for reading in costs),
            "microseconds": microseconds(reading.wall for reading in costs),
            **({"fraction_of_engine": spread(fractions)} if fractions else {}),
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
