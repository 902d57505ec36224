"""More actors, more steps:  python -m benchmarks.scaling [rounds=5] [seconds=4] [actors=1,2,4,8] [milliseconds=1]
[key=value of train.py ...]

Training throughput by the number of actor processes, on an environment that burns one millisecond of processor time for each step of each
slot, and a small agent that costs far less. It should grow in step with the actors while there are cores for them, and be flat from there
on: actors without a core of their own cannot help, and must not hurt. Where cores abound, it ends where the learner saturates, and its
share of waiting has gone to nothing.

The cases take turns as in throughput.py. One line of JSON per number of actors: steps_per_second {median, min, max}; times_first, the
same over that of the first case in the same round; cores_used; time, with the learner's share of waiting; ceiling, the steps per second
at which all cores would do nothing but step environments.
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
                f"{number} actors", words, "benchmarks.busy_training", [f"milliseconds={milliseconds}"]
            )
            for number, words in cases.items()
        }
        turns = take_turns(
            {number: partial(program.turn, options.seconds) for number, program in started.items()}, options.rounds
        )
    first = [turn.steps_per_second for turn in turns[numbers[0]]]
    for number, readings in turns.items():
        yield {
            "case": f"{number} actors",
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
    """The program; see benchmarks/options.py for what it returns."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
