"""One process of benchmarks/learners.py:  python -m benchmarks.learner_team <descriptor> <learners> <rank> key=value ...

The process of rank 0 reads the seconds of each turn as a line from its standard input, and writes its measurements as a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import torch

from agents.cli.signals import end_with_the_parent
from agents.distributed.process_group import LEADER, Group, meet_at_file
from agents.runtime.processes.process import configure_process
from agents.setup import builder
from agents.setup.machine import num_cores
from agents.setup.plan import make_plan
from benchmarks.batches import synthetic
from benchmarks.cases import configured
from conf.schema import TrainConfig


def main(arguments: Sequence[str]) -> int:
    """Learns until the standard input of rank 0 ends. Returns 0."""
    end_with_the_parent()
    descriptor, size, rank = map(int, arguments[:3])
    config, env = configured(arguments[3:])
    configure_process(threads(config))
    torch.manual_seed(config.seed)
    group = meet_at_file(descriptor, rank, size)
    group.wait_for_all()
    group.join()
    network = builder.build_network(config, env)
    learner = builder.build_learner(config, env, network, reduce=group.reduce if size > 1 else None)
    group.sum_on(learner.device)
    shard = make_plan(config, env).shard
    part = synthetic(env, config.learner.unroll_length, shard.columns, network.core_state_size, seed=group.rank)
    if rank == LEADER:
        for line in sys.stdin:
            updates, summed, began = 0, group.seconds, time.perf_counter()
            while time.perf_counter() - began < float(line):
                announce(group, over=False)
                learner.step(part)
                updates += 1
            spent = time.perf_counter() - began
            print(json.dumps({"updates": updates / spent, "reduce": (group.seconds - summed) / spent}), flush=True)
        announce(group, over=True)
    else:
        while not group.receive(LEADER)["over"]:
            learner.step(part)
    group.leave()
    return 0


def announce(group: Group, *, over: bool) -> None:
    """Sends to the other learners whether there is another update, as train.py does before every update."""
    for rank in range(1, group.size):
        group.send({"over": over}, rank)


def threads(config: TrainConfig) -> int:
    """Compute threads of each learner: runtime.learner_threads, or an equal part of all cores, because there are no actors."""
    return config.runtime.learner_threads or max(1, num_cores() // config.learner.num_processes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
