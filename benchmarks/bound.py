"""Possible and measured speed of a configuration.

Usage:  python -m benchmarks.bound [rounds=5] [seconds=2] [key=value of train.py ...]

Measures the three parts of a training step separately, with one thread each, in us per agent step:

    - env     An actor's vector environment, random actions, resets included.
    - act     Its policy on recorded observations, new weights before every unroll.
    - train   The learner on prepared batches, all passes.

Alternating with them, it measures `train.py` with the same configuration. The parts give two bounds in steps per second:

    - bound         cores / (env + act + train): all cores do nothing else.
    - layout_bound  min(actors / (env + act), 1 / train): the slower of the configured actors and the learner with its configured threads.

A fraction is steps per second divided by a bound, round by round. Prints one line of JSON for each part, one for the run, and a last one
with bounds and fractions. The first round is dropped. With fewer cores than processes, layout_bound is unreachable and can exceed bound.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from agents.runtime.processes.process import configure_process
from agents.setup import builder
from agents.setup.machine import num_cores
from agents.setup.plan import make_plan
from agents.trajectory import Trajectory
from benchmarks.batches import RandomPlay, acting, collect, make_policy, precision, updates
from benchmarks.cases import configured
from benchmarks.options import Row, parse, report
from benchmarks.programs import Program, Programs, Turn
from benchmarks.throughput import layout, speeds
from benchmarks.turns import Cost, cost, digits, microseconds, spread, take_turns
from conf.schema import TrainConfig
from envs.spec import EnvSpec

UPDATES = 8
PARTS = ("env", "act", "train")
_LAYOUT = "train_in_layout"


def measure(arguments: list[str]) -> Iterator[Row]:
    """Rows env, act, train, run and bound."""
    options = parse(arguments, rounds=5, seconds=2.0)
    config, env = configured(options.overrides)
    plan, cores = make_plan(config, env), num_cores()
    actors = plan.run.num_actors
    configure_process(1)
    unrolls = collect(config, env, max(2, plan.run.unrolls_per_batch * UPDATES))
    player = RandomPlay(config, env)
    policy = make_policy(config, env, unrolls[0]["action"].shape[1])
    learn, threads = learning(config, env, updates(config, env, unrolls)[:UPDATES]), plan.learner_threads
    parts: dict[str, Callable[[], Cost]] = {
        "env": partial(cost, player.play, options.seconds),
        "act": partial(cost, acting(policy, unrolls), options.seconds),
        "train": partial(cost, learn, options.seconds),
    }
    if threads > 1:
        parts[_LAYOUT] = partial(with_threads, threads, parts["train"])
    with Programs() as programs:
        run = programs.training("run", options.overrides)
        # A round has two kinds of readings: costs of the parts and a turn of the run.
        readings = take_turns({"round": partial(one_round, parts, run, options.seconds)}, options.rounds)["round"]
    player.close()
    common = {"rounds": options.rounds, "seconds": options.seconds}
    for name in PARTS:
        yield {
            "case": name,
            "microseconds_per_step": microseconds(costs[name].wall for costs, _ in readings),
            "cpu_microseconds_per_step": microseconds(costs[name].cpu for costs, _ in readings),
            "threads": 1,
            **common,
        }
    yield {"case": "run", **speeds([turn for _, turn in readings]), **layout(config, env), **common}
    bounds = [cores / sum(costs[name].wall for name in PARTS) for costs, _ in readings]
    layout_bounds = []
    for costs, _ in readings:
        train = costs[_LAYOUT if threads > 1 else "train"].wall
        layout_bounds.append(min(actors / (costs["env"].wall + costs["act"].wall), 1 / train))
    speed = [turn.steps_per_second for _, turn in readings]
    yield {
        "case": "bound",
        "bound": spread(bounds),
        "fraction": spread(value / bound for value, bound in zip(speed, bounds, strict=True)),
        "layout_bound": spread(layout_bounds),
        "layout_fraction": spread(value / bound for value, bound in zip(speed, layout_bounds, strict=True)),
        "steps_per_second": digits(statistics.median(speed)),
        "cores": cores,
        "actors": actors,
        "precision": precision(config),
        "arguments": options.overrides,
        **common,
    }


def learning(config: TrainConfig, env: EnvSpec, batches: Sequence[Trajectory]) -> Callable[[], float]:
    """Work for `turns.cost`: all passes over one batch after the other. Counts real transitions once."""
    torch.manual_seed(config.seed)
    learner = builder.build_learner(config, env, builder.build_network(config, env))
    turn = 0

    def work() -> float:
        nonlocal turn
        batch = batches[turn % len(batches)]
        turn += 1
        for number in range(config.learner.passes):
            learner.step(batch, num_new=0 if number else None)
        return float(batch["mask"].sum())

    return work


def with_threads(threads: int, turn: Callable[[], Cost]) -> Cost:
    """Calls `turn` with `threads` compute threads, and sets one thread afterwards."""
    torch.set_num_threads(threads)
    try:
        return turn()
    finally:
        torch.set_num_threads(1)


def one_round(parts: dict[str, Callable[[], Cost]], run: Program, seconds: float) -> tuple[dict[str, Cost], Turn]:
    """One turn of each part and of the run."""
    return {name: part() for name, part in parts.items()}, run.turn(seconds)


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
