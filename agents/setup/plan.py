"""What a configuration comes to on this machine: columns, actors, threads, buffers, precision, which slot plays which task, and
where the policy runs.

Every `auto` and every 0 of the `runtime` and `learner` groups is decided here, from the cores, the memory and the processor.
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import replace

import torch

from agents.network.agent import AgentNetwork
from agents.setup.cgroups import cpu_quota, memory_left
from conf.schema import TrainConfig
from envs.schedule import deal
from envs.spec import EnvSpec
from system.errors import InputError

_CPU = torch.device("cpu")

MOST_COPIES = 0.25
"""Share of the main memory that the actors' own networks may take before `runtime.inference=auto` prefers one server."""


def batch_columns(config: TrainConfig) -> int:
    """B: columns of one update, fresh and replayed ones."""
    return config.learner.batch_size or config.runtime.slots_per_actor


def replayed_columns(config: TrainConfig) -> int:
    """Columns of one update that come from the replay."""
    return round(config.learner.replay_fraction * batch_columns(config))


def fresh_columns(config: TrainConfig) -> int:
    """Columns of one update that come from the actors."""
    return batch_columns(config) - replayed_columns(config)


def unrolls_per_batch(config: TrainConfig) -> int:
    """Unrolls that are collected together: as many as one update needs. One, when a single unroll makes several updates."""
    return max(1, fresh_columns(config) // config.runtime.slots_per_actor)


def buffers_per_actor(config: TrainConfig, env: EnvSpec) -> int:
    """runtime.buffers_per_actor, but enough for a whole batch and one more: with fewer, learner and actors would wait for each other."""
    return max(config.runtime.buffers_per_actor, -(-unrolls_per_batch(config) // num_actors(config, env)) + 1)


def num_actors(config: TrainConfig, env: EnvSpec) -> int:
    """runtime.num_actors, or the machine's choice: one for each core but the learner's.

    An environment that takes most of the time gets that core too. The learner then works for a fraction of the time, in which the actors
    share what is left: 1.6 times the steps per second on two cores (docs/performance.md). Every learner has as many actors.
    """
    if config.runtime.num_actors:
        return config.runtime.num_actors
    if config.runtime.name == "serial":
        return config.learner.num_processes
    here = learners_here(config)
    return config.learner.num_processes * max(1, num_cores() // here - (not env.slow))


def learners_here(config: TrainConfig) -> int:
    """Learners on this machine: all of them, unless whoever started them says how many (torchrun)."""
    learners = config.learner.num_processes
    if actors_are_elsewhere(config):
        return 1
    return min(learners, int(os.environ.get("LOCAL_WORLD_SIZE", learners)))


def actor_of_run(config: TrainConfig, index: int, rank: int) -> int:
    """The number in the run of actor `index` of learner `rank`: actors are dealt to the learners in turn, so that whoever learns from
    them, they play the same.
    """
    return index * config.learner.num_processes + rank


def share(config: TrainConfig, env: EnvSpec) -> TrainConfig:
    """What each learner of a run has: its part of the columns, of the actors and of the replay (rounded down). All else is common."""
    learners = config.learner.num_processes
    return replace(
        config,
        learner=replace(
            config.learner,
            batch_size=batch_columns(config) // learners,
            replay_size=config.learner.replay_size // learners,
            num_processes=1,
        ),
        runtime=replace(config.runtime, num_actors=num_actors(config, env) // learners),
    )


def resolved(config: TrainConfig, env: EnvSpec) -> TrainConfig:
    """The configuration with what follows from this machine, for learners on others: the same for all."""
    runtime = replace(config.runtime, num_actors=num_actors(config, env), learner_threads=learner_threads(config, env))
    return replace(config, runtime=runtime)


def actors_are_elsewhere(config: TrainConfig) -> bool:
    """Whether the actors are on machines of which this one knows nothing."""
    return bool(config.runtime.address)


def dealt_slots(config: TrainConfig, env: EnvSpec, count: int) -> list[tuple[int, int]]:
    """Of the first `count` slots of the run: the task id that each begins with, and its `Slot.index`."""
    runtime = config.runtime
    dealt = deal(runtime.task_weights or [1.0] * len(env.tasks), count)
    if runtime.task_schedule == "uniform_frames":
        # Every slot may come to play every task.
        return [(task, number) for number, (task, _) in enumerate(dealt)]
    return dealt


def check_schedule(config: TrainConfig, env: EnvSpec) -> None:
    """Whether the environments can follow `runtime.task_schedule`, and every task is played.

    Raises:
        InputError: they cannot, or a task has no slot.
    """
    runtime = config.runtime
    if runtime.task_schedule == "uniform_frames":
        if not env.switches_tasks:
            raise InputError(
                "runtime.task_schedule=uniform_frames needs slots that change their tasks, and those of "
                f"env={env.suite}{f' on engine {env.engine}' if env.engine else ''} cannot: use uniform_slots or weighted."
            )
        return
    weights, slots = runtime.task_weights, num_actors(config, env) * runtime.slots_per_actor
    if weights and len(weights) != len(env.tasks):
        raise InputError(
            f"runtime.task_weights={weights} has {len(weights)} numbers for {len(env.tasks)} tasks: give one for each of "
            f"{', '.join(env.tasks)}."
        )
    if len({task for task, _ in dealt_slots(config, env, slots)}) < len(env.tasks):
        raise InputError(
            f"runtime.slots_per_actor={runtime.slots_per_actor} times {num_actors(config, env)} actors leaves some of the "
            f"{len(env.tasks)} tasks without a slot: raise runtime.slots_per_actor or runtime.num_actors"
            f"{', or the smallest of runtime.task_weights' if weights else ''}."
        )


def device(config: TrainConfig) -> torch.device:
    """Where the learner computes: `device`, or by `auto` the first GPU, unless the runtime is serial, whose point is to be reproducible.

    Raises:
        InputError: this machine does not have it.
    """
    if config.device == "auto" and config.runtime.name == "serial":
        return torch.device("cpu")
    return named_device(config.device)


def named_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device of this machine; without a number the GPU of this process's turn.

    Raises:
        InputError: this machine does not have it.
    """
    # Whoever starts several learners on a machine numbers them, so that each has a GPU of its own.
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    number = int(name.partition(":")[2] or local_rank % max(1, count))
    if number >= count:
        raise InputError(f"device={name} is not here: torch sees {count or 'no'} GPUs; use device=auto or device=cpu.")
    # Always with its number: a device without one equals none.
    return torch.device("cuda", number)


def acting_device(config: TrainConfig) -> torch.device:
    """Where the policy of an inference server runs: beside the learner, or on the processors of a cluster, whose nodes have others to
    offer than this machine. Actors that act by themselves do it on the processor.
    """
    return torch.device("cpu") if config.runtime.name == "cluster" else device(config)


def compiles(config: TrainConfig) -> bool:
    """learner.compile. `auto` is off: on the processor it does not pay (docs/scaling.md), and on a GPU nobody has measured it."""
    return _switch(config.learner.compile, automatic=False)


def stages(config: TrainConfig) -> bool:
    """learner.staging; without a GPU it has nothing to do."""
    return _switch(config.learner.staging, automatic=True)


def captures_graphs(config: TrainConfig) -> bool:
    """runtime.cuda_graphs; without a GPU it has nothing to do."""
    return _switch(config.runtime.cuda_graphs, automatic=True)


def _switch(value: str, *, automatic: bool) -> bool:
    # Hydra writes what is read as a truth value with a capital.
    return automatic if value == "auto" else value.lower() == "true"


def inference(config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> str:
    """runtime.inference, or the choice of `auto`."""
    return automatic_inference(config, env, network) if config.runtime.inference == "auto" else config.runtime.inference


def automatic_inference(config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> str:
    """`server` where one copy of the network has to serve all actors, else `actor`.

    That is on any device but the processor, and where the actors' copies would take more than MOST_COPIES of the machine's memory. Size in
    multiply-adds alone is no reason: on the processor a server computes on the same cores as the actors it computes for, which wait
    meanwhile. With IMPALA's deep net and 2 actors of 32 slots on 2 cores it reached half of their speed, with the small grid net
    0.6 of it (docs/performance.md).
    """
    actors = num_actors(config, env)
    if config.runtime.name == "serial" or actors == 1 or actors_are_elsewhere(config):
        return "actor"
    copies = actors * network.num_parameters * bytes_per_parameter(config)
    return "server" if acting_device(config).type != "cpu" or copies > MOST_COPIES * memory() else "actor"


def bytes_per_parameter(config: TrainConfig) -> int:
    """Of a network that acts. In low precision the full one is kept beside it (agents/acting/policy.py)."""
    return 4 if autocast_dtype(config, _CPU) is None else 8


def memory() -> int:
    """Bytes of main memory, or those of them that a container leaves."""
    return int(min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), memory_left()))


def server_threads(config: TrainConfig) -> int:
    """Compute threads of the inference server: as many as one actor has. More than there are free cores make it many times slower."""
    return config.runtime.actor_threads


def learner_threads(config: TrainConfig, env: EnvSpec) -> int:
    """Of each learner: runtime.learner_threads, or its part of what the actors leave; one for `serial`, so that its sums do not depend
    on the machine's size.
    """
    if config.runtime.learner_threads:
        return config.runtime.learner_threads
    if config.runtime.name == "serial":
        return 1
    here = learners_here(config)
    actors = 0 if actors_are_elsewhere(config) else num_actors(config, env) * here // config.learner.num_processes
    return max(1, (num_cores() - actors * config.runtime.actor_threads) // here)


def num_cores() -> int:
    """Cores this process may use: those it may run on, or as many as a container gives it the time of."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(here, cpu_quota())))


def autocast_dtype(config: TrainConfig, device: torch.device = _CPU) -> torch.dtype | None:
    """bfloat16 where asked for or, by `auto`, where the device multiplies it and reproducibility is not the point."""
    if config.precision == "bf16":
        return torch.bfloat16
    if config.precision == "auto" and config.runtime.name != "serial" and has_bf16(device):
        return torch.bfloat16
    return None


@functools.cache
def has_bf16_lstm() -> bool:
    """Whether torch can train nn.LSTM under autocast to bf16 on this processor: without AVX512 it has no kernel."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            torch.nn.LSTM(4, 4)(torch.zeros(2, 3, 4))
    except RuntimeError:
        return False
    return True


def has_bf16(device: torch.device = _CPU) -> bool:
    """Whether this processor, or that GPU, has instructions for bfloat16 products."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            # Not by emulation, which is slower than full precision.
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, "cpu") else ""
    if "AVX512" not in capabilities:
        return False
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
