"""Checks, before a run starts, that it fits the machine and that its environments support its task schedule.

Memory is checked because the kernel kills a process without a message if memory runs out.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from agents.learning.replay import replay_bytes
from agents.network.agent import AgentNetwork
from agents.runtime.ray_groups.connection import check_address
from agents.setup import machine
from agents.setup.builder import columns_spec
from agents.setup.match_params import count_parameters
from agents.setup.plan import Plan, check_schedule, make_plan
from agents.trajectory import num_bytes
from conf.checks import check_columns
from conf.schema import TrainConfig
from envs.scores import normalising_scores
from envs.spec import EnvSpec
from envs.suite import EnvConfig
from envs.suites import get_suite
from system.errors import InputError
from system.words import count

_BYTES_PER_PARAMETER = 16
"""The parameter, its gradient, and two averages of the optimiser, 4 bytes each."""

_PARTS = 20
"""An upper bound on the number of parts of a network that `_most_parameters` counts."""

_PROCESS = 200 * 2**20
"""Unshared bytes of a process that has imported torch."""

_SLOT_PROCESS = 60 * 2**20
"""Bytes of a process that has imported numpy and gymnasium, without its environment."""

MAX_SLOTS = 64
"""Most environments of an evaluation per task, if `slots` is not given."""

_DESCRIPTORS = 100
"""Open files of a process, without those of its actors or environments."""


class Needs(NamedTuple):
    """The needs of a run: bytes of each part, and open files of the process with the most."""

    trajectories: int
    replay: int
    actors: int
    environments: int
    learner: int
    open_files: int


def check_network(config: TrainConfig, env: EnvSpec) -> None:
    """Raises InputError if the network would not fit into memory with its gradients and the optimiser's two averages."""
    free = machine.free_memory()
    if _BYTES_PER_PARAMETER * _most_parameters(config, env) < free:
        # Counting takes torch's meta device, whose first use imports for three seconds.
        return
    parameters = count_parameters(config, env)
    needed = _BYTES_PER_PARAMETER * parameters
    if needed > free:
        raise InputError(
            f"The agent has {count(parameters, 'parameter')}, whose training needs {needed / 2**20:,.0f} MiB of memory, and "
            f"{free / 2**20:,.0f} MiB are free: lower core.size={config.core.size}, fusion.size={config.fusion.size} or "
            f"torso.size={config.torso.size}."
        )


def _most_parameters(config: TrainConfig, env: EnvSpec) -> int:
    """An upper bound: no part of a network has more parameters than its largest size to the power of three."""
    context = config.context
    widths = [
        *(config.core.size, config.torso.size, *config.torso.hidden),
        *(config.learner.value_bins, math.ceil(max(config.actor_width, config.critic_width) * config.core.size)),
        *(config.fusion.size, config.fusion.rank, config.fusion.hidden, config.fusion.experts),
        *(context.task_size + context.instruction_size, context.word_size),
        *(len(env.tasks), len(env.vocabulary), env.num_actions, *env.action_sizes, *env.symbol_counts),
        *(size for array in env.observation.values() for size in array.shape),
    ]
    return _PARTS * (max(widths) + env.num_actions) ** 3


