"""Finds what limits a run from its time shares, and suggests options. Pure functions from seconds to one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

_IDLE_SHARE = 0.2
"""A side (learner or actors) that waits for a smaller share of its time than this keeps pace with the other."""
_DISK_SHARE = 0.1
"""Share of the loop's time on the disk above which longer intervals are suggested first."""
_CROWDED_THREADS_PER_CORE = 1.5
"""Busy threads per core above which further threads slow the run down. One actor per core with a half-busy learner is below it."""


class Totals(NamedTuple):
    """Running totals: seconds of this process, and agent steps of the run.

    Attributes:
        loop: Wall-clock time of the learner's process. `wait` and `disk` (of checkpoints and metrics) are parts of it.
        wait: Time of the learner waiting for actors; in the serial runtime, the time of the actors.
        actors: Wall-clock time, summed over actors. `env`, `inference` and `actor_wait` are parts of it; the rest moves data.
        actor_wait: Time of actors waiting for a free buffer, because the learner is slower; in the serial runtime, the learner's time.
    """

    loop: float = 0.0
    wait: float = 0.0
    disk: float = 0.0
    actors: float = 0.0
    env: float = 0.0
    inference: float = 0.0
    actor_wait: float = 0.0
    steps: float = 0


class TimeShares(NamedTuple):
    """Shares of time. `learner` (computing), `wait` and `disk` of the learner's process sum to 1. `env`, `inference` and
    `actor_wait` of the actors, together with moving data, sum to 1."""

    learner: float
    wait: float
    disk: float
    env: float
    inference: float
    actor_wait: float

    @classmethod
    def between(cls, before: Totals, after: Totals) -> TimeShares:
        """The shares of the time between two readings of the totals."""
        spent = Totals(*(late - early for early, late in zip(before, after, strict=True)))
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
    """Facts about the configuration and the machine that decide which options are suggested.

    Fields with the name of an option have its value on this machine (agents/setup/plan.py).

    Attributes:
        num_cores: Cores that the run may use.
        learner_threads: Compute threads of all learners on this machine.
        least_actors: Smallest number of actors that gives every task a slot.
        can_use_bf16: Whether the device multiplies bf16 and the run does not use it.
        better_inference: The choice of runtime.inference=auto if the run has another; otherwise empty.
        faster_engine: A faster engine of the suite, or empty.
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
    """The part that limits a run, and a sentence "limited by X; try Y"."""

    name: str
    sentence: str


def find_bottleneck(shares: TimeShares | None, facts: Facts) -> Bottleneck:
    """The part of a run that the others wait for. `shares` are those since the warm-up; None during it."""
    if shares is None:
        return _suggest("start", "its start", ["a larger total_frames: the run has not passed its warm-up"])
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
    limit = "nothing in particular, learner and actors keep each other busy"
    return _suggest("balance", limit, [f"{fix} to speed up both"])


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
    return _suggest(bottleneck.name, f"{part}, while the rest waits in the same process", ["runtime=local"])


def _limited_by_disk(shares: TimeShares, facts: Facts) -> Bottleneck:
    # The interval at which saves of the same cost take 2% of the time.
    wanted = facts.checkpoint_seconds * shares.disk / 0.02
    options = [f"checkpoint_seconds={max(60, math.ceil(wanted / 60) * 60)}"]
    if facts.log_seconds < 1:
        options.append("log_seconds=5")
    return _suggest("disk", "the disk", [*options, "run= on a faster disk"])


def _limited_by_cores(shares: TimeShares, facts: Facts) -> Bottleneck | None:
    """The bottleneck if more threads are busy than the cores can run and some can be removed; otherwise None."""
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
    return _suggest("cores", "the cores, which have more threads than they can run", [" ".join(changes)])


def _limited_by_buffers(facts: Facts) -> Bottleneck:
    # Room for two batches: the learner reads one while the actors fill the other.
    unrolls = max(1, facts.batch_size // facts.slots_per_actor)
    wanted = max(facts.buffers_per_actor + 1, 2 * math.ceil(unrolls / facts.num_actors))
    return _suggest(
        "buffers", "learner and actors that wait for each other in turn", [f"runtime.buffers_per_actor={wanted}"]
    )


def _limited_by_actors(shares: TimeShares, facts: Facts) -> Bottleneck:
    """The bottleneck of a learner that waits for actors."""
    more = _free_cores(facts) // facts.actor_threads
    if more:
        # Enough actors to keep the learner busy, limited by the free cores.
        enough = math.ceil(facts.num_actors / max(1e-9, 1 - shares.wait))
        wanted = min(facts.num_actors + more, max(facts.num_actors + 1, enough))
        return _suggest("actors", "the number of actors", [f"runtime.num_actors={wanted}"])
    return _limited_by_environment(shares, facts) if shares.env >= shares.inference else _limited_by_inference(facts)


def _limited_by_environment(shares: TimeShares, facts: Facts) -> Bottleneck:
    options = [f"env.engine={facts.faster_engine}"] if facts.faster_engine else []
    # A waiting learner has time for more passes, which learn more from each step.
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
    """The bottleneck of actors that wait for the learner."""
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
    """Cores without an actor or the learner. A waiting learner needs one core only, even with several threads."""
    return max(0, facts.num_cores - facts.num_actors * facts.actor_threads - 1)


def _smaller_core(facts: Facts) -> list[str]:
    return [f"core.size={facts.core_size // 2}"] if facts.core_size > 1 else []


def _next_fitting(size: int, other: int) -> int:
    """The smallest number >= 2 * `size` that is a multiple or a divisor of `other`, as batch_size and slots_per_actor must be."""
    return next(n for n in range(2 * size, 2 * size + other + 1) if n % other == 0 or other % n == 0)


def _suggest(name: str, limit: str, options: list[str]) -> Bottleneck:
    *most, last = options[:3]
    return Bottleneck(name, f"limited by {limit}; try {', '.join(most)}{' or ' if most else ''}{last}")
