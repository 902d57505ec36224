"""Builds the parts of a run from a checked configuration. The classes that it calls take plain arguments and see no config class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from agents.acting.actor import ActingPolicy, Actor
from agents.acting.policy import Policy
from agents.fusion import FUSIONS, OPTIONS, TORSO
from agents.fusion.base import Fusion
from agents.fusion.spatial import SPATIAL_FUSIONS
from agents.learning.learner import Learner
from agents.learning.objective import Objective
from agents.learning.replay import Replay
from agents.network.actions import action_distribution
from agents.network.agent import AgentNetwork
from agents.network.context import ContextEncoder
from agents.network.core import CORES, Core
from agents.network.initialization import initialize
from agents.network.normalizer import ObservationNormalizer
from agents.network.torso import build_torso
from agents.runtime.base import ActorLimits, PoolConfig, Runtime, StreamPositions
from agents.runtime.cluster import ClusterRuntime
from agents.runtime.local import LocalRuntime
from agents.runtime.restarts import Faults
from agents.runtime.serial import SerialRuntime
from agents.setup.plan import Plan, autocast_dtype, deal_slots, make_plan
from agents.setup.plugins import load_plugins
from agents.setup.sentence_tables import build_table
from agents.trajectory import trajectory_spec
from conf.schema import TrainConfig
from envs.spec import ArraySpec, EnvSpec, Slot, Split
from envs.suites import make_env
from system.errors import InputError

if TYPE_CHECKING:
    from agents.learning.diagnostics.measurement import Diagnostics


def build_network(config: TrainConfig, env: EnvSpec) -> AgentNetwork:
    """The agent for the tasks of `env`, initialised from torch's global generator.

    Raises InputError if the configuration does not fit the observations of the tasks.
    """
    load_plugins(config.plugins)
    if config.context.name in ("instruction", "both") and not env.instruction_length:
        raise InputError(
            f"context={config.context.name} needs instructions and env={env.suite} has none: use context=task."
        )
    if config.context.name == "vector" and "context" not in env.observation:
        raise InputError(
            f"context=vector needs a suite that gives its context as numbers and env={env.suite} with these tasks gives none: use "
            "context=task, or env.tasks=[blend] of env=conditional."
        )
    needs_task = _needs_task(config)
    if needs_task and config.context.name not in ("task", "both"):
        raise InputError(
            f"fusion={config.fusion.name} needs the task's id and context={config.context.name} has none: use context=task or context=both."
        )
    if config.env.normalize_observation and "vector" not in env.observation:
        raise InputError(
            f"env.normalize_observation=true needs a vector among the observations and env={env.suite} has images alone: leave it out, "
            "because pixels and codes have a known range."
        )
    torso = build_torso(config.torso.name, env, size=config.torso.size, hidden=config.torso.hidden)
    context = ContextEncoder(
        config.context.name,
        len(env.tasks),
        len(env.vocabulary),
        task_encoding="one_hot" if needs_task else config.context.task_encoding,
        encoder=config.context.encoder,
        table=build_table(config.context, env),
        vector_size=env.observation["context"].shape[0] if "context" in env.observation else 0,
        task_size=config.context.task_size,
        word_size=config.context.word_size,
        instruction_size=config.context.instruction_size,
        normalize=config.context.normalize,
        noise=config.context.noise,
        dropout=config.context.dropout,
    )
    sites = config.fusion.sites
    actions = action_distribution(env)
    # Torso, last action, last reward.
    x_size = int(torso.size) + env.num_actions + 1  # type: ignore[arg-type]
    core = _build_core(config, config.fusion.size if "core_input" in sites else x_size)
    learner = config.learner
    actor_size, critic_size = (
        max(1, round(width * core.size)) if width else 0 for width in (config.actor_width, config.critic_width)
    )
    value_bins = learner.value_bins if learner.value_loss == "hl_gauss" else 0
    # Of each site: the size of its input, and the size of its output.
    sizes = {
        "core_input": (x_size, config.fusion.size),
        "policy": (core.size, actor_size or actions.num_parameters),
        "value": (core.size, critic_size or value_bins or 1),
    }
    fusions = _build_flat_fusions(config, context, {site: sizes[site] for site in sites if site != TORSO})
    if TORSO in sites:
        fusions[TORSO] = _build_spatial_fusion(config, context, torso)
    network = AgentNetwork(
        torso,
        context,
        fusions,
        core,
        actions=actions,
        # Only discrete actions can differ between tasks.
        action_counts=env.action_counts
        if env.action_kind == "discrete"
        else (actions.num_parameters,) * len(env.tasks),
        num_values=len(env.tasks) if learner.popart else 1,
        value_bins=value_bins,
        value_bound=learner.value_bound,
        actor_size=actor_size,
        critic_size=critic_size,
        normalizer=ObservationNormalizer(len(env.tasks), *env.observation["vector"].shape)
        if config.env.normalize_observation
        else None,
    )
    initialize(network, config.initialization)
    return network


def build_learner(
    config: TrainConfig,
    env: EnvSpec,
    network: AgentNetwork,
    plan: Plan | None = None,
    *,
    reduce: Callable[[Tensor], None] | None = None,
) -> Learner:
    """The learner that trains `network`.

    Args:
        plan: Plan of the run; None computes it.
        reduce: Sums a tensor over all learners (agents/learning/learner.py); None for a single learner.
    """
    learner, plan = config.learner, plan or make_plan(config, env)
    objective = Objective(
        network,
        len(env.tasks),
        discounting=learner.discounting,
        loss=learner.loss,
        clip_ratio=learner.clip_ratio,
        normalize_advantage=learner.normalize_advantage,
        baseline_cost=learner.baseline_cost,
        reward_transform=learner.reward_transform,
        reward_clip=learner.reward_clip,
        reduction=learner.reduction,
        popart=learner.popart,
        popart_step_size=learner.popart_step_size,
        popart_warm=learner.popart_warm,
        clip_rho=learner.clip_rho,
        clip_c=learner.clip_c,
        clip_pg_rho=learner.clip_pg_rho,
        lambda_=learner.lambda_,
        pg_bootstrap=learner.pg_bootstrap,
        autocast=autocast_dtype(config, next(network.parameters()).device),
        compile=plan.compile,
        reduce=reduce,
    )
    return Learner(
        objective,
        total_steps=max(1, config.total_frames // env.action_repeat),
        optimizer=learner.optimizer,
        learning_rate=learner.learning_rate,
        schedule=learner.schedule or ("linear" if learner.anneal else "constant"),
        warmup_steps=learner.warmup_frames // env.action_repeat,
        rms_decay=learner.rms_decay,
        epsilon=learner.epsilon,
        adam_betas=(learner.adam_betas[0], learner.adam_betas[1]),
        max_gradient_norm=learner.max_gradient_norm,
        kl_bound=learner.kl_bound,
        entropy_cost=learner.entropy_cost,
        entropy_final=learner.entropy_cost if learner.entropy_final < 0 else learner.entropy_final,
        max_refused=learner.max_refused,
        staging=plan.staging,
        diagnostics=_build_diagnostics(objective, learner.diagnostics),
        reduce=reduce,
    )


def _build_diagnostics(objective: Objective, every: int) -> Diagnostics | None:
    if not every:
        return None
    # Every process imports this module when it starts, and few runs measure.
    from agents.learning.diagnostics.measurement import Diagnostics

    return Diagnostics(objective, every=every)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorFactory:
    """Makes an actor of learner `rank`, in the process that calls it (MakeActor of runtime/base.py)."""

    config: TrainConfig
    env: EnvSpec
    plan: Plan
    rank: int = 0

    def __call__(
        self, index: int, positions: StreamPositions, network: AgentNetwork | None, policy: ActingPolicy | None = None
    ) -> Actor:
        """The learner's actor `index`, which acts with `policy`; without one with `network`, and without both with a new network."""
        load_plugins(self.config.plugins)
        # Numbered in turn over the learners, so that actor n of the run plays the same episodes for any number of learners.
        number = index * self.config.learner.num_processes + self.rank
        slots = make_slots(self.config, self.env, number, positions.episodes.get(index))
        env = make_env(self.config.env, self.env, slots, self.config.seed, Split.TRAIN)
        if self.config.runtime.name != "serial":
            runtime = self.config.runtime
            env.wait_for_resets(runtime.reset_patience)
            env.supervise(runtime.hang_seconds, runtime.memory_limit, runtime.recycle_episodes)
        if self.config.runtime.task_schedule == "uniform_frames":
            # Each actor balances its own slots alone, so it starts from its share of the steps that all actors have made.
            actors = self.plan.run.num_actors
            env.balance_frames([positions.steps.get(task, 0) // actors for task in range(len(self.env.tasks))])
        unrolls = positions.unrolls.get(index, 0)
        seed = (self.config.seed, number)
        actions = action_distribution(self.env)
        return Actor(
            env,
            policy or self.policy(len(slots), network),
            actions,
            seed=seed,
            unrolls=unrolls,
            context_seeds=reads_context_seeds(self.config),
        )

    def policy(self, slots: int, network: AgentNetwork | None = None) -> Policy:
        """A policy for `slots` slots that acts with `network` on its device; without one, with a new network on the processor."""
        if network is None:
            network = build_network(self.config, self.env)
        device = next(network.parameters()).device
        # Decided here, because the nodes of a cluster may have other processors than the learner.
        autocast = autocast_dtype(self.config, device)
        # `serial` is exact after a resume, and a resumed run has no earlier unrolls to remember.
        remember = self.config.runtime.name != "serial"
        return Policy(network, slots, autocast=autocast, graphs=self.plan.cuda_graphs, remember=remember)

    def policy_of_server(self, slots: int) -> Policy:
        """The policy of an inference server, with a new network (PoolConfig.make_policy)."""
        network = build_network(self.config, self.env)
        return self.policy(slots, network.to(self.plan.acting_device))


def make_slots(config: TrainConfig, env: EnvSpec, number: int, last: Sequence[int] | None) -> list[Slot]:
    """The slots of actor `number` of the run. Tasks are assigned to slots in turn, or by weight (`runtime.task_schedule`).

    `last` has the episode of each slot when the run was saved. Each slot starts with the episode after it; with None with episode 0.
    """
    width = config.runtime.slots_per_actor
    first = number * width
    return [
        Slot(task=task, index=index, episode=last[column] + 1 if last else 0)
        for column, (task, index) in enumerate(deal_slots(config, env, first + width)[first:])
    ]


def columns_spec(config: TrainConfig, env: EnvSpec, network: AgentNetwork, columns: int) -> dict[str, ArraySpec]:
    """The spec of a trajectory of `columns` columns."""
    seeds = reads_context_seeds(config)
    return trajectory_spec(env, config.learner.unroll_length, columns, network.core_state_size, context_seeds=seeds)


def reads_context_seeds(config: TrainConfig) -> bool:
    """Whether training draws noise or dropout of the context."""
    return config.context.noise > 0 or config.context.dropout > 0


def build_replay(
    config: TrainConfig, env: EnvSpec, network: AgentNetwork, plan: Plan, updates: int, *, rank: int = 0
) -> Replay:
    """An empty replay for learner `rank`. `updates`, the number of updates so far, is in its seed: a resumed run draws other columns."""
    seed = (config.seed, updates, *([rank] if rank else []))
    return Replay(columns_spec(config, env, network, plan.shard.replay_size), seed=seed)


def actor_limits(config: TrainConfig) -> ActorLimits:
    """The limits above which an actor is restarted.

    If each environment has its own process, the engine restarts those (ActorFactory). Then the limit of the actor is a hang alone.
    """
    runtime = config.runtime
    if getattr(config.env, "processes", False):
        # Above the time that an actor waits for a hanging environment and then for the end of its process.
        return ActorLimits(hang_seconds=3 * runtime.hang_seconds)
    return ActorLimits(runtime.hang_seconds, runtime.memory_limit, runtime.recycle_episodes)


def build_runtime(
    config: TrainConfig,
    env: EnvSpec,
    network: AgentNetwork,
    positions: StreamPositions,
    version: int,
    state: dict[str, Any] | None = None,
    *,
    plan: Plan | None = None,
    faults: Faults | None = None,
    say: Callable[[str], None] = print,
    rank: int = 0,
) -> Runtime:
    """Starts the actors of learner `rank` and returns its runtime.

    Args:
        version: Version of the weights in `network`.
        state: `state_dict` of the resumed run's runtime, if it fits this one (agents.run.run_state.restore).
        plan: Plan of the run; None computes it.
        faults: Counts restarts; None makes the first fault an error.
        say: Shows a line to the user.
    """
    plan = plan or make_plan(config, env)
    factory = ActorFactory(config=config, env=env, plan=plan, rank=rank)
    shard = plan.shard
    uses_server = plan.choose_inference(config.runtime, network.num_parameters) == "server"
    pool = PoolConfig(
        make_actor=factory,
        spec=columns_spec(config, env, network, config.runtime.slots_per_actor),
        num_actors=shard.num_actors,
        unrolls_per_batch=shard.unrolls_per_batch,
        actions=network.actions,
        actor_threads=config.runtime.actor_threads,
        buffers_per_actor=shard.buffers_per_actor,
        make_policy=factory.policy_of_server if uses_server else None,
        limits=actor_limits(config),
    )
    if config.runtime.name == "serial":
        return SerialRuntime(pool, network, positions=positions, version=version, state=state, faults=faults)
    if config.runtime.name == "local":
        return LocalRuntime(pool, network, positions=positions, version=version, faults=faults)
    return ClusterRuntime(
        pool,
        network,
        address=config.runtime.address,
        actors_per_group=config.runtime.actors_per_group,
        cpus_per_actor=config.runtime.cpus_per_actor,
        positions=positions,
        version=version,
        faults=faults,
        say=say,
    )


def _build_flat_fusions(
    config: TrainConfig, context: ContextEncoder, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, Fusion]:
    """A fusion for each site, whose `sizes` are those of its input and its output."""
    fusion_class = FUSIONS.get(config.fusion.name)
    if fusion_class is None or not sizes:
        return {}
    options = _fusion_options(config, config.fusion.name, fusion_class, context)
    options |= fusion_class.shared_options(context.size, **options)
    return {site: fusion_class(x_size, context.size, out_size, **options) for site, (x_size, out_size) in sizes.items()}


def _build_spatial_fusion(config: TrainConfig, context: ContextEncoder, torso: nn.Module) -> Fusion:
    """The fusion of the torso's feature map. InputError if the torso has none."""
    name = config.fusion.spatial or config.fusion.name
    if torso.map_shape is None:
        hint = ", such as env.observation=image" if config.env.name == "conditional" else ""
        alternative = (
            "leave torso out of fusion.sites" if config.fusion.name in FUSIONS else "choose a fusion without one"
        )
        raise InputError(
            f"fusion.sites=[{','.join(config.fusion.sites)}] puts {name} on the torso's feature map, and this torso reads a vector: "
            f"take observations with an image{hint}, or {alternative}."
        )
    assert isinstance(torso.map_shape, tuple)
    fusion_class = SPATIAL_FUSIONS[name]
    return fusion_class(torso.map_shape, context.size, **_fusion_options(config, name, fusion_class, context))


def _fusion_options(
    config: TrainConfig, name: str, fusion_class: type[Fusion], context: ContextEncoder
) -> dict[str, Any]:
    """The keyword arguments of this fusion besides its sizes."""
    options = {option: getattr(config.fusion, option) for option in OPTIONS.get(name, ())}
    options |= {"context_norm": context.context_norm} if fusion_class.uses_context_norm else {}
    return options | ({"num_tasks": context.num_tasks} if fusion_class.needs_task else {})


def _needs_task(config: TrainConfig) -> bool:
    """Whether the fusion of a flat site needs the one-hot code of the task."""
    name = config.fusion.name
    return name in FUSIONS and FUSIONS[name].needs_task and any(site != TORSO for site in config.fusion.sites)


def _build_core(config: TrainConfig, x_size: int) -> Core:
    options = {"rounds": config.core.rounds} if config.core.name == "mogrifier" else {}
    return CORES[config.core.name](x_size, config.core.size, **options)
