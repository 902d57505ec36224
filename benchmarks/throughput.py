"""Training steps per second, end to end.

Usage:  python -m benchmarks.throughput [rounds=5] [seconds=5] [cases=...] [case="name: key=value ..."]
[command="name: program ..."] [pattern=...] [key=value of train.py ...]

Every case is one process of `train.py`. The cases take turns of `seconds`, stopped and continued by signals (see programs.py), so that all
have the same load of the machine. The first round is dropped.

    - cases=default|suites|engines|fusions|p1|p2|p3   Lists of cases (cases.py). The default is the suite on each installed engine, and
                                                      fusions concat, gated and mi.
    - case="wide: core.size=512"                      A named case. It can be given several times.
    - checkout="before: <folder> key=value ..."       train.py of another checkout of this project as a case, under this Python. Without
                                                      other cases this checkout runs beside it, with the same keys.
    - command="peer: python peer.py --fast"           Another program as a case. The environment variable BENCH_DIR names a folder.
                                                      Each environment of the program writes its steps so far as one int64 to a file
                                                      steps_<anything> there.
    - pattern="steps: (\\d+)"                          With this, the program of `command` prints its steps so far instead.
    - key=value                                       For every case that does not set the key itself.

Prints a line on stderr after each turn. At the end prints one line of JSON for each case, over the rounds:

    - steps_per_second    {median, min, max}.
    - times_first         Ratio to the first case in the same round, which a drift of the machine does not change.
    - cores_used          Processor seconds of all its processes per second.
    - time                Shares of metrics.jsonl: env and inference of an actor's time, learner and wait of the learner's.

Two checkouts that learn at different speed have episodes of different length and different cost. To compare their code alone, give
`learner.learning_rate=0`.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from agents.setup.machine import num_cores
from agents.setup.plan import make_plan
from benchmarks.cases import (
    THIS_CHECKOUT,
    chosen,
    configurations,
    other_checkouts,
    other_programs,
    pattern_of,
    refuse_shared_names,
)
from benchmarks.options import Row, parse, report
from benchmarks.programs import SHARES, Program, Programs, Turn
from benchmarks.turns import digits, ratios, spread, take_turns
from conf.schema import TrainConfig
from envs.spec import EnvSpec


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case."""
    options = parse(arguments, rounds=5, seconds=5.0, own=("cases", "case", "checkout", "command", "pattern"))
    cases = chosen(options, "default")
    checkouts = other_checkouts(options.own, options.overrides)
    if checkouts and not cases:
        cases = {THIS_CHECKOUT: list(options.overrides)}
    refuse_shared_names(cases, checkouts)
    configs = configurations(cases)
    commands = other_programs(options.own, cases.keys() | checkouts.keys())
    pattern = pattern_of(options.own)
    with Programs() as programs:
        started = {name: programs.training(name, words) for name, words in cases.items()}
        started |= {name: programs.training(name, words, root=root) for name, (root, words) in checkouts.items()}
        started |= {name: programs.other(name, words, pattern) for name, words in commands.items()}
        turns = take_turns(
            {name: partial(report_turn, name, program, options.seconds) for name, program in started.items()},
            options.rounds,
        )
    first = [turn.steps_per_second for turn in next(iter(turns.values()))]
    for name, readings in turns.items():
        yield {
            "case": name,
            **speeds(readings),
            "times_first": ratios([turn.steps_per_second for turn in readings], first),
            **(layout(*configs[name]) if name in configs else {}),
            "cores": num_cores(),
            "rounds": options.rounds,
            "seconds": options.seconds,
            **({"checkout": str(checkouts[name][0])} if name in checkouts else {}),
            "arguments": checkouts[name][1] if name in checkouts else cases.get(name) or commands.get(name, []),
        }


def report_turn(name: str, program: Program, seconds: float) -> Turn:
    """Runs a turn and prints its speed on stderr, so that an interrupted benchmark has shown its readings."""
    turn = program.turn(seconds)
    print(f"{name}: {turn.steps_per_second:,.0f} steps/s", file=sys.stderr, flush=True)
    return turn


def speeds(turns: Sequence[Turn]) -> Row:
    """Speed, used cores and time shares over the turns of one program."""
    known = [name for name in SHARES if all(name in turn.shares for turn in turns)]
    return {
        "steps_per_second": spread(turn.steps_per_second for turn in turns),
        "cores_used": digits(statistics.median(turn.cores_used for turn in turns)),
        "time": {name: digits(statistics.median(turn.shares[name] for turn in turns)) for name in known},
    }


def layout(config: TrainConfig, env: EnvSpec) -> Row:
    """Numbers of processes and threads of a training."""
    plan = make_plan(config, env)
    return {
        "actors": plan.run.num_actors,
        "actor_threads": config.runtime.actor_threads,
        "learner_threads": plan.learner_threads,
    }


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
