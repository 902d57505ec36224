"""The price of a fusion.

Usage:

    python -m benchmarks.fusion [rounds=7] [seconds=0.3] [cases=default,short-episodes,20-tasks]
    [fusions=concat,gated,film,low_rank,mi] [sites=core_input,all] [key=value of train.py ...]

Measures the cost of one learner update, and of one acting step with cached modulations. Does so for each case, set of sites and fusion.
All fusions have the same recorded data. Fusions take turns; the first round is dropped.

- cases=default: The default suite of train.py.
- cases=short-episodes: BabyAI-GoToObj, with about 20 steps per episode and a new instruction at every reset.
- cases=20-tasks: 20 tasks of `conditional`, with the task id as context.
- cases=layers: Each form alone, without an agent: condition, modulate and both with gradients.
  (T, B) is (1, 64), (20, 32) or (80, 32); contexts are constant, occurring or different at every step.
  Includes plain implementations of `mi`. Not a default case, because it takes minutes (`cases=layers rounds=3 seconds=0.05`).
- sites: core_input, or all: core_input, policy and value.

A form that needs the task's id gets context=both in the cases of BabyAI.

Prints one line of JSON each. The main result is times_concat: cost divided by that of concat in the same round, {median, min, max}. The
field cpu_times_concat is the same for processor time, which varies less on a busy machine. The field learner_modulation_bytes is the size
of all modulations of one update (their gradient takes as much again). The field acting_modulation_bytes is the size of an actor's cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.acting.policy import Policy
from agents.fusion import FLAT_SITES, FUSION_NAMES, FUSIONS
from agents.learning.learner import Learner
from agents.network.agent import AgentNetwork, Modulations
from agents.network.context import Contexts
from agents.runtime.processes.process import configure_process
from agents.setup import builder
from agents.setup.plan import make_plan
from agents.trajectory import Trajectory
from benchmarks.batches import acting, collect, make_policy, precision, updates
from benchmarks.cases import configured, merged
from benchmarks.fusion_layers import layer_rows
from benchmarks.options import Row, parse, report
from benchmarks.turns import Cost, cost, microseconds, ratios, take_turns
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from system.errors import unknown_name

REFERENCE, LAYERS = "concat", "layers"
BATCHES = 8
CASES: dict[str, list[str]] = {
    "default": [],
    "short-episodes": ["env.tasks=[BabyAI-GoToObj-v0]"],
    "20-tasks": ["env=conditional", "env.num_tasks=20", "context=task"],
}
SITE_SETS: dict[str, tuple[str, ...]] = {"core_input": ("core_input",), "all": FLAT_SITES}


class Key(NamedTuple):
    """The case, sites and fusion of a row."""

    case: str
    sites: str
    fusion: str


class Work(NamedTuple):
    """The measured work of a key: `learn` makes one update with `learner`, `act` acts for one unroll with `policy`."""

    learn: Callable[[], float]
    act: Callable[[], float]
    learner: Learner
    policy: Policy


def measure(arguments: list[str]) -> Iterator[Row]:
    """One row per case, set of sites and fusion."""
    options = parse(arguments, rounds=7, seconds=0.3, own=("cases", "fusions", "sites"))
    cases = options.words("cases", list(CASES))
    fusions = options.words("fusions", list(FUSION_NAMES if cases == [LAYERS] else FUSIONS))
    sites = options.words("sites", list(SITE_SETS))
    tables = {"cases": (*CASES, LAYERS), "fusions": FUSION_NAMES if cases == [LAYERS] else FUSIONS, "sites": SITE_SETS}
    for option, words in (("cases", cases), ("fusions", fusions), ("sites", sites)):
        for word in words:
            if word not in tables[option]:
                raise unknown_name(option, word, tables[option])
    if LAYERS in cases:
        configure_process(1)
        yield from layer_rows(fusions, options.rounds, options.seconds)
        cases = [case for case in cases if case != LAYERS]
    fusions = list(dict.fromkeys([REFERENCE, *fusions]))
    configs: dict[Key, tuple[TrainConfig, EnvSpec]] = {}
    for key in (Key(case, place, fusion) for case in cases for place in sites for fusion in fusions):
        own = [*CASES[key.case], f"fusion={key.fusion}", f"fusion.sites=[{','.join(SITE_SETS[key.sites])}]"]
        if FUSIONS[key.fusion].needs_task and "context=task" not in own:
            own.append("context=both")
        configs[key] = configured(merged(options.overrides, own))
    configure_process(1)
    data = {}
    for case in cases:
        config, env = configs[Key(case, sites[0], REFERENCE)]
        unrolls = collect(config, env, max(1, make_plan(config, env).run.unrolls_per_batch) * BATCHES)
        data[case] = unrolls, updates(config, env, unrolls)[:BATCHES]
    work = {key: prepare(*configs[key], *data[key.case]) for key in configs}
    learner_bytes = {key: held(item.learner.network, item.learn) for key, item in work.items()}
    learning = take_turns(
        {key: partial(cost, item.learn, options.seconds) for key, item in work.items()}, options.rounds
    )
    acted = take_turns({key: partial(cost, item.act, options.seconds) for key, item in work.items()}, options.rounds)
    for key, item in work.items():
        config, _ = configs[key]
        reference = Key(key.case, key.sites, REFERENCE)
        batches = data[key.case][1]
        yield {
            **key._asdict(),
            "times_concat": times(learning[key], learning[reference]),
            "cpu_times_concat": cpu_times(learning[key], learning[reference]),
            "update_microseconds": microseconds(reading.wall for reading in learning[key]),
            "acting_times_concat": times(acted[key], acted[reference]),
            "acting_microseconds_per_step": microseconds(reading.wall for reading in acted[key]),
            "contexts_per_batch": round(float(np.mean([distinct_contexts(config, batch) for batch in batches])), 1),
            "learner_modulation_bytes": learner_bytes[key],
            "acting_modulation_bytes": _num_bytes(item.policy.cache.stored),
            "parameters": item.learner.network.num_parameters,
            "batch": list(batches[0]["action"].shape),
            "slots": data[key.case][0][0]["action"].shape[1],
            "precision": precision(config),
            "threads": torch.get_num_threads(),
            "rounds": options.rounds,
            "seconds": options.seconds,
        }


def prepare(config: TrainConfig, env: EnvSpec, unrolls: Sequence[Trajectory], batches: Sequence[Trajectory]) -> Work:
    """The work of a new learner and a new policy on these unrolls and batches."""
    torch.manual_seed(config.seed)
    learner = builder.build_learner(config, env, builder.build_network(config, env))
    policy = make_policy(config, env, unrolls[0]["action"].shape[1])
    turn = 0

    def learn() -> float:
        nonlocal turn
        learner.step(batches[turn % len(batches)])
        turn += 1
        return 1

    return Work(learn, acting(policy, unrolls), learner, policy)


def held(network: AgentNetwork, work: Callable[[], float]) -> int:
    """Bytes of all modulations that the network computes in one call of `work`."""
    condition, total = network.condition, 0

    def counted(contexts: Contexts, samples: int | None = None) -> Modulations:
        nonlocal total
        modulations = condition(contexts, samples)
        total += _num_bytes(modulations)
        return modulations

    network.condition = counted  # type: ignore[method-assign]
    try:
        work()
    finally:
        network.condition = condition  # type: ignore[method-assign]
    return total


def distinct_contexts(config: TrainConfig, batch: Trajectory) -> int:
    """The number of different contexts in a batch."""
    parts = [np.zeros((batch["task"].numel(), 1), np.int32)]
    if config.context.name in ("task", "both"):
        parts.append(batch["task"].reshape(-1, 1).numpy())
    if config.context.name in ("instruction", "both"):
        parts.append(batch["instruction"].flatten(0, 1).numpy())
    return len(np.unique(np.concatenate(parts, axis=1), axis=0))


def _num_bytes(tree: object) -> int:
    """Bytes of all tensors in nested dicts and sequences."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(_num_bytes(branch) for branch in tree.values())
    return sum(_num_bytes(branch) for branch in tree) if isinstance(tree, list | tuple) else 0


def times(costs: Sequence[Cost], references: Sequence[Cost]) -> dict[str, float]:
    """Wall-clock cost / reference of each round."""
    return ratios([reading.wall for reading in costs], [reading.wall for reading in references])


def cpu_times(costs: Sequence[Cost], references: Sequence[Cost]) -> dict[str, float]:
    """The same in processor time."""
    return ratios([reading.cpu for reading in costs], [reading.cpu for reading in references])


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
