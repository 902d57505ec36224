"""Learner seconds per update of every fusion:  python -m benchmarks.fusion_cost [rounds=N] [key=value of train.py ...]

The batches are real ones of the default suite (or of the one that env= names), the same for all fusions. Fusions take turns within one
run, so that a change in the machine's load meets all of them. Prints one line of JSON for each.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch

from agents import builder
from agents.fusion import FUSIONS
from agents.learner import Learner
from agents.runtime.base import Positions
from agents.runtime.process import configure_process
from agents.runtime.serial import SerialRuntime
from agents.trajectory import Trajectory, minibatches, trajectory_spec
from conf.loading import compose_train
from conf.schema import TrainConfig
from envs.errors import InputError
from envs.spec import EnvSpec
from envs.suites import make_spec

BATCHES = 8
"""Updates in one turn."""
WARM_UP_UNROLLS = 4
ROUNDS = 7
REFERENCE = "concat"


def main(arguments: list[str]) -> int:
    """Measures and prints; 2 for bad input."""
    overrides = [argument for argument in arguments if not argument.startswith("rounds=")]
    rounds = int(
        next((argument.removeprefix("rounds=") for argument in arguments if argument not in overrides), ROUNDS)
    )
    try:
        configs = {name: compose_train([*overrides, f"fusion={name}"]) for name in FUSIONS}
        env = make_spec(configs[REFERENCE].env)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    configure_process(builder.learner_threads(configs[REFERENCE]))
    batches = collect(configs[REFERENCE], env)
    learners = {name: make_learner(config, env) for name, config in configs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in learners}
    # The first round warms up and is dropped.
    for number in range(rounds + 1):
        for name, learner in learners.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            for batch in batches:
                learner.step(batch)
            if number:
                seconds[name].append((time.perf_counter() - began) / len(batches))
                cpu_seconds[name].append((time.process_time() - cpu_began) / len(batches))
    reference, cpu_reference = statistics.median(seconds[REFERENCE]), statistics.median(cpu_seconds[REFERENCE])
    for name, learner in learners.items():
        median, cpu_median = statistics.median(seconds[name]), statistics.median(cpu_seconds[name])
        row = {
            "fusion": name,
            "seconds_per_update": round(median, 5),
            "fastest": round(min(seconds[name]), 5),
            "slowest": round(max(seconds[name]), 5),
            f"times_{REFERENCE}": round(median / reference, 3),
            # On a machine with other work the processor time of the learner is the steadier figure.
            "cpu_seconds_per_update": round(cpu_median, 5),
            f"cpu_times_{REFERENCE}": round(cpu_median / cpu_reference, 3),
            "parameters": learner.network.num_parameters,
            "batch": list(batches[0]["action"].shape),
            "precision": "bf16" if learner.autocast else "fp32",
            "threads": torch.get_num_threads(),
            "rounds": rounds,
        }
        print(json.dumps(row), flush=True)
    return 0


def collect(config: TrainConfig, env: EnvSpec) -> list[Trajectory]:
    """Batches of an untrained agent, from past the first episodes, when the slots no longer reset together."""
    torch.manual_seed(config.seed)
    network = builder.build_network(config, env)
    factory = builder.ActorFactory(config=config, env=env, positions=Positions())
    spec = trajectory_spec(env, config.learner.unroll_length, config.runtime.slots_per_actor, network.core_state_size)
    runtime = SerialRuntime(factory, network, spec, num_actors=1, unrolls_per_batch=builder.unrolls_per_batch(config))
    try:
        for _ in range(WARM_UP_UNROLLS):
            runtime.collect()
        columns = builder.batch_columns(config)
        batches: list[Trajectory] = []
        while len(batches) < BATCHES:
            parts = minibatches(runtime.collect().trajectory, columns)
            batches += [{key: value.clone() for key, value in part.items()} for part in parts]
    finally:
        runtime.close()
    return batches[:BATCHES]


def make_learner(config: TrainConfig, env: EnvSpec) -> Learner:
    """A fresh learner of that configuration."""
    torch.manual_seed(config.seed)
    return builder.build_learner(config, env, builder.build_network(config, env))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
