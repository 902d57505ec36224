"""What limits a run, read from where its time goes, and what to try against it. Pure functions: seconds in, one sentence out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

_IDLE_SHARE = 0.2
"""A side that waits for less of its time than this keeps pace with the other."""
_DISK_SHARE = 0.1
"""More of the loop's time than this on the disk is worth a longer interval, whatever else is slow."""
_CROWDED_THREADS_PER_CORE = 1.5
"""Threads at work per core from which on they hinder each other more than they help. An actor for each core and a learner that is busy
half of the time are fewer."""


class Seconds(NamedTuple):
    """Running totals of a run.

    Attributes:
        loop: wall-clock time of the learner's process; the next two are parts of it.
        wait: for actors. In the serial runtime, where nobody waits: the actors' turns.
        disk: checkpoints and metrics.
        actors: wall-clock time of all actors together; the next three are parts of it, and the rest moves data.
        env: in the environments.
        inference: in the policy.
        actor_wait: for a buffer to write into, because the learner is slower. In the serial runtime: the learner's turns.
    """

    loop: float = 0.0
    wait: float = 0.0
    disk: float = 0.0
    actors: float = 0.0
    env: float = 0.0
    inference: float = 0.0
    actor_wait: float = 0.0


class TimeShares(NamedTuple):
    """Shares of time: `learner` (computing), `wait` and `disk` of the learner's process, which make 1; `env`, `inference` and
    `actor_wait` of the actors, which with the moving of data make 1."""

    learner: float
    wait: float
    disk: float
    env: float
    inference: float
    actor_wait: float

    @classmethod
    def between(cls, before: Seconds, after: Seconds) -> TimeShares:
        """The shares of the time between two readings."""
        spent = Seconds(*(late - early for early, late in zip(before, after, strict=True)))
        loop, actors = max(spent.loop, 1e-9), max(spent.actors, 1e-9)
        return cls(
            learner=max(0.0, loop - spent.wait - spent.disk) / loop,
            wait=spent.wait / loop,
            disk=spent.disk / loop,
            env=spent.env / actors,
            inference=spent.inference / actors,
            actor_wait=spent.actor_wait / actors,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What advice depends on: the configuration as it was resolved, and the machine.

    Attributes:
        runtime: its name.
        num_cores: that the run may use.
        num_actors, actor_threads, learner_threads, slots_per_actor, buffers_per_actor: of the runtime.
        least_actors: that give every task a slot.
        batch_size, passes: of the learner.
        core_size: features of the core.
        checkpoint_seconds, log_seconds: intervals.
        can_use_bf16: the processor multiplies bf16, and the run does not use it.
        better_inference: what runtime.inference=auto would choose, where the run does otherwise, or empty.
        faster_engine: another engine of the suite that is faster than the present one, or empty.
    """

    runtime: str
    num_cores: int
    num_actors: int
    actor_threads: int
    learner_threads: int
    slots_per_actor: int
    buffers_per_actor: int
    least_actors: int
    batch_size: int
    passes: int
    core_size: int
    checkpoint_seconds: float
    log_seconds: float
    can_use_bf16: bool = False
    better_inference: str = ""
    faster_engine: str = ""


class Bottleneck(NamedTuple):
    """`name`: start, disk, cores, buffers, actors, environment, inference, learner or balance. `sentence`: "limited by X; try Y"."""

    name: str
    sentence: str


def find_bottleneck(shares: TimeShares | None, facts: Facts) -> Bottleneck:
    """The part of a run that holds up the others.

    Args:
        shares: since the run was warm; None before.
    """
    if shares is None:
        return Bottleneck(
            "start", "limited by its start; try a larger total_frames: the run has not passed its warm-up"
        )
    if facts.runtime == "serial":
        return _limit_of_serial(shares, facts)
    if shares.disk >= max(_DISK_SHARE, shares.wait):
        return _limited_by_disk(shares, facts)
    crowded = _limited_by_cores(shares, facts)
    if crowded:
        return crowded
    if min(shares.wait, shares.actor_wait) >= _IDLE_SHARE:
        return _limited_by_buffers(facts)
    if shares.wait >= _IDLE_SHARE:
        return _limited_by_actors(shares, facts)
    if shares.actor_wait >= _IDLE_SHARE:
        return _limited_by_learner(shares, facts)
    more = facts.num_actors + _free_cores(facts) // facts.actor_threads
    fix = f"runtime.num_actors={more}" if more > facts.num_actors else "a machine with more cores"
    return Bottleneck(
        "balance",
        f"limited by nothing in particular, learner and actors keep each other busy; try {fix} to speed up both",
    )


def _limit_of_serial(shares: TimeShares, facts: Facts) -> Bottleneck:
    largest = max(shares.learner, shares.env, shares.inference)
    if shares.disk >= max(_DISK_SHARE, largest):
        return _limited_by_disk(shares, facts)
    if shares.learner == largest:
        part, bottleneck = "the learner", _limited_by_learner(shares, facts)
    elif shares.env == largest:
        part, bottleneck = "the environment", _limited_by_environment(shares, facts)
    else:
        part, bottleneck = "inference", _limited_by_inference(facts)
    if facts.num_cores == 1:
        return bottleneck
    return Bottleneck(
        bottleneck.name, f"limited by {part}, while the rest waits in the same process; try runtime=local"
    )


def _limited_by_disk(shares: TimeShares, facts: Facts) -> Bottleneck:
    # So long that at the same cost per save a fiftieth of the time is left.
    wanted = facts.checkpoint_seconds * shares.disk / 0.02
    options = [f"checkpoint_seconds={max(60, math.ceil(wanted / 60) * 60)}"]
    if facts.log_seconds < 1:
        options.append("log_seconds=5")
    return _suggest("disk", "the disk", [*options, "run= on a faster disk"])


def _limited_by_cores(shares: TimeShares, facts: Facts) -> Bottleneck | None:
    """Whether more threads work than there are cores; None as well when none can be given up."""
    working = facts.num_actors * facts.actor_threads * (1 - shares.actor_wait) + facts.learner_threads * shares.learner
    if working <= _CROWDED_THREADS_PER_CORE * facts.num_cores:
        return None
    actors = max(facts.least_actors, min(facts.num_actors, facts.num_cores - 1), 1)
    threads = max(1, facts.num_cores - actors)
    changes = []
    if actors < facts.num_actors:
        changes.append(f"runtime.num_actors={actors}")
    if facts.actor_threads > 1:
        changes.append("runtime.actor_threads=1")
    if threads < facts.learner_threads:
        changes.append(f"runtime.learner_threads={threads}")
    if not changes:
        return None
    return Bottleneck(
        "cores", f"limited by the cores, which have more threads than they can run; try {' '.join(changes)}"
    )


def _limited_by_buffers(facts: Facts) -> Bottleneck:
    # One batch with the learner and one that is being filled.
    unrolls = max(1, facts.batch_size // facts.slots_per_actor)
    wanted = max(facts.buffers_per_actor + 1, 2 * math.ceil(unrolls / facts.num_actors))
    return _suggest(
        "buffers", "learner and actors that wait for each other in turn", [f"runtime.buffers_per_actor={wanted}"]
    )


def _limited_by_actors(shares: TimeShares, facts: Facts) -> Bottleneck:
    """The learner waits for actors."""
    more = _free_cores(facts) // facts.actor_threads
    if more:
        # As many as keep the learner busy, as far as there are cores.
        enough = math.ceil(facts.num_actors / max(1e-9, 1 - shares.wait))
        wanted = min(facts.num_actors + more, max(facts.num_actors + 1, enough))
        return _suggest("actors", "the number of actors", [f"runtime.num_actors={wanted}"])
    return _limited_by_environment(shares, facts) if shares.env >= shares.inference else _limited_by_inference(facts)


def _limited_by_environment(shares: TimeShares, facts: Facts) -> Bottleneck:
    options = [f"env.engine={facts.faster_engine}"] if facts.faster_engine else []
    # What a waiting learner can do beside: it learns more from each step.
    passes = min(4, int(facts.passes / max(1e-9, 1 - shares.wait)))
    if passes > facts.passes and facts.runtime != "serial":
        options.append(f"learner.passes={passes}")
    return _suggest("environment", "the environment", [*options, "a machine with more cores"])


def _limited_by_inference(facts: Facts) -> Bottleneck:
    options = ["precision=bf16"] if facts.can_use_bf16 else []
    if facts.better_inference:
        options.append(f"runtime.inference={facts.better_inference}")
    options.append(f"runtime.slots_per_actor={_next_fitting(facts.slots_per_actor, facts.batch_size)}")
    return _suggest("inference", "inference", options + _smaller_core(facts))


def _limited_by_learner(shares: TimeShares, facts: Facts) -> Bottleneck:
    """The actors wait for the learner."""
    options = []
    needed = max(facts.least_actors, math.ceil(facts.num_actors * (1 - shares.actor_wait)), 1)
    fewer = min(facts.num_actors, needed)
    threads = facts.num_cores - fewer * facts.actor_threads
    if threads > facts.learner_threads and facts.runtime != "serial":
        actors = f"runtime.num_actors={fewer} " if fewer < facts.num_actors else ""
        options.append(f"{actors}runtime.learner_threads={threads}")
    if facts.can_use_bf16:
        options.append("precision=bf16")
    if facts.passes > 1:
        options.append(f"learner.passes={facts.passes - 1}")
    options.append(f"learner.batch_size={_next_fitting(facts.batch_size, facts.slots_per_actor)}")
    return _suggest("learner", "the learner", options + _smaller_core(facts))


def _free_cores(facts: Facts) -> int:
    """Cores without an actor or the learner. A learner that waits needs one core, however many threads it has."""
    return max(0, facts.num_cores - facts.num_actors * facts.actor_threads - 1)


def _smaller_core(facts: Facts) -> list[str]:
    return [f"core.size={facts.core_size // 2}"] if facts.core_size > 1 else []


def _next_fitting(size: int, other: int) -> int:
    """The first number from twice `size` on that is a multiple or a divisor of `other`, as batch and slots must be."""
    return next(n for n in range(2 * size, 2 * size + other + 1) if n % other == 0 or other % n == 0)


def _suggest(name: str, limit: str, options: list[str]) -> Bottleneck:
    *most, last = options[:3]
    return Bottleneck(name, f"limited by {limit}; try {', '.join(most)}{' or ' if most else ''}{last}")
