"""The plan of a run: the configuration's choices on this machine, in which every `auto` and every 0 is resolved.

The exception is `runtime.inference`, which depends on the size of the network (`Plan.choose_inference`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from agents.setup import machine
from conf.schema import RuntimeConfig, TrainConfig
from envs.schedule import deal
from envs.spec import EnvSpec
from system.errors import InputError
from system.words import count

_CPU = torch.device("cpu")

MOST_COPIES = 0.25
"""Share of the main memory that the actors' own networks may take before `runtime.inference=auto` prefers one server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The number of actors and the columns of one update, for all learners together or for one learner's shard.

    Attributes:
        columns: B, fresh and replayed columns of one update.
        num_fresh: Columns of one update that come from the actors.
        num_replayed: Columns of one update that come from the replay.
        replay_size: Columns that the replay holds; 0 without a replay.
        unrolls_per_batch: Unrolls that one batch needs. It is 1 if one unroll has the columns of several updates.
        buffers_per_actor: Unroll buffers of each actor: runtime.buffers_per_actor, but at least the actor's unrolls of one batch and one
            more. With fewer, learner and actors would wait for each other.
    """

    num_actors: int
    columns: int
    num_fresh: int
    num_replayed: int
    replay_size: int
    unrolls_per_batch: int
    buffers_per_actor: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a configuration means on this machine: devices, threads, precision and the sizes of the parts.

    Attributes:
        run: The workload of all learners together.
        shard: The workload of one learner; equal to `run` for a single learner.
        local_learners: Learners on this machine.
        device: Device of the learner.
        acting_device: Device of an inference server. Actors with their own networks use the processor.
        learner_threads: Compute threads of each learner.
        compile: Whether torch.compile compiles parts of the update.
        staging: Whether batches are copied to a GPU from pinned memory, one ahead.
        cuda_graphs: Whether an inference server on a GPU replays CUDA graphs.
        bytes_per_parameter: Bytes per parameter of an acting network. With bf16 the fp32 weights are kept too (agents/acting/policy.py).
    """

    run: Workload
    shard: Workload
    local_learners: int
    device: torch.device
    acting_device: torch.device
    learner_threads: int
    compile: bool
    staging: bool
    cuda_graphs: bool
    bytes_per_parameter: int

    def choose_inference(self, runtime: RuntimeConfig, num_parameters: int) -> str:
        """`actor` or `server` for a network of `num_parameters`: as configured, or the choice of `automatic_inference`."""
        return self.automatic_inference(runtime, num_parameters) if runtime.inference == "auto" else runtime.inference

    def automatic_inference(self, runtime: RuntimeConfig, num_parameters: int) -> str:
        """`server` on a GPU, or if the actors' copies would take more than MOST_COPIES of the machine's memory; otherwise `actor`.

        It is always `actor` for a serial runtime, for a single actor, and for actors on machines that are unknown here.

        A large number of multiply-adds is no reason for a server on the processor. Such a server computes on the actors' cores, and the
        actors wait meanwhile. On 2 cores with 2 actors of 32 slots it reached half of the speed of actors with their own networks
        for IMPALA's deep net. For the small grid net it reached 0.6 (docs/performance.md).
        """
        actors = self.shard.num_actors
        if runtime.name == "serial" or actors == 1 or runtime.address:
            return "actor"
        copies = actors * num_parameters * self.bytes_per_parameter
        return "server" if self.acting_device.type != "cpu" or copies > MOST_COPIES * machine.memory() else "actor"


def make_plan(config: TrainConfig, env: EnvSpec) -> Plan:
    """The plan of a run on this machine. Raises InputError if this machine does not have the configured device."""
    learner, runtime = config.learner, config.runtime
    # torchrun sets LOCAL_WORLD_SIZE to the number of learners that it started on this machine.
    started_here = min(learner.num_processes, int(os.environ.get("LOCAL_WORLD_SIZE", learner.num_processes)))
    # With an address, the other learners and the actors are on an existing cluster, whose machines are unknown here.
    local_learners = 1 if runtime.address else started_here
    actors = _num_actors(config, env, local_learners)
    device = _CPU if config.device == "auto" and runtime.name == "serial" else machine.resolve_device(config.device)
    return Plan(
        run=_workload(config, actors, 1),
        shard=_workload(config, actors, learner.num_processes),
        local_learners=local_learners,
        device=device,
        acting_device=_CPU if runtime.name == "cluster" else device,
        learner_threads=_learner_threads(config, actors, local_learners),
        # Compiling is not faster on the processor (docs/scaling.md), and has not been measured on a GPU.
        compile=_switch(learner.compile, automatic=False),
        staging=_switch(learner.staging, automatic=True),
        cuda_graphs=_switch(runtime.cuda_graphs, automatic=True),
        bytes_per_parameter=4 if autocast_dtype(config, _CPU) is None else 8,
    )


