"""Checks, before a run starts, that it fits the machine and that its environments support its task schedule."""

from __future__ import annotations

import bisect
from copy import copy
from dataclasses import replace

import torch
from torch import nn

from agents.learning.replay import replay_bytes
from agents.network.agent import AgentNetwork
from agents.runtime.ray_groups.connection import check_address
from agents.setup import machine
from agents.setup.builder import build_network, replay_spec
from agents.setup.plan import Plan, check_schedule, make_plan
from agents.setup.resources import Needs, check_resources, environments_memory, sum_needs
from agents.trajectory import num_bytes, trajectory_spec
from conf.checks import check_columns
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suite import EnvConfig
from envs.suites import get_suite
from system.errors import InputError

_BYTES_PER_PARAMETER = 16
"""The parameter, its gradient, and two averages of the optimiser, 4 bytes each."""

_PARTS = 20
"""An upper bound on the number of parts of a network that `_most_parameters` counts."""


def check_network(config: TrainConfig, env: EnvSpec) -> None:
    """Refuses a network that would not fit into memory together with its gradients and the optimiser's two averages.

    Raises:
        InputError: With the sizes.
    """
    free = machine.free_memory()
    if _BYTES_PER_PARAMETER * _most_parameters(config, env) < free:
        # Counting takes torch's meta device, whose first use imports for three seconds.
        return
    with torch.device("meta"):
        parameters = build_network(config, env).num_parameters
    needed = _BYTES_PER_PARAMETER * parameters
    if needed > free:
        raise InputError(
            f"The agent has {parameters:,} parameters, whose training needs {needed / 2**20:,.0f} MiB of memory, and "
            f"{free / 2**20:,.0f} MiB are free: lower core.size={config.core.size}, fusion.size={config.fusion.size} or "
            f"torso.size={config.torso.size}."
        )


def _most_parameters(config: TrainConfig, env: EnvSpec) -> int:
    """An upper bound: no part of a network has more parameters than its largest size to the power of three."""
    context = config.context
    widths = [
        *(config.core.size, config.torso.size, *config.torso.hidden),
        *(config.fusion.size, config.fusion.rank, config.fusion.hidden, config.fusion.experts),
        *(context.task_size + context.instruction_size, context.word_size),
        *(len(env.tasks), len(env.vocabulary), env.num_actions, *env.action_sizes, *env.symbol_counts),
        *(size for array in env.observation.values() for size in array.shape),
    ]
    return _PARTS * (max(widths) + env.num_actions) ** 3


def check_fits(config: TrainConfig, env: EnvSpec, network: AgentNetwork, plan: Plan | None = None) -> None:
    """Checks memory, open files, cluster, precision and task schedule before anything starts.

    Args:
        plan: Plan of the run; None computes it.

    Raises:
        InputError: Too little memory, too few open files, an unreachable cluster, a task without a slot, an unsupported schedule, or
            bf16 without a kernel for this processor.
    """
    plan = plan or make_plan(config, env)
    recurrent = any(isinstance(module, nn.LSTM) for module in network.modules())
    if config.precision == "bf16" and plan.device.type == "cpu" and recurrent and not machine.has_bf16_lstm():
        raise InputError(
            "precision=bf16 needs an LSTM in bf16, which torch does not have for this processor: use precision=auto or fp32."
        )
    if config.runtime.name == "cluster":
        check_address(config.runtime.address)
        if plan.has_remote_actors and not config.runtime.num_actors:
            raise InputError(
                f"runtime.num_actors=0 leaves open how many actors the cluster at runtime.address={config.runtime.address} is to run: "
                "give a number. Those for which there is no room wait for it."
            )
    check_resources(
        estimate_needs(config, env, network, plan), lambda part: _suggest_reduction(part, config, env, network)
    )
    check_schedule(config, env, plan.run.num_actors)


def estimate_needs(config: TrainConfig, env: EnvSpec, network: AgentNetwork, plan: Plan | None = None) -> Needs:
    """Memory and open files of the learners on this machine and their actors. `plan` = None computes the plan."""
    plan = plan or make_plan(config, env)
    learners, shard = plan.local_learners, plan.shard
    local = not plan.is_serial and not plan.has_remote_actors
    actors = learners * shard.num_actors if local else 0
    return sum_needs(
        trajectories=learners * shared_memory(config, env, network, plan),
        replay=learners * replay_bytes(replay_spec(config, env, network, shard.replay_size)),
        parameters=network.num_parameters,
        learners=learners,
        actors=actors,
        networks=actors if plan.choose_inference(network.num_parameters) == "actor" else learners * int(local),
        bytes_per_parameter=plan.bytes_per_parameter,
        slots=0 if plan.has_remote_actors else config.runtime.slots_per_actor,
        slots_have_processes=_has_processes(config.env),
        environment=_environment_memory(config.env),
    )


