"""The banner of a run, and the facts that advice on its speed depends on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agents.fusion import FREE_DIMENSIONS
from agents.learning.learner import Learner
from agents.learning.replay import replay_bytes
from agents.network.agent import AgentNetwork
from agents.network.flops import MultiplyAdds
from agents.run.bottleneck import Facts
from agents.setup import machine
from agents.setup.builder import columns_spec
from agents.setup.plan import Plan
from agents.setup.preflight import shared_memory
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from system.words import count

_MOST_TASKS = 8
"""Tasks that the banner names. The table below it has all."""


def describe(
    config: TrainConfig, env: EnvSpec, plan: Plan, learner: Learner, multiply_adds: MultiplyAdds
) -> dict[str, str]:
    """The rows of the banner: the properties of the run, by name."""
    network, run, shard = learner.network, plan.run, plan.shard
    engine = f" on {env.engine}" if env.engine else ""
    precision = "bf16 (weights, losses and optimiser fp32)" if learner.objective.autocast else "fp32"
    runtime, num_learners = config.runtime, config.learner.num_processes
    threads = f"{count(runtime.actor_threads, 'thread')} each"
    rows = {
        "suite": f"{env.suite}{engine}, {count(len(env.tasks), 'task')}: {_listed(env.tasks)}",
        "agent": f"fusion {config.fusion.name} at {', '.join(config.fusion.sites) or 'no site'}, context {config.context.name}, "
        f"core {config.core.name} {config.core.size}, torso {type(network.torso).__name__}",
        "size": f"{count(network.num_parameters, 'parameter')}{_matched(config)}; multiply-adds: {multiply_adds.apply:,} per step, "
        f"{multiply_adds.condition:,} per context",
        "runtime": f"{_describe_runtime(config)}: {count(run.num_actors, 'actor')} x {count(runtime.slots_per_actor, 'slot')}, "
        f"{threads}{_describe_inference(config, plan, network)}",
        "learner": f"{count(plan.learner_threads, 'thread')}, {precision}",
        "batch": f"{count(config.learner.unroll_length, 'step')} x {count(run.columns, 'column')}, "
        f"{count(config.learner.passes, 'pass', 'passes')}",
        "memory": f"{num_learners * shared_memory(config, env, network, plan) / 2**20:,.0f} MiB of trajectories and weights",
        "frames": f"{config.total_frames:,}, seed {config.seed}",
    }
    if learner.device.type != "cpu":
        rows["device"] = _describe_device(plan, learner)
    if run.num_replayed:
        size = replay_bytes(columns_spec(config, env, network, run.replay_size)) / 2**20
        rows["replay"] = (
            f"{run.num_replayed} of the {count(run.columns, 'column')}, from the last {run.replay_size:,}; {size:,.0f} MiB"
        )
    if num_learners > 1:
        rows["learners"] = (
            f"{num_learners}, each with {count(shard.columns, 'column')} and {count(shard.num_actors, 'actor')}"
        )
    counters = learner.counters
    if counters.updates:
        rows["resumes"] = (
            f"at {count(counters.updates, 'update')}, {count(counters.steps * env.action_repeat, 'frame')}"
        )
    elif config.resume:
        rows["resumes"] = "nothing: the folder holds no checkpoint yet, so this is a new run"
    return rows


def _matched(config: TrainConfig) -> str:
    if not config.match_params:
        return ""
    dimensions = dict.fromkeys([FREE_DIMENSIONS.get(config.fusion.name, "size"), "size"])
    chosen = ", ".join(f"fusion.{dimension}={getattr(config.fusion, dimension)}" for dimension in dimensions)
    by_count = " in multiply-adds" if config.match == "multiply_adds" else ""
    return f", matched to {config.match_params}{by_count} by {chosen}"


def _describe_runtime(config: TrainConfig) -> str:
    runtime = config.runtime
    if runtime.name != "cluster":
        return runtime.name
    where = f"Ray at {runtime.address}" if runtime.address else "Ray on this machine"
    return f"cluster ({where}, groups of {runtime.actors_per_group})"


def _describe_device(plan: Plan, learner: Learner) -> str:
    switches = {"staged batches": plan.staging, "compiled": plan.compile, "CUDA graphs": plan.cuda_graphs}
    chosen = ", ".join(name for name, is_on in switches.items() if is_on) or "plain"
    return f"{learner.device} ({torch.cuda.get_device_name(learner.device)}); {chosen}"


def _describe_inference(config: TrainConfig, plan: Plan, network: AgentNetwork) -> str:
    runtime = config.runtime
    if runtime.name == "serial":
        return ""
    if plan.choose_inference(runtime, network.num_parameters) == "actor":
        return ", inference=actor"
    return f", inference=server with {count(runtime.actor_threads, 'thread')}"


def _listed(tasks: Sequence[str]) -> str:
    """The names of the tasks; of many the first ones and the last one."""
    return ", ".join(tasks if len(tasks) <= _MOST_TASKS else [*tasks[: _MOST_TASKS - 2], "...", tasks[-1]])


def collect_facts(config: TrainConfig, env: EnvSpec, plan: Plan, learner: Learner) -> Facts:
    """The facts that advice on the run's speed depends on."""
    parameters, slots = learner.network.num_parameters, config.runtime.slots_per_actor
    automatic = plan.automatic_inference(config.runtime, parameters)
    return Facts(
        runtime=config.runtime.name,
        num_cores=machine.num_cores(),
        num_actors=plan.run.num_actors,
        actor_threads=config.runtime.actor_threads,
        learner_threads=plan.learner_threads * plan.local_learners,
        slots_per_actor=slots,
        buffers_per_actor=plan.run.buffers_per_actor,
        least_actors=-(-len(env.tasks) // slots),
        batch_size=plan.run.columns,
        passes=config.learner.passes,
        core_size=config.core.size,
        checkpoint_seconds=config.checkpoint_seconds,
        log_seconds=config.log_seconds,
        better_inference="" if plan.choose_inference(config.runtime, parameters) == automatic else automatic,
        can_use_bf16=learner.objective.autocast is None and machine.has_bf16(learner.device),
        faster_engine="envpool" if env.engine == "minigrid" else "",
    )