def autocast_dtype(config: TrainConfig, device: torch.device = _CPU) -> torch.dtype | None:
    """bfloat16 for precision=bf16; also for precision=auto if `device` multiplies it and the runtime is not serial. Otherwise None."""
    chosen = config.precision == "auto" and config.runtime.name != "serial" and machine.has_bf16(device)
    return torch.bfloat16 if config.precision == "bf16" or chosen else None


def resolve_config(config: TrainConfig, plan: Plan) -> TrainConfig:
    """The configuration with this machine's number of actors and learner threads, for learners on other machines."""
    runtime = replace(config.runtime, num_actors=plan.run.num_actors, learner_threads=plan.learner_threads)
    return replace(config, runtime=runtime)


def deal_slots(config: TrainConfig, env: EnvSpec, count: int) -> list[tuple[int, int]]:
    """The task id and the `Slot.index` of each of the first `count` slots of the run. With uniform_frames it is only the first task."""
    runtime = config.runtime
    dealt = deal(runtime.task_weights or [1.0] * len(env.tasks), count)
    if runtime.task_schedule == "uniform_frames":
        # Every slot may later play every task, so its index must be unique.
        return [(task, number) for number, (task, _) in enumerate(dealt)]
    return dealt


def check_schedule(config: TrainConfig, env: EnvSpec, num_actors: int) -> None:
    """Raises InputError if the environments cannot follow `runtime.task_schedule`, or if a task has no slot."""
    runtime = config.runtime
    if runtime.task_schedule == "uniform_frames":
        if not env.switches_tasks:
            raise InputError(
                "runtime.task_schedule=uniform_frames needs slots that change their tasks, and those of "
                f"env={env.suite}{f' on engine {env.engine}' if env.engine else ''} cannot: use uniform_slots or weighted."
            )
        return
    weights = runtime.task_weights
    if weights and len(weights) != len(env.tasks):
        raise InputError(
            f"runtime.task_weights={weights} has {count(len(weights), 'number')} for {count(len(env.tasks), 'task')}: give one for each of "
            f"{', '.join(env.tasks)}."
        )
    if len({task for task, _ in deal_slots(config, env, num_actors * runtime.slots_per_actor)}) < len(env.tasks):
        raise InputError(
            f"runtime.slots_per_actor={runtime.slots_per_actor} times {count(num_actors, 'actor')} leaves some of the "
            f"{count(len(env.tasks), 'task')} without a slot: raise runtime.slots_per_actor or runtime.num_actors"
            f"{', or the smallest of runtime.task_weights' if weights else ''}."
        )


def _workload(config: TrainConfig, actors: int, learners: int) -> Workload:
    """The workload of one of `learners` learners: its share of the columns, the actors and the replay, rounded down."""
    slots = config.runtime.slots_per_actor
    columns = (config.learner.batch_size or slots) // learners
    num_replayed = round(config.learner.replay_fraction * columns)
    # Preflight also asks for fewer actors than learners, to find how many would fit.
    num_actors = max(1, actors // learners)
    unrolls = max(1, (columns - num_replayed) // slots)
    return Workload(
        num_actors=num_actors,
        columns=columns,
        num_fresh=columns - num_replayed,
        num_replayed=num_replayed,
        replay_size=config.learner.replay_size // learners if num_replayed else 0,
        unrolls_per_batch=unrolls,
        buffers_per_actor=max(config.runtime.buffers_per_actor, -(-unrolls // num_actors) + 1),
    )


def _num_actors(config: TrainConfig, env: EnvSpec, local_learners: int) -> int:
    """The number of actors of the run: runtime.num_actors, or else one per core that is not a learner's. Learners have equally many.

    With a slow environment the learner's core gets an actor too, because the learner then computes for a fraction of the time. This
    gave 1.6 times the steps per second on two cores (docs/performance.md).
    """
    if config.runtime.num_actors:
        return config.runtime.num_actors
    if config.runtime.name == "serial":
        return config.learner.num_processes
    return config.learner.num_processes * max(1, machine.num_cores() // local_learners - (not env.slow))


def _learner_threads(config: TrainConfig, actors: int, local_learners: int) -> int:
    """runtime.learner_threads, or else this learner's share of the cores that the actors of this machine leave.

    `serial` has one thread, so that its sums do not depend on the number of cores.
    """
    if config.runtime.learner_threads:
        return config.runtime.learner_threads
    if config.runtime.name == "serial":
        return 1
    local_actors = 0 if config.runtime.address else actors * local_learners // config.learner.num_processes
    return max(1, (machine.num_cores() - local_actors * config.runtime.actor_threads) // local_learners)


def _switch(value: str, *, automatic: bool) -> bool:
    """The bool of a key whose value is `auto`, `true` or `false`."""
    # Hydra reads `true` as a bool and writes it as `True`.
    return automatic if value == "auto" else value.lower() == "true"