def check_fits(config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> None:
    """Checks memory, open files, cluster, precision and task schedule before anything starts.

    Raises InputError if there is too little memory, there are too few open files, or the cluster cannot be reached. Also raises it if a
    task has no slot, the schedule is not supported, or bf16 has no kernel for this processor.
    """
    plan = make_plan(config, env)
    recurrent = any(isinstance(module, nn.LSTM) for module in network.modules())
    if config.precision == "bf16" and plan.device.type == "cpu" and recurrent and not machine.has_bf16_lstm():
        raise InputError(
            "precision=bf16 needs an LSTM in bf16, which torch does not have for this processor: use precision=auto or fp32."
        )
    if config.runtime.name == "cluster":
        check_address(config.runtime.address)
        if config.runtime.address and not config.runtime.num_actors:
            raise InputError(
                f"runtime.num_actors=0 leaves open how many actors the cluster at runtime.address={config.runtime.address} is to run: "
                "give a number. Those for which there is no room wait for it."
            )
    check_resources(estimate_needs(config, env, network), lambda part: _suggest_reduction(part, config, env, network))
    check_schedule(config, env, plan.run.num_actors)


def estimate_needs(config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> Needs:
    """Memory and open files of the learners on this machine and their actors."""
    plan, runtime = make_plan(config, env), config.runtime
    learners, shard, parameters = plan.local_learners, plan.shard, network.num_parameters
    has_actor_processes = runtime.name != "serial" and not runtime.address
    actors = learners * shard.num_actors if has_actor_processes else 0
    servers = learners if has_actor_processes else 0
    networks = actors if plan.choose_inference(runtime, parameters) == "actor" else servers
    slots = 0 if runtime.address else runtime.slots_per_actor
    return Needs(
        trajectories=learners * shared_memory(config, env, network, plan),
        replay=learners * replay_bytes(columns_spec(config, env, network, shard.replay_size)),
        actors=actors * _PROCESS + networks * parameters * plan.bytes_per_parameter,
        environments=max(1, actors) * slots * _environment_memory(config.env),
        learner=learners * _BYTES_PER_PARAMETER * parameters + (learners - 1) * _PROCESS,
        # An actor takes two pipes and a sentinel; an environment's process takes two pipes.
        open_files=_DESCRIPTORS + max(4 * actors, 3 * slots * _has_processes(config.env)),
    )


def check_resources(needs: Needs, suggest: Callable[[str], str]) -> None:
    """Raises InputError if a run does not fit. Raises this process's limit of open files if the run needs more.

    `suggest` returns the options to lower, in words, for the largest field of Needs.
    """
    parts = {name: size for name, size in needs._asdict().items() if name != "open_files"}
    total, free = sum(parts.values()), machine.free_memory()
    if total > free:
        listed = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in parts.items() if size)
        largest = max(parts, key=lambda name: parts[name])
        raise InputError(
            f"this run needs at least {total / 2**20:,.0f} MiB of memory ({listed}) and {free / 2**20:,.0f} MiB are free: lower "
            f"{suggest(largest)}."
        )
    allowed = machine.allow_open_files(needs.open_files)
    if needs.open_files > allowed:
        raise InputError(
            f"this run needs {count(needs.open_files, 'open file')} in one process and {allowed:,} are allowed: "
            f"lower {suggest('open_files')}, or raise the limit (ulimit -n)."
        )


def check_thresholds(config: TrainConfig, env: EnvSpec) -> None:
    """Raises InputError if `stop_at` names a score and the tasks have no reference scores."""
    if "score" in (config.stop_at or {}) and not normalising_scores(env):
        raise InputError(
            f"stop_at={config.stop_at} needs reference scores of every task and env={env.suite} has none: use success or return."
        )


def check_evaluation(config: EnvConfig, slots: int, *, key: str = "slots") -> None:
    """Raises InputError, with a value of `key` that fits, if `slots` environments at a time do not fit into memory."""
    each, free = _environment_memory(config), machine.free_memory()
    if slots * each > free:
        fix = f"give {key}={free // each}" if free >= each else "make room, for one does not fit"
        raise InputError(
            f"{key}={count(slots, 'environment')} of env={config.name} at a time: that takes {slots * each / 2**20:,.0f} MiB of memory "
            f"({each / 2**20:,.0f} each) and {free / 2**20:,.0f} MiB are free: {fix}."
        )


def _has_processes(config: EnvConfig) -> bool:
    return bool(getattr(config, "processes", False))


def _environment_memory(config: EnvConfig) -> int:
    """Bytes of one environment and of its process, if it has one."""
    return get_suite(config.name).memory(config) * 2**20 + _SLOT_PROCESS * _has_processes(config)


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
        return replace(config, runtime=replace(config.runtime, **{key: value}))  # type: ignore[arg-type]

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
    unroll = num_bytes(columns_spec(config, env, network, config.runtime.slots_per_actor))
    return plan.shard.num_actors * plan.shard.buffers_per_actor * unroll + 2 * 4 * network.num_parameters
