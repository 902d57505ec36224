"""The gain of each GPU switch:  python -m benchmarks.gpu [rounds=5] [seconds=0.3] [cases=grid-lstm,deep-lstm] [learn=16,64]
[act=64,256] [variants=...] [key=value of train.py ...]

Runs on the GPU, or without one on the processor with one thread. Cases and synthetic data are those of benchmarks/network.py.

    learn   one learner update of T = 20 steps in that many columns, in a sequence of batches
    act     one acting step in that many slots; new weights every 20 steps

    variants, each with one change to `base`, the choices of `auto`:
            cpu           learn and act on the processor, with all cores
            fp32          precision=fp32
            compile       learner.compile=true (learn)
            staging-off   learner.staging=false (learn; with a GPU)
            graphs-off    runtime.cuda_graphs=false (act; with a GPU)

All take turns; the first two rounds are dropped, because compilation and graph capture happen there. Prints one line of JSON each:
microseconds_per_sample {median, min, max}, and times_base, the spread of the ratios to `base`, round by round.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from agents.acting.policy import Policy
from agents.learning.minibatches import Minibatch
from agents.runtime.processes.process import configure_process
from agents.setup import builder
from agents.setup.machine import num_cores, resolve_device
from agents.setup.plan import autocast_dtype, make_plan
from benchmarks.batches import acting, synthetic
from benchmarks.network import CASES, UNROLL_LENGTH, configured
from benchmarks.options import Row, parse, report
from benchmarks.turns import Cost, cost, microseconds, ratios, take_turns
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from system.errors import unknown_name

_BATCHES = 4
"""Number of different batches: the next one is copied to the GPU during an update."""

VARIANTS = {
    "base": ("learn", "act"),
    "cpu": ("learn", "act"),
    "fp32": ("learn", "act"),
    "compile": ("learn",),
    "staging-off": ("learn",),
    "graphs-off": ("act",),
}
"""Variant -> the work that it is measured on."""
_NEEDS_GPU = ("cpu", "staging-off", "graphs-off")
"""Variants that equal `base` without a GPU."""


class Key(NamedTuple):
    """The subject of a row; `size` is the number of columns or slots."""

    case: str
    what: str
    size: int
    variant: str


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case, number of columns or slots, and variant."""
    options = parse(arguments, rounds=5, seconds=0.3, own=("cases", "learn", "act", "variants"))
    cases = options.words("cases", ("grid-lstm", "deep-lstm"))
    has_gpu = resolve_device("auto").type == "cuda"
    possible = [variant for variant in VARIANTS if has_gpu or variant not in _NEEDS_GPU]
    variants = options.words("variants", possible)
    for option, words, table in (("cases", cases, tuple(CASES)), ("variants", variants, possible)):
        for word in words:
            if word not in table:
                raise unknown_name(option, word, table)
    sizes = {"learn": options.numbers("learn", (16, 64)), "act": options.numbers("act", (64, 256))}
    configs = {name: configured(CASES[name], options.overrides) for name in cases}
    configure_process(num_cores() if has_gpu else 1)
    keys = [
        Key(case, what, size, variant)
        for case in cases
        for what, listed in sizes.items()
        for size in listed
        for variant in dict.fromkeys(("base", *variants))
        if what in VARIANTS[variant]
    ]
    works = {key: _work(key, *configs[key.case]) for key in keys}
    turns: dict[Key, Callable[[], Cost]] = {key: partial(cost, work, options.seconds) for key, work in works.items()}
    readings = {key: costs[1:] for key, costs in take_turns(turns, options.rounds + 1).items()}
    for key, costs in readings.items():
        walls, base = [reading.wall for reading in costs], [r.wall for r in readings[key._replace(variant="base")]]
        config = as_variant(configs[key.case][0], key.variant)
        device = resolve_device(config.device)
        yield {
            **key._asdict(),
            "microseconds_per_sample": microseconds(walls),
            "times_base": ratios(walls, base),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "precision": "fp32" if autocast_dtype(config, device) is None else "bf16",
            "threads": torch.get_num_threads(),
            "rounds": options.rounds,
            "seconds": options.seconds,
        }


def as_variant(config: TrainConfig, variant: str) -> TrainConfig:
    """The configuration with the change of the variant."""
    learner, runtime = config.learner, config.runtime
    return {
        "cpu": lambda: replace(config, device="cpu"),
        "fp32": lambda: replace(config, precision="fp32"),
        "compile": lambda: replace(config, learner=replace(learner, compile="true")),
        "staging-off": lambda: replace(config, learner=replace(learner, staging="false")),
        "graphs-off": lambda: replace(config, runtime=replace(runtime, cuda_graphs="false")),
    }.get(variant, lambda: config)()


def _work(key: Key, config: TrainConfig, env: EnvSpec) -> Callable[[], float]:
    """Work for `turns.cost` that counts samples."""
    config = as_variant(config, key.variant)
    plan = make_plan(config, env)
    device = plan.device
    torch.manual_seed(config.seed)
    network = builder.build_network(config, env).to(device)
    batches = [synthetic(env, UNROLL_LENGTH, key.size, network.core_state_size, seed) for seed in range(_BATCHES)]
    samples = float(math.prod(batches[0]["action"].shape))
    if key.what == "act":
        autocast = autocast_dtype(config, device)
        policy = Policy(network, key.size, autocast=autocast, graphs=plan.cuda_graphs)
        step = acting(policy, batches[:1])

        def act() -> float:
            step()
            return samples

        return act
    learner = builder.build_learner(config, env, network)

    def learn() -> float:
        for staged in learner.prefetcher(Minibatch(batch, key.size) for batch in batches):
            learner.update(staged)
        return samples * _BATCHES

    return learn


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
