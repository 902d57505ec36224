"""Capacity of runtimes:  python -m benchmarks.carrying [rounds=5] [seconds=5] [runtimes=local,cluster] [key=value of train.py ...]

Actors return their unrolls at once, without playing. The learner takes them and publishes its weights after each batch, without learning.
The rest is the cost of the runtime: shared memory, or Ray's object store and the bridge process to it. The runtimes take turns; the
others wait, because their buffers are not returned.

Prints one line of JSON for each: unrolls, steps and MiB per second, and milliseconds of processor time of each kind of process for an
unroll. On a cluster of several machines `actors` and `groups` run elsewhere; the other kinds run on the learner's machine.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import psutil

from agents.acting.actor import ActingPolicy, Actor
from agents.network.agent import AgentNetwork
from agents.runtime.base import Runtime, StreamPositions
from agents.runtime.processes.process import configure_process
from agents.setup import builder
from agents.setup.builder import ActorFactory
from agents.setup.plan import make_plan
from agents.trajectory import Trajectory, num_bytes, trajectory_spec
from benchmarks.cases import configured
from benchmarks.options import Row, parse, report
from benchmarks.turns import digits, spread, take_turns

_KINDS = {"ray::ActorGroup": "groups", "raylet": "ray", "gcs_server": "ray"}
"""Start of a process's name -> its kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HastyActorFactory(ActorFactory):
    """The builder's factory for actors that do not play."""

    def __call__(
        self, index: int, positions: StreamPositions, network: AgentNetwork | None, policy: ActingPolicy | None = None
    ) -> Actor:
        """See ActorFactory. (`super()` fails here: the decorator replaces a dataclass with slots by a new class.)"""
        actor = ActorFactory.__call__(self, index, positions, network, policy)
        actor.unroll = partial(hasty_unroll, actor)  # type: ignore[method-assign]
        return actor


def hasty_unroll(actor: Actor, out: Trajectory) -> None:
    """Counts the unroll and updates the heartbeat without playing."""
    actor.unrolls += 1
    actor.heartbeat.beat(actor.heartbeat.episodes.copy(), out["task"][0].numpy())


class Reading(NamedTuple):
    """`rate` is unrolls per second in a turn; `costs` has milliseconds of processor time for an unroll by kind of process."""

    rate: float
    costs: dict[str, float]


def measure(arguments: list[str]) -> Iterator[Row]:
    """A row for each runtime."""
    options = parse(arguments, rounds=5, seconds=5.0, own=("runtimes",))
    names = options.words("runtimes", ("local", "cluster"))
    config, env = configured(["runtime.num_actors=2", *options.overrides])
    # As in train.py: with more threads, copies of tensors spin on cores that other processes need.
    configure_process(1)
    network = builder.build_network(config, env)
    slots, length = config.runtime.slots_per_actor, config.learner.unroll_length
    size = num_bytes(trajectory_spec(env, length, slots, network.core_state_size)) / 2**20
    with contextlib.ExitStack() as stack:
        turns: dict[str, Callable[[], Reading]] = {}
        for name in names:
            runtime = start([f"runtime={name}", "runtime.num_actors=2", *options.overrides], network)
            stack.callback(runtime.close)
            turns[name] = partial(carry, runtime, options.seconds, make_plan(config, env).run.unrolls_per_batch)
        readings = take_turns(turns, options.rounds)
    for name, found in readings.items():
        rates = [reading.rate for reading in found]
        yield {
            "case": name,
            "unrolls_per_second": spread(rates),
            "steps_per_second": digits(spread(rates)["median"] * slots * length),
            "mib_per_second": digits(spread(rates)["median"] * size),
            "mib_of_unroll": digits(size),
            "mib_of_weights": digits(4 * network.num_parameters / 2**20),
            "cpu_ms_per_unroll": {
                kind: spread(reading.costs.get(kind, 0.0) for reading in found)["median"] for kind in found[-1].costs
            },
            "rounds": options.rounds,
            "seconds": options.seconds,
        }


def start(settings: Sequence[str], network: AgentNetwork) -> Runtime:
    """A runtime with actors of HastyActorFactory."""
    config, env = configured(settings)
    original = builder.ActorFactory
    # build_runtime reads this name.
    builder.ActorFactory = HastyActorFactory  # type: ignore[misc]
    try:
        return builder.build_runtime(config, env, network, StreamPositions(), 0)
    finally:
        builder.ActorFactory = original  # type: ignore[misc]


def carry(runtime: Runtime, seconds: float, unrolls: int) -> Reading:
    """Takes batches of `unrolls` unrolls for `seconds`."""
    for version in range(1, 5):
        # Batches that were ready before this turn.
        runtime.collect()
        runtime.publish(version)
    before, began, batches = cpu_milliseconds(runtime), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        runtime.collect()
        batches += 1
        runtime.publish(batches)
    taken, after = time.perf_counter() - began, cpu_milliseconds(runtime)
    return Reading(
        batches * unrolls / taken, {kind: (after[kind] - before[kind]) / (batches * unrolls) for kind in before}
    )


def cpu_milliseconds(runtime: Runtime) -> dict[str, float]:
    """Processor time of this process and of the runtime's processes, by kind."""
    this = psutil.Process()
    found = {"learner": spent(this)}
    known = {pid: name for name, pid in runtime.processes().items()}
    for pid, name in known.items():
        if name == "cluster":
            bridge = psutil.Process(pid)
            found |= dict.fromkeys(("bridge", *dict.fromkeys(_KINDS.values()), "actors"), 0.0)
            found["bridge"] = spent(bridge)
            for process in bridge.children(recursive=True):
                found[kind_of(process, known)] = found.get(kind_of(process, known), 0.0) + spent(process)
            return found
    found["actors"] = sum(spent(psutil.Process(pid)) for pid in known)
    return found


def kind_of(process: psutil.Process, known: dict[int, str]) -> str:
    """The kind of a process: \"actors\", a value of _KINDS, or \"ray\" for Ray's other processes."""
    if known.get(process.pid, "").startswith("actor"):
        return "actors"
    return next((kind for name, kind in _KINDS.items() if process.name().startswith(name[:15])), "ray")


def spent(process: psutil.Process) -> float:
    """Processor time in milliseconds."""
    times: Any = process.cpu_times()
    return 1e3 * float(times.user + times.system)


def main(arguments: Sequence[str]) -> int:
    """Prints the rows. Returns the exit code of `options.report`."""
    return report(measure, arguments, __doc__)


if __name__ == "__main__":
    # Ray workers import the class under the name of this module, which `__main__` is not.
    from benchmarks.carrying import main as run

    sys.exit(run(sys.argv[1:]))
