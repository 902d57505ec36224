"""Whether a configured run fits this machine, and its schedule its environments, known before anything starts."""

from __future__ import annotations

import torch
from torch import nn

from agents import plan
from agents.builder import build_network, replay_spec
from agents.network.agent import AgentNetwork
from agents.replay import replay_bytes
from agents.resources import Needs, check_resources, free_memory, needs_of
from agents.runtime.ray_connection import check_address
from agents.trajectory import num_bytes, trajectory_spec
from conf.schema import TrainConfig
from envs.errors import InputError
from envs.spec import EnvSpec

_BYTES_PER_PARAMETER = 16
"""Itself, its gradient, and two averages of the optimiser."""

_PARTS = 20
"""More than any network has that are as large as `_most_parameters` says."""


def check_network(config: TrainConfig, env: EnvSpec) -> None:
    """Refuses a network that would not fit into memory together with its gradients and the optimiser's two averages.

    Raises:
        InputError: with the sizes.
    """
    free = free_memory()
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
    """A bound from above: no part of a network has more parameters than its largest size to the power of three."""
    context = config.context
    widths = [
        *(config.core.size, config.torso.size, *config.torso.hidden),
        *(config.fusion.size, config.fusion.rank, config.fusion.hidden, config.fusion.experts),
        *(context.task_size + context.instruction_size, context.word_size),
        *(len(env.tasks), len(env.vocabulary), env.num_actions, *env.action_sizes, *env.symbol_counts),
        *(size for array in env.observation.values() for size in array.shape),
    ]
    return _PARTS * (max(widths) + env.num_actions) ** 3


def check_fits(config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> None:
    """What can be known of the runtime before anything starts.

    Raises:
        InputError: a schedule that the environments cannot follow, a task without a slot, more memory or open files than there are,
            a cluster that does not answer, or a precision that this processor's kernels do not have.
    """
    recurrent = any(isinstance(module, nn.LSTM) for module in network.modules())
    if config.precision == "bf16" and plan.device(config).type == "cpu" and recurrent and not plan.has_bf16_lstm():
        raise InputError(
            "precision=bf16 needs an LSTM in bf16, which torch does not have for this processor: use precision=auto or fp32."
        )
    if config.runtime.name == "cluster":
        check_address(config.runtime.address)
        if plan.actors_are_elsewhere(config) and not config.runtime.num_actors:
            raise InputError(
                f"runtime.num_actors=0 leaves open how many actors the cluster at runtime.address={config.runtime.address} is to run: "
                "give a number. Those for which there is no room wait for it."
            )
    check_resources(needs(config, env, network), _knobs(config, env))
    plan.check_schedule(config, env)


def needs(config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> Needs:
    """What the learners on this machine and their actors take of it."""
    learners, share = plan.learners_here(config), plan.share(config, env)
    local = config.runtime.name != "serial" and not plan.actors_are_elsewhere(config)
    actors = learners * plan.num_actors(share, env) if local else 0
    return needs_of(
        trajectories=learners * shared_memory(share, env, network),
        replay=learners * replay_bytes(replay_spec(share, env, network)),
        parameters=network.num_parameters,
        learners=learners,
        actors=actors,
        networks=actors if plan.inference(share, env, network) == "actor" else learners * int(local),
        bytes_per_parameter=plan.bytes_per_parameter(config),
        slots=config.runtime.slots_per_actor,
        slots_have_processes=bool(getattr(config.env, "processes", False)),
    )


def _knobs(config: TrainConfig, env: EnvSpec) -> dict[str, str]:
    """What to lower, by the part of `needs` that takes most."""
    runtime, learner = config.runtime, config.learner
    slots = f"runtime.slots_per_actor={runtime.slots_per_actor}"
    actors = f"runtime.num_actors={plan.num_actors(config, env)}"
    unroll = f"learner.unroll_length={learner.unroll_length}"
    return {
        "trajectories": f"{slots}, {actors}, runtime.buffers_per_actor={runtime.buffers_per_actor} or {unroll}",
        "replay": f"learner.replay_size={learner.replay_size} or {unroll}",
        "actors": f"{actors}, or set runtime.inference=server",
        "environments": f"{slots} or {actors}, or set env.processes=false",
        "learner": f"fusion.size={config.fusion.size}, core.size={config.core.size} or torso.size={config.torso.size}",
        "open_files": f"{actors} or {slots}",
    }


def shared_memory(config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> int:
    """Bytes of trajectories and weights that the actors and the learner of a local run share."""
    spec = trajectory_spec(env, config.learner.unroll_length, config.runtime.slots_per_actor, network.core_state_size)
    return (
        plan.num_actors(config, env) * plan.buffers_per_actor(config, env) * num_bytes(spec)
        + 2 * 4 * network.num_parameters
    )
