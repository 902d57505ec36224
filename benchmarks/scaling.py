"""Throughput by the number of actors.

Usage:
    python -m benchmarks.scaling [rounds=5] [seconds=4] [actors=1,2,4,8] [milliseconds=1] [key=value of train.py ...]

The environment uses one millisecond of processor time for each step of each slot. The agent is small and costs far less. Throughput should
grow with the actors while each has a core, and then stay constant: more actors cannot help and must not harm. With many cores the learner
becomes the limit, and its share of waiting is zero.

The cases take turns as in throughput.py. Prints one line of JSON for each number of actors:

    - steps_per_second: {median, min, max}.
    - times_first: Its ratio to the first case in the same round.
    - cores_used.
    - time: With the learner's share of waiting.
    - ceiling: The steps per second if all cores did nothing but step environments.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial

from agents.setup.machine import num_cores
from benchmarks.cases import configured, merged
from benchmarks.options import Row, parse, report
from benchmarks.programs import Programs
from benchmarks.throughput import layout, speeds
from benchmarks.turns import ratios, take_turns
from system.words import count

# An unroll of 16 slots is one update and takes 64 ms of an actor, so that a turn holds many of them.
SETTINGS = [
    *("env=conditional", "env.tasks=[map-0]", "fusion=concat", "runtime=local", "runtime.learner_threads=1"),
    *("runtime.slots_per_actor=16", "runtime.actor_threads=1", "learner.unroll_length=4", "learner.batch_size=16"),
]


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per number of actors."""
    options = parse(arguments, rounds=5, seconds=4.0, own=("actors", "milliseconds"))
    numbers = options.numbers("actors", (1, 2, 4, 8))
    milliseconds = options.numbers("milliseconds", (1,))[0]
    settings = merged(SETTINGS, options.overrides)
    cases = {number: [*settings, f"runtime.num_actors={number}"] for number in numbers}
    configs = {number: configured(words) for number, words in cases.items()}
    cores = num_cores()
    with Programs() as programs:
        started = {
            number: programs.training(
                count(number, "actor"), words, "benchmarks.busy_training", [f"milliseconds={milliseconds}"]
            )
            for number, words in cases.items()
        }
        turns = take_turns(
            {number: partial(program.turn, options.seconds) for number, program in started.items()}, options.rounds
        )
    first = [turn.steps_per_second for turn in turns[numbers[0]]]
    for number, readings in turns.items():
        yield {
            "case": count(number, "actor"),
            **speeds(readings),
            "times_first": ratios([turn.steps_per_second for turn in readings], first),
            **layout(*configs[number]),
            "cores": cores,
            "ceiling": round(cores * 1000 / milliseconds),
            "rounds": options.rounds,
            "seconds": options.seconds,
            "arguments": cases[number],
        }


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