def check_evaluation(config: EnvConfig, slots: int) -> None:
    """Checks that `slots` environments, which an evaluation plays at a time, fit into memory.

    Raises:
        InputError: With `slots=` and a number that fits.
    """
    processes, environment = _has_processes(config), _environment_memory(config)
    each, free = environments_memory(1, environment, slots_have_processes=processes), machine.free_memory()
    if slots * each > free:
        fix = f"give slots={free // each}" if free >= each else "make room, for one does not fit"
        raise InputError(
            f"slots={slots} environments of env={config.name} at a time need {slots * each / 2**20:,.0f} MiB of memory "
            f"({each / 2**20:,.0f} each) and {free / 2**20:,.0f} MiB are free: {fix}."
        )


def _has_processes(config: EnvConfig) -> bool:
    return bool(getattr(config, "processes", False))


def _environment_memory(config: EnvConfig) -> int:
    return get_suite(config.name).memory(config) * 2**20


def _suggest_reduction(part: str, config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> str:
    """The options to lower if `part`, a field of Needs, is the largest."""
    runtime, learner = config.runtime, config.learner
    unroll = f"learner.unroll_length={learner.unroll_length}"
    if part == "replay":
        return f"learner.replay_size={learner.replay_size} or {unroll}"
    if part == "learner":
        return f"fusion.size={config.fusion.size}, core.size={config.core.size} or torso.size={config.torso.size}"
    slots, actors = (_suggest_value(config, env, network, key) for key in ("slots_per_actor", "num_actors"))
    if part == "trajectories":
        return f"{slots}, {actors}, runtime.buffers_per_actor={runtime.buffers_per_actor} or {unroll}"
    if part == "actors":
        return f"{actors}, or set runtime.inference=server"
    if part == "open_files":
        num_actors = make_plan(config, env).run.num_actors
        return f"runtime.num_actors={num_actors} or runtime.slots_per_actor={runtime.slots_per_actor}"
    environments = slots if runtime.name == "serial" else f"{slots} or {actors}"
    if " to " not in environments:
        environments += ", which alone is not enough, and leave out some of env.tasks"
    return f"{environments}{', or set env.processes=false' if _has_processes(config.env) else ''}"


def _suggest_value(config: TrainConfig, env: EnvSpec, network: AgentNetwork, key: str) -> str:
    """A key of the runtime with its value and, if one exists, the largest lower value with which the run would start."""
    value = make_plan(config, env).run.num_actors if key == "num_actors" else config.runtime.slots_per_actor
    free = machine.free_memory()

    def lowered(value: int) -> TrainConfig:
        runtime = copy(config.runtime)
        setattr(runtime, key, value)
        return replace(config, runtime=runtime)

    def fits(value: int) -> bool:
        return sum(estimate_needs(lowered(value), env, network)._replace(open_files=0)) <= free

    if fits(value):
        return f"runtime.{key}={value}"
    # The largest value that fits; memory grows with the value.
    largest = bisect.bisect_right(range(1, value), False, key=lambda lower: not fits(lower))
    found = next((one for one in range(largest, 0, -1) if _would_start(lowered(one), env)), 0)
    return f"runtime.{key}={value}{f' to {found}' if found else ''}"


def _would_start(config: TrainConfig, env: EnvSpec) -> bool:
    try:
        check_columns(config.learner, config.runtime)
        check_schedule(config, env, make_plan(config, env).run.num_actors)
    except InputError:
        return False
    return True


def shared_memory(config: TrainConfig, env: EnvSpec, network: AgentNetwork, plan: Plan) -> int:
    """Bytes of shared memory of one shard: unroll buffers and two copies of the weights."""
    spec = trajectory_spec(env, config.learner.unroll_length, config.runtime.slots_per_actor, network.core_state_size)
    buffers = plan.shard.num_actors * plan.shard.buffers_per_actor
    return buffers * num_bytes(spec) + 2 * 4 * network.num_parameters
