"""What a configured run is, in words for its banner, and as the facts that advice on its speed depends on."""

from __future__ import annotations

import torch

from agents.fusion import FREE_DIMENSIONS
from agents.learning.learner import Learner
from agents.learning.replay import replay_bytes
from agents.network.agent import AgentNetwork
from agents.network.flops import MultiplyAdds
from agents.run.bottleneck import Facts
from agents.setup import plan
from agents.setup.builder import replay_spec
from agents.setup.preflight import shared_memory
from conf.schema import TrainConfig
from envs.spec import EnvSpec


def describe(config: TrainConfig, env: EnvSpec, learner: Learner, cost: MultiplyAdds) -> dict[str, str]:
    """What is about to run, for the banner."""
    network = learner.network
    actors, width, length = plan.num_actors(config, env), config.runtime.slots_per_actor, config.learner.unroll_length
    engine = f" on {env.engine}" if env.engine else ""
    precision = "bf16 (weights, losses and optimiser fp32)" if learner.autocast else "fp32"
    rows = {
        "suite": f"{env.suite}{engine}, {len(env.tasks)} tasks: {', '.join(env.tasks)}",
        "agent": f"fusion {config.fusion.name} at {', '.join(config.fusion.sites) or 'no site'}, context {config.context.name}, "
        f"core {config.core.name} {config.core.size}, torso {type(network.torso).__name__}",
        "size": f"{network.num_parameters:,} parameters{_matched(config)}; multiply-adds: {cost.apply:,} per step, "
        f"{cost.condition:,} per context",
        "runtime": f"{_runtime_in_words(config)}: {actors} actors x {width} slots, {config.runtime.actor_threads} thread each, "
        f"{_inference_in_words(config, env, network)}; "
        f"learner {plan.learner_threads(config, env)} threads, {precision}",
        "device": _device_in_words(config, learner),
        "batch": f"{length} steps x {plan.batch_columns(config)} columns, {config.learner.passes} passes",
        "memory": f"{shared_memory(config, env, network) / 2**20:,.0f} MiB of trajectories and weights",
        "replay": f"{plan.replayed_columns(config)} of the {plan.batch_columns(config)} columns, from the last "
        f"{config.learner.replay_size:,}; {replay_bytes(replay_spec(config, env, network)) / 2**20:,.0f} MiB",
        "learners": f"{config.learner.num_processes}, with {plan.batch_columns(plan.share(config, env))} of the columns and "
        f"{plan.num_actors(plan.share(config, env), env)} of the actors each",
        "frames": f"{config.total_frames:,}, seed {config.seed}",
    }
    if config.learner.num_processes == 1:
        del rows["learners"]
    if not plan.replayed_columns(config):
        del rows["replay"]
    if learner.device.type == "cpu":
        del rows["device"]
    if learner.counters.updates:
        rows["resumes"] = (
            f"at {learner.counters.updates:,} updates, {learner.counters.steps * env.action_repeat:,} frames"
        )
    elif config.resume:
        rows["resumes"] = "nothing: the folder holds no checkpoint yet, so this is a new run"
    return rows


def _matched(config: TrainConfig) -> str:
    if not config.match_params:
        return ""
    dimensions = dict.fromkeys([FREE_DIMENSIONS.get(config.fusion.name, "size"), "size"])
    chosen = ", ".join(f"fusion.{dimension}={getattr(config.fusion, dimension)}" for dimension in dimensions)
    return f", matched to {config.match_params} by {chosen}"


def _runtime_in_words(config: TrainConfig) -> str:
    runtime = config.runtime
    if runtime.name != "cluster":
        return runtime.name
    where = f"Ray at {runtime.address}" if runtime.address else "Ray on this machine"
    return f"cluster ({where}, groups of {runtime.actors_per_group})"


def _device_in_words(config: TrainConfig, learner: Learner) -> str:
    if learner.device.type == "cpu":
        return ""
    extras = {
        "staged batches": plan.stages(config),
        "compiled": plan.compiles(config),
        "CUDA graphs": plan.captures_graphs(config),
    }
    chosen = ", ".join(name for name, wanted in extras.items() if wanted) or "plain"
    return f"{learner.device} ({torch.cuda.get_device_name(learner.device)}); {chosen}"


def _inference_in_words(config: TrainConfig, env: EnvSpec, network: AgentNetwork) -> str:
    if config.runtime.name == "serial":
        return "the learner's network acts"
    if plan.inference(config, env, network) == "actor":
        return "each acts by itself (inference=actor)"
    return f"one server with {plan.server_threads(config)} thread acts for all (inference=server)"


def facts(config: TrainConfig, env: EnvSpec, learner: Learner) -> Facts:
    """What advice on the run's speed depends on."""
    automatic = plan.automatic_inference(config, env, learner.network)
    return Facts(
        runtime=config.runtime.name,
        num_cores=plan.num_cores(),
        num_actors=plan.num_actors(config, env),
        actor_threads=config.runtime.actor_threads,
        learner_threads=plan.learner_threads(config, env) * plan.learners_here(config),
        slots_per_actor=config.runtime.slots_per_actor,
        buffers_per_actor=plan.buffers_per_actor(config, env),
        least_actors=-(-len(env.tasks) // config.runtime.slots_per_actor),
        batch_size=plan.batch_columns(config),
        passes=config.learner.passes,
        core_size=config.core.size,
        checkpoint_seconds=config.checkpoint_seconds,
        log_seconds=config.log_seconds,
        better_inference="" if plan.inference(config, env, learner.network) == automatic else automatic,
        can_use_bf16=learner.autocast is None and plan.has_bf16(learner.device),
        faster_engine="envpool" if env.engine == "minigrid" else "",
    )
