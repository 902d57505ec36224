"""The price of options that add work: learner.diagnostics, context.noise and context.dropout.

Usage:

    python -m benchmarks.extras [rounds=9] [seconds=0.3] [cases=default,mi,8-tasks] [extras=diagnostics,noise,dropout]
    [key=value of train.py ...]

Measures one learner update, and one acting step with cached modulations, with each extra and without (`plain`), on recorded data of each.
All take turns; the first round is dropped. With `diagnostics` every update has a measurement: at `learner.diagnostics=N` the price is a
Nth of what exceeds 1.

- cases: default is the default suite of train.py, mi is the same with fusion=mi, and 8-tasks is `conditional` with fusion=mi.

Prints one line of JSON each. The main results are times_plain and acting_times_plain: cost divided by that of `plain` in the same round,
{median, min, max}. cpu_times_plain and acting_cpu_times_plain are the same for processor time, which varies less on a busy machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from agents.runtime.processes.process import configure_process
from agents.setup.plan import make_plan
from benchmarks.batches import collect, precision, updates
from benchmarks.cases import configured, merged
from benchmarks.fusion import cpu_times, prepare, times
from benchmarks.options import Row, parse, report
from benchmarks.turns import cost, take_turns
from system.errors import unknown_name

PLAIN = "plain"
BATCHES = 4
CASES = {"default": [], "mi": ["fusion=mi"], "8-tasks": ["env=conditional", "fusion=mi"]}
EXTRAS = {
    "diagnostics": ["learner.diagnostics=1"],
    "noise": ["context.noise=1"],
    "dropout": ["context.dropout=0.1"],
}


class Key(NamedTuple):
    """The case and the extra of a row."""

    case: str
    extra: str


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case and extra, `plain` included."""
    options = parse(arguments, rounds=9, seconds=0.3, own=("cases", "extras"))
    cases, extras = options.words("cases", list(CASES)), options.words("extras", list(EXTRAS))
    for option, words, table in (("cases", cases, CASES), ("extras", extras, EXTRAS)):
        for word in words:
            if word not in table:
                raise unknown_name(option, word, table)
    configure_process(1)
    for case in cases:
        keys = [Key(case, extra) for extra in (PLAIN, *extras)]
        work, configs, contexts = {}, {}, {}
        for key in keys:
            config, env = configured(merged(options.overrides, [*CASES[case], *EXTRAS.get(key.extra, ())]))
            unrolls = collect(config, env, max(1, make_plan(config, env).run.unrolls_per_batch) * BATCHES)
            batches = updates(config, env, unrolls)[:BATCHES]
            work[key], configs[key] = prepare(config, env, unrolls, batches), config
            staged = [work[key].learner.prefetcher.stage(batch) for batch in batches]
            contexts[key] = round(float(np.mean([len(one.segments.index.unique()) for one in staged])), 1)
        learned, acted = (
            take_turns({key: partial(cost, getattr(work[key], part), options.seconds) for key in keys}, options.rounds)
            for part in ("learn", "act")
        )
        for key in keys:
            plain = Key(case, PLAIN)
            yield {
                **key._asdict(),
                "times_plain": times(learned[key], learned[plain]),
                "cpu_times_plain": cpu_times(learned[key], learned[plain]),
                "acting_times_plain": times(acted[key], acted[plain]),
                "acting_cpu_times_plain": cpu_times(acted[key], acted[plain]),
                "contexts_per_batch": contexts[key],
                "tasks": len(work[key].learner.steps_by_task),
                "precision": precision(configs[key]),
                "rounds": options.rounds,
                "seconds": options.seconds,
            }


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
