"""The schema of every option: type, default, bounds or choices. conf/checks.py checks conditions on several options.

Names are looked up in literal tables. Nothing in a configuration is imported, instantiated or interpolated, with one exception: suite
gymnasium imports the modules that hold a user's environments and wrappers (envs/gymnasium_ids/build_env.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf import names
from conf.fields import choice, number
from envs.suite import EnvConfig

_FEATURES = 2**16
_PROCESSES = 2**12
"""Upper bounds above every size in use, so that the estimate of the memory that a size needs terminates."""


@dataclass(kw_only=True, slots=True)
class FusionConfig:
    """How observation and context are combined.

    Attributes:
        name: One of agents.fusion.FUSION_NAMES.
        sites: Any of torso, core_input, policy, value. An empty list makes an agent without context.
        spatial: The form on the torso's feature map, one of conf.names.SPATIAL_FUSIONS; empty = `name`.
        size: Output features at core_input.
        rank: Rank of `low_rank` and `tucker`.
        hidden: Units of the hidden layer of `concat_mlp` and `hypernetwork`, and of each expert of `care`, `soft_modularization` and
            `moore`; features of each head of `cross_attention`.
        heads: Number of heads of `cross_attention`.
        experts: Number of experts of `mixture`, `care`, `soft_modularization` and `moore`, and of parameter sets of `paco`.
        keys: What `attention` compares its query with: `content` or `position`.
        kernel: Side of the kernels of `dynamic_conv`, an odd number.
    """

    name: str = choice(MISSING, names.FUSIONS)
    sites: list[str] = choice(["core_input"], names.SITES)
    spatial: str = choice("", names.SPATIAL_FUSIONS, optional=True)
    size: int = number(128, least=1, most=_FEATURES)
    rank: int = number(128, least=1, most=_FEATURES)
    hidden: int = number(128, least=1, most=_FEATURES)
    heads: int = number(4, least=1, most=2**10)
    experts: int = number(8, least=1, most=2**12)
    keys: str = choice("content", names.ATTENTION_KEYS)
    kernel: int = number(3, least=1, most=255)


@dataclass(kw_only=True, slots=True)
class ContextConfig:
    """The context, which describes the task to the agent (agents.network.context.ContextEncoder).

    Attributes:
        name: Its parts: `task` (the task's id), `instruction`, `both`, `vector` (numbers of the suite) or `none`.
        task_encoding: Encoding of the task's id: `embedding` (learned) or `one_hot`.
        task_size: Features of the task embedding.
        encoder: How the instruction is read: `lstm`, `gru`, `bag`, `transformer` (agents.network.instructions), or `table`.
        word_size: Features of each word of the instruction. Not used by `table`.
        instruction_size: Features of the whole instruction. Not used by `table` with `project=false`.
        normalize: Whether the encoded instruction passes a layer normalisation.
        table: File of sentences and their vectors, which encoder `table` looks up (agents.storage.sentences). It is read when a run starts;
            checkpoints and exported agents hold what they need of it.
        project: Whether a learned linear layer maps a vector of the table to `instruction_size` features. Without it the vectors are frozen
            features.
        unseen: What encoder `table` does with an instruction that is not in the file: `refuse`, or `words`, the mean of the file's vectors
            of its words.
        table_shape: Number of sentences of the table that the vocabulary can spell, and features of a vector. A new run sets it.
        noise: Standard deviation of the noise on the encoded context z, relative to the root mean square of z; constant in an episode.
        dropout: Share of the episodes of training in which z is zero.
    """

    name: str = choice(MISSING, names.CONTEXTS)
    task_encoding: str = choice("embedding", names.TASK_ENCODINGS)
    task_size: int = number(32, least=1, most=_FEATURES)
    word_size: int = number(32, least=1, most=_FEATURES)
    instruction_size: int = number(64, least=1, most=_FEATURES)
    normalize: bool = True
    encoder: str = choice("lstm", names.INSTRUCTION_ENCODERS)
    table: str = ""
    project: bool = True
    unseen: str = choice("refuse", names.UNSEEN)
    table_shape: list[int] = number([], least=1, most=2**24, longest=2)
    noise: float = number(0.0, least=0, most=1e3)
    dropout: float = number(0.0, least=0, most=1)


@dataclass(kw_only=True, slots=True)
class CoreConfig:
    """The recurrent core.

    Attributes:
        name: One of agents.network.core.CORES; `feedforward` has no memory.
        size: Number of features.
        rounds: How often x and h gate each other in `mogrifier`.
    """

    name: str = choice(MISSING, names.CORES)
    size: int = number(128, least=1, most=_FEATURES)
    rounds: int = number(5, least=1, most=100)


@dataclass(kw_only=True, slots=True)
class TorsoConfig:
    """The network that reads the observation.

    Attributes:
        name: One of conf.names.TORSOS; `auto` chooses by the observation.
        size: Output features of every torso but `mlp`.
        hidden: Layer sizes of `mlp`.
    """

    name: str = choice(MISSING, names.TORSOS)
    size: int = number(128, least=1, most=_FEATURES)
    hidden: list[int] = number([128], longest=100, least=1, most=_FEATURES)


@dataclass(kw_only=True, slots=True)
class LearnerConfig:
    """The learner.

    Attributes:
        unroll_length: T, in agent steps.
        batch_size: B, the columns of one update: several unrolls joined, or a part of one unroll; 0 = the slots of one actor.
        passes: Passes over each batch, later ones over its columns in random order. V-trace corrects for the policy that changes
            between them.
        replay_fraction: Fraction of the B columns that comes from the replay (agents/learning/replay.py); 0 = none.
        replay_size: Number of columns that the replay holds.
        num_processes: Learner processes. batch_size, replay_size and runtime.num_actors count all of them together. An update
            equals an update of one learner. Under torchrun it is the number of processes that torchrun starts.
        optimizer: One of agents.learning.optimizers.OPTIMIZERS.
        learning_rate: The highest one of the schedule.
        anneal: Whether the learning rate falls linearly to 0 over total_frames, if `schedule` is empty.
        rms_decay: Decay of the mean square of `rmsprop` and `rmsprop_tf`.
        epsilon: Constant in the denominator of the optimiser.
        adam_betas: Decays of `adam`'s moments.
        max_gradient_norm: Gradients are scaled down to this global norm.
        loss: Of the policy: `impala` (V-trace's policy gradient) or `appo` (PPO's clipped surrogate).
        clip_ratio: Of `appo`: c of the clip to [1 - c, 1 + c].
        kl_bound: Of `appo`: KL divergence from the behaviour policy at which later passes over a batch end; 0 = none.
        normalize_advantage: Over an update (`batch`), over the steps of each task in it (`task`), or not (`none`).
        discounting: Gamma.
        baseline_cost: Weight of the loss of the value.
        entropy_cost: Weight of the entropy at the start.
        entropy_final: Weight of the entropy at total_frames, to which it changes linearly; -1 = constant.
        reward_transform: Of the rewards in the loss (agents/learning/rewards.py). Reported returns are raw.
        reward_clip: Of `clip`: rewards are clipped to [-c, c]; 0 = no clipping.
        reduction: `mean` over valid steps, or `sum` as in the IMPALA paper.
        value_loss: Of the value: `mse` (squared error) or `hl_gauss` (cross-entropy of a histogram, docs/values.md).
        value_bins: Of `hl_gauss`: bins of each task's histogram.
        value_bound: Of `hl_gauss`: bound of its support, in standard deviations of the value targets.
        popart: Whether value targets are normalised per task.
        popart_step_size: Beta of PopArt's moments.
        popart_warm: Whether the first moments are plain means (agents.learning.popart.warm_step_size).
        clip_rho, clip_c: V-trace's rho-bar and c-bar.
        clip_pg_rho: Rho-bar of the policy gradient of `impala`.
        lambda_: V-trace's lambda.
        max_refused: Updates in a row that may be refused as not finite before the run ends.
        pg_bootstrap: One of agents.learning.vtrace.PG_BOOTSTRAPS. Runs from versions without this key use `paper`.
        schedule: Of the learning rate up to `total_frames`: `linear` to 0, `constant`, or `cosine` to 0; empty: `linear` with `anneal`,
            otherwise `constant`.
        warmup_frames: Frames in which the learning rate first rises linearly from 0.
        compile: Whether torch.compile compiles parts of the update: `true`, `false` or `auto` (agents.setup.plan.make_plan).
        staging: Whether, with a GPU, the next batch is copied from pinned memory during an update; `auto` = `true`.
        diagnostics: Updates between two measurements of task gradients, dead units, ranks and fusion terms
            (agents/learning/diagnostics); 0 = none.
    """

    unroll_length: int = number(20, least=1, most=2**16)
    batch_size: int = number(16, least=0, most=2**20)
    passes: int = number(1, least=1, most=2**10)
    replay_fraction: float = number(0.0, least=0, below=1)
    replay_size: int = number(1024, least=0)
    num_processes: int = number(1, least=1, most=_PROCESSES)
    optimizer: str = choice("adam", names.OPTIMIZERS)
    learning_rate: float = number(1e-3, least=0)
    anneal: bool = True
    schedule: str = choice("", names.SCHEDULES, optional=True)
    warmup_frames: int = number(0, least=0)
    rms_decay: float = number(0.99, least=0, most=1)
    # With an epsilon that is 0 in single precision, the update of a parameter without a gradient is 0 / 0.
    epsilon: float = number(1e-8, least=1e-20)
    adam_betas: list[float] = number([0.9, 0.999], shortest=2, longest=2, least=0, below=1)
    max_gradient_norm: float = number(1.0, least=0)
    loss: str = choice("impala", names.LOSSES)
    clip_ratio: float = number(0.2, least=1e-3, below=1)
    kl_bound: float = number(0.0, least=0)
    normalize_advantage: str = choice("none", names.ADVANTAGE_NORMALIZATIONS)
    discounting: float = number(0.99, least=0, most=1)
    baseline_cost: float = number(0.5, least=0)
    entropy_cost: float = number(0.01, least=0)
    entropy_final: float = number(-1.0, least=-1)
    reward_transform: str = choice("clip", names.REWARD_TRANSFORMS)
    reward_clip: float = number(1.0, least=0)
    reduction: str = choice("mean", names.REDUCTIONS)
    value_loss: str = choice("mse", names.VALUE_LOSSES)
    value_bins: int = number(51, least=4, most=2**12)
    value_bound: float = number(10.0, least=1, most=1e6)
    popart: bool = True
    popart_step_size: float = number(3e-4, least=0, most=1)
    popart_warm: bool = False
    clip_rho: float = number(1.0, least=0)
    clip_c: float = number(1.0, least=0)
    clip_pg_rho: float = number(1.0, least=0)
    lambda_: float = number(1.0, least=0, most=1)
    pg_bootstrap: str = choice("mixed", names.PG_BOOTSTRAPS)
    max_refused: int = number(10, least=1)
    compile: str = choice("auto", names.SWITCHES)
    staging: str = choice("auto", names.SWITCHES)
    diagnostics: int = number(0, least=0)


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """The processes that run the actors.

    Attributes:
        name: `serial` (one process, reproducible), `local` (actor processes on this machine) or `cluster` (a Ray cluster).
        num_actors: Number of actors; 0 = one per core, minus one per learner unless the environment is slow (`serial`: one per
            learner). It is required for an existing cluster, where actors without room wait.
        address: The cluster's head node as host:port, or `auto` for the cluster of this machine; empty = a cluster on this machine
            alone, which starts and ends with the run.
        actors_per_group: Actors that a cluster places on one node together. If one of them is lost, all are.
        cpus_per_actor: CPUs that Ray reserves for each actor.
        slots_per_actor: Environments of each actor.
        inference: `actor` (each actor has a copy of the network), `server` (one process computes for all actors) or `auto`
            (agents.setup.plan.Plan.automatic_inference).
        cuda_graphs: Whether an inference server on a GPU replays its steps as CUDA graphs: `true`, `false`, or `auto` = `true`.
        actor_threads: Compute threads of each actor.
        learner_threads: Compute threads of the learner; 0 = the cores that the actors leave (`serial`: one).
        buffers_per_actor: Unrolls by which an actor may be ahead. At least one more than a batch takes from it is used.
        task_schedule: Assignment of tasks to slots. `uniform_slots`: equally many slots per task. `weighted`: slots in proportion to
            task_weights. `uniform_frames`: slots change tasks between episodes until all tasks have equally many frames
            (envs.schedule.FrameBalance); it needs EnvSpec.switches_tasks.
        task_weights: One positive number per task, for `weighted`.
        reset_patience: Seconds after which an actor continues without a slot that is still resetting, for engines with a process per
            environment; `inf` = never. `serial` always waits.
        hang_seconds: Seconds without a heartbeat after which an actor, or an environment's process, is restarted. It must exceed the
            longest reset.
        memory_limit: MiB of resident memory, child processes included, above which an actor is restarted between two unrolls; 0 = none.
            Environments with processes are restarted instead, between two episodes.
        recycle_episodes: Episodes after which an actor is restarted between two unrolls, against engines that leak memory; 0 = never.
            Environments with processes are restarted instead, each after as many episodes.
        max_restarts: Restarts within restart_window after which the run saves and stops. Restarts by memory_limit and recycle_episodes
            do not count.
        restart_window: Length of that window in seconds.
    """

    name: str = choice(MISSING, names.RUNTIMES)
    num_actors: int = number(0, least=0, most=_PROCESSES)
    address: str = ""
    actors_per_group: int = number(4, least=1, most=_PROCESSES)
    cpus_per_actor: float = number(1.0, least=0, most=_PROCESSES)
    slots_per_actor: int = number(64, least=1, most=2**16)
    inference: str = choice("auto", names.INFERENCE)
    cuda_graphs: str = choice("auto", names.SWITCHES)
    actor_threads: int = number(1, least=1, most=_PROCESSES)
    learner_threads: int = number(0, least=0, most=_PROCESSES)
    buffers_per_actor: int = number(2, least=1, most=_PROCESSES)
    task_schedule: str = choice("uniform_slots", names.TASK_SCHEDULES)
    task_weights: list[float] = number([], above=0)
    reset_patience: float = number(0.01, least=0, infinite=True)
    hang_seconds: float = number(300.0, above=0, infinite=True)
    memory_limit: int = number(0, least=0)
    recycle_episodes: int = number(0, least=0)
    max_restarts: int = number(20, least=0)
    restart_window: float = number(300.0, above=0, infinite=True)


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """All options of a run.

    Attributes:
        total_frames: Environment frames to train for (agent steps x action repeat).
        seed: Root of all random numbers.
        run: The run folder; empty = runs/<env>-<fusion>-<context>-<other keys of the command line>-seed<seed>.
        resume: Whether to continue the run in that folder.
        init: A run, or a checkpoint of one, whose agent a new run starts with (agents/setup/transfer.py); empty = a new agent.
        allow: Modules, files and folders that the resumed run's configuration may name (conf/allowlist.py), in addition to those that
            the command line names in their own keys.
        plugins: Modules with the user's own parts (agents/setup/plugins.py), as in an import.
        device: Device of the learner and of the inference server: `cpu`, `cuda`, `cuda:N` or `auto`. `auto` is the first GPU that
            torch sees, and `cpu` with runtime=serial. Actors with their own networks use the processor.
        precision: `bf16` or `fp32` for torso and core, or `auto`: bf16 if the device supports it and the runtime is not serial.
        checkpoint_seconds: Seconds between checkpoints.
        keep_checkpoints: Number of newest checkpoints to keep, besides the best one.
        milestone_frames: Frames between milestones, which are checkpoints that are never removed; 0 = none.
        log_seconds: Seconds between log steps.
        log_frames: Frames between log steps. It replaces log_seconds, so that log steps do not depend on the machine's speed; 0 = off.
        logger: Trackers of the metrics besides metrics.jsonl (agents/run/trackers/tracker.py).
        display: Whether to show progress on the terminal.
        evaluate_every: Frames between evaluations while the run trains (agents/evaluation/during_training.py), whose best one then decides
            the best checkpoint; 0 = none.
        evaluate_episodes: Episodes of each task in them.
        stop_at: Thresholds at which the run ends early, once every task has had 100 episodes: a mapping from `success`, `return` or `score`
            to the least mean over tasks of the last 100 episodes; all must be reached. None = never.
        stop_at_success: The same for success alone; 0 = never.
        match_params: A number of parameters, or a fusion whose number of parameters the agent gets (agents/setup/match_params.py).
        match: What `match_params` counts: `parameters`, or `multiply_adds` of one acting step with a cached context.
        critic_width: Units of a hidden layer of the value alone, as a multiple of core.size; 0 = no such layer.
        actor_width: The same of the policy alone.
        initialization: Initial weights (agents/network/initialization.py).
    """

    env: EnvConfig = MISSING
    fusion: FusionConfig = field(default_factory=FusionConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    core: CoreConfig = field(default_factory=CoreConfig)
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    total_frames: int = number(10_000_000, least=1)
    seed: int = number(0, least=0, below=2**63)
    run: str = ""
    resume: bool = False
    init: str = ""
    allow: list[str] = field(default_factory=list)
    plugins: list[str] = field(default_factory=list)
    device: str = "auto"
    precision: str = choice("auto", names.PRECISIONS)
    checkpoint_seconds: float = number(60.0, least=0)
    keep_checkpoints: int = number(3, least=1)
    milestone_frames: int = number(0, least=0)
    log_seconds: float = number(5.0, least=0)
    log_frames: int = number(0, least=0)
    logger: list[str] = choice(["tensorboard"], names.LOGGERS)
    display: bool = True
    evaluate_every: int = number(0, least=0)
    evaluate_episodes: int = number(20, least=1)
    stop_at: Any = None
    stop_at_success: float = number(0.0, least=0, most=1)
    match_params: str = ""
    match: str = choice("parameters", names.MATCHES)
    critic_width: float = number(0.0, least=0, most=2**8)
    actor_width: float = number(0.0, least=0, most=2**8)
    initialization: str = choice("scaled", names.INITIALIZATIONS)


MAY_CHANGE_ON_RESUME = (
    *("total_frames", "run", "resume", "allow", "plugins", "display", "stop_at_success", "log_seconds", "log_frames"),
    *("logger", "evaluate_every", "evaluate_episodes", "stop_at"),
    *("checkpoint_seconds", "keep_checkpoints", "milestone_frames", "device", "precision"),
    *("learner.compile", "learner.staging", "learner.num_processes", "learner.diagnostics"),
    *("runtime.name", "runtime.num_actors", "runtime.address", "runtime.actors_per_group", "runtime.cpus_per_actor"),
    *("runtime.inference", "runtime.cuda_graphs", "runtime.actor_threads", "runtime.learner_threads"),
    *("runtime.buffers_per_actor", "runtime.reset_patience", "runtime.hang_seconds", "runtime.memory_limit"),
    *("runtime.recycle_episodes", "runtime.max_restarts", "runtime.restart_window"),
)
"""Keys that do not change the experiment. `resume=true` refuses a different value of any other key."""

FORMER_VALUES: dict[str, dict[Any, Any]] = {
    "learner.optimizer": {"rmsprop_tf": "rmsprop"},
    "initialization": {"sonnet": "torch"},
}
"""By key, the value that presets give now -> the value that they gave earlier. `resume=true` with such a preset keeps the run's value."""
