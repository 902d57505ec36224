"""The schema of every option: type, default, bounds or choices. conf/checks.py checks what several options decide together.

Names are looked up in literal tables; nothing in a config is ever imported, instantiated or interpolated, but for the modules of the
user's own environments and wrappers that suite gymnasium is told (envs/gymnasium_ids/build_env.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from conf.fields import choice, choices, number, numbers
from conf.names import (
    ATTENTION_KEYS,
    CONTEXTS,
    CORES,
    FUSIONS,
    INFERENCE,
    INITIALIZATIONS,
    OPTIMIZERS,
    PG_BOOTSTRAPS,
    PRECISIONS,
    PROBES,
    REDUCTIONS,
    REWARD_TRANSFORMS,
    RUNTIMES,
    SITES,
    SPATIAL_FUSIONS,
    SWITCHES,
    TASK_ENCODINGS,
    TASK_SCHEDULES,
    TORSOS,
)
from envs.suite import EnvConfig

_FEATURES = 2**16
_PROCESSES = 2**12
"""Upper bounds beyond any size in use: counting what a size needs of memory must come to an end."""


@dataclass(kw_only=True, slots=True)
class FusionConfig:
    """How observation and context meet.

    Attributes:
        name: one of agents.fusion.FUSION_NAMES.
        sites: any of torso, core_input, policy, value; none of them is an agent without context.
        spatial: the form on the torso's feature map, one of SPATIAL_FUSIONS; empty = `name`.
        size: output features at core_input.
        rank: of `low_rank` and `tucker`.
        hidden: units of the hidden layer of `concat_mlp` and `hypernetwork`.
        experts: of `mixture`.
        keys: what `attention` compares its query with, `content` or `position`.
        kernel: side of the kernels of `dynamic_conv`, an odd number.
    """

    name: str = choice(MISSING, FUSIONS)
    sites: list[str] = choices(["core_input"], SITES)
    spatial: str = choice("", SPATIAL_FUSIONS, optional=True)
    size: int = number(128, least=1, most=_FEATURES)
    rank: int = number(128, least=1, most=_FEATURES)
    hidden: int = number(128, least=1, most=_FEATURES)
    experts: int = number(8, least=1, most=2**12)
    keys: str = choice("content", ATTENTION_KEYS)
    kernel: int = number(3, least=1, most=255)


@dataclass(kw_only=True, slots=True)
class ContextConfig:
    """What the agent is told. See agents.network.context.ContextEncoder for the sizes."""

    name: str = choice(MISSING, CONTEXTS)
    task_encoding: str = choice("embedding", TASK_ENCODINGS)
    task_size: int = number(32, least=1, most=_FEATURES)
    word_size: int = number(32, least=1, most=_FEATURES)
    instruction_size: int = number(64, least=1, most=_FEATURES)
    normalize: bool = True


@dataclass(kw_only=True, slots=True)
class CoreConfig:
    """The recurrent core.

    Attributes:
        name: one of agents.network.core.CORES; `feedforward` has no memory.
        size: its features.
        rounds: of `mogrifier`, how often x and h gate each other.
    """

    name: str = choice(MISSING, CORES)
    size: int = number(128, least=1, most=_FEATURES)
    rounds: int = number(5, least=1, most=100)


@dataclass(kw_only=True, slots=True)
class TorsoConfig:
    """The observation's network; `auto` takes the one that fits. `hidden` are the layers of `mlp`, `size` the output of the others."""

    name: str = choice(MISSING, TORSOS)
    size: int = number(128, least=1, most=_FEATURES)
    hidden: list[int] = numbers([128], longest=100, least=1, most=_FEATURES)


@dataclass(kw_only=True, slots=True)
class LearnerConfig:
    """See agents.learning.learner.Learner for the rest.

    Attributes:
        unroll_length: T.
        batch_size: B, columns of one update: several unrolls joined, or part of one; 0 = the slots of one actor.
        passes: how often each batch is learned from. V-trace corrects for the policy that changes meanwhile.
        replay_fraction: part of the B columns that is drawn from earlier trajectories (agents/learning/replay.py); 0 = none.
        replay_size: columns that are kept to draw from.
        pg_bootstrap: one of agents.learning.vtrace.PG_BOOTSTRAPS. Runs that were begun before this key was there have `paper`.
        compile: parts of the update by torch.compile; `true`, `false`, or `auto` (agents.setup.plan.compiles).
        staging: with a GPU, batches travel from pinned memory while the one before is learned from; `auto`: yes.
        optimizer: one of agents.learning.learner.OPTIMIZERS.
        num_processes: learners, each in a process of its own. batch_size, replay_size and runtime.num_actors are those of all together,
            and the updates those that one learner would make. Under torchrun it is the number of processes that torchrun starts.
    """

    unroll_length: int = number(20, least=1, most=2**16)
    batch_size: int = number(16, least=0, most=2**20)
    passes: int = number(1, least=1, most=2**10)
    replay_fraction: float = number(0.0, least=0, below=1)
    replay_size: int = number(1024, least=0)
    num_processes: int = number(1, least=1, most=_PROCESSES)
    optimizer: str = choice("adam", OPTIMIZERS)
    learning_rate: float = number(1e-3, least=0)
    anneal: bool = True
    rms_decay: float = number(0.99, least=0, most=1)
    # 0, or a number that is 0 in single precision, makes the update of a parameter without a gradient 0 / 0.
    epsilon: float = number(1e-8, least=1e-20)
    adam_betas: list[float] = numbers([0.9, 0.999], shortest=2, longest=2, least=0, below=1)
    max_gradient_norm: float = number(1.0, least=0)
    discounting: float = number(0.99, least=0, most=1)
    baseline_cost: float = number(0.5, least=0)
    entropy_cost: float = number(0.01, least=0)
    reward_transform: str = choice("clip", REWARD_TRANSFORMS)
    reward_clip: float = number(1.0, least=0)
    reduction: str = choice("mean", REDUCTIONS)
    popart: bool = True
    popart_step_size: float = number(3e-4, least=0, most=1)
    clip_rho: float = number(1.0, least=0)
    clip_c: float = number(1.0, least=0)
    clip_pg_rho: float = number(1.0, least=0)
    lambda_: float = number(1.0, least=0, most=1)
    pg_bootstrap: str = choice("mixed", PG_BOOTSTRAPS)
    max_refused: int = number(10, least=1)
    compile: str = choice("auto", SWITCHES)
    staging: str = choice("auto", SWITCHES)


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """Where actors live.

    Attributes:
        name: `serial` (one process, reproducible), `local` (actor processes on this machine) or `cluster` (on a Ray cluster).
        num_actors: actors; 0 = one for each processor core but one, or for each core where the environment is what takes the time
            (serial: one), and as many for each learner. On a cluster that runs already it has to be given; those for which there is no
            room wait for it.
        address: of cluster: the head node's host:port, or `auto` for the one that this machine belongs to; empty = a cluster of this
            machine alone, which begins and ends with the run.
        actors_per_group: of cluster: actors that are placed together, on a node with room for all of them, and lost together.
        cpus_per_actor: of cluster: CPUs that Ray reserves for each.
        slots_per_actor: environments of each actor.
        inference: `actor` (each acts with a network of its own), `server` (one process acts for all of them, on whatever is ready), or
            `auto` (agents.setup.plan.inference).
        cuda_graphs: an inference server on a GPU replays its steps as CUDA graphs; `true`, `false`, or `auto`: yes.
        actor_threads, learner_threads: compute threads of each; 0 for the learner = what the actors leave (serial: one).
        buffers_per_actor: unrolls an actor may be ahead; never fewer than a batch takes from it and one.
        task_schedule: which slot plays which task. `uniform_slots`: as many slots for each task. `weighted`: slots in proportion to
            task_weights. `uniform_frames`: slots change their tasks between episodes, so that all come to as many frames
            (envs.schedule.FrameBalance); only where EnvSpec.switches_tasks.
        task_weights: of `weighted`, one positive number for each task.
        reset_patience: seconds after which an actor goes on without a slot that is still resetting, where the engine can (those with
            processes of their own); `inf` = never, and `serial` never does.
        hang_seconds: an actor, or an environment with a process of its own, that shows no sign of life for so long is restarted; more
            than the longest reset takes.
        memory_limit: MiB of resident memory above which an actor, with all that it has started, is restarted between two unrolls; where
            environments have processes of their own, each of these instead, between two episodes. 0 = none.
        recycle_episodes: an actor whose slots have played so many episodes together is restarted in the same way, against engines that
            leak; where environments have processes of their own, each of these instead, after as many of its own. 0 = never.
        max_restarts: the run stops, saved, when more than so many restarts fall into restart_window seconds. Those that
            memory_limit and recycle_episodes ask for do not count.
    """

    name: str = choice(MISSING, RUNTIMES)
    num_actors: int = number(0, least=0, most=_PROCESSES)
    address: str = ""
    actors_per_group: int = number(4, least=1, most=_PROCESSES)
    cpus_per_actor: float = number(1.0, least=0, most=_PROCESSES)
    slots_per_actor: int = number(64, least=1, most=2**16)
    inference: str = choice("auto", INFERENCE)
    cuda_graphs: str = choice("auto", SWITCHES)
    actor_threads: int = number(1, least=1, most=_PROCESSES)
    learner_threads: int = number(0, least=0, most=_PROCESSES)
    buffers_per_actor: int = number(2, least=1, most=_PROCESSES)
    task_schedule: str = choice("uniform_slots", TASK_SCHEDULES)
    task_weights: list[float] = numbers([], above=0)
    reset_patience: float = number(0.01, least=0, infinite=True)
    hang_seconds: float = number(300.0, above=0, infinite=True)
    memory_limit: int = number(0, least=0)
    recycle_episodes: int = number(0, least=0)
    max_restarts: int = number(20, least=0)
    restart_window: float = number(300.0, above=0, infinite=True)


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Everything about a run.

    Attributes:
        total_frames: env frames to train for (agent steps x action repeat).
        seed: root of all random numbers.
        run: the run folder; empty = runs/<env>-<fusion>-<context>-seed<seed>.
        resume: go on with the run in that folder.
        allow: modules, files and folders that the configuration of the run to resume may name (conf/allowlist.py), if the command does not
            name them in their own keys.
        device: of the learner, and of the inference server where there is one: `cpu`, `cuda`, `cuda:N`, or `auto`: the first GPU where
            torch sees one and the runtime is not serial. Actors that act by themselves do it on the processor.
        precision: `bf16` or `fp32` for torso and core, or `auto`: bf16 where the device has it and the runtime is not serial.
        checkpoint_seconds, log_seconds: intervals. keep_checkpoints: the newest N stay, and the best one.
        milestone_frames: a checkpoint at every multiple of so many frames, which stays; 0 = none.
        log_frames: a log step whenever this many more frames have been played, in place of log_seconds, so that log steps do not
            depend on how fast the machine is; 0 = by time.
        display: progress on the terminal.
        initialization: weights at the start (agents/network/initialization.py).
        stop_at_success: ends the run early, when the mean over tasks of the success over the last 100 episodes reaches it and every
            task has had that many; 0 = never.
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
    allow: list[str] = field(default_factory=list)
    device: str = "auto"
    precision: str = choice("auto", PRECISIONS)
    checkpoint_seconds: float = number(60.0, least=0)
    keep_checkpoints: int = number(3, least=1)
    milestone_frames: int = number(0, least=0)
    log_seconds: float = number(5.0, least=0)
    log_frames: int = number(0, least=0)
    display: bool = True
    stop_at_success: float = number(0.0, least=0, most=1)
    match_params: str = ""
    initialization: str = choice("scaled", INITIALIZATIONS)


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """Options of evaluate.py.

    Attributes:
        run: a run folder, its best checkpoint as <run folder>/best, or a checkpoint file.
        episodes: per task.
        tasks: other tasks of the same suite; empty = those the agent was trained on.
        greedy: most probable action instead of a sample.
        video: one video per task into the run folder.
        video_episodes: episodes in each video.
        slots: environments per task; 0 = one per episode, at most 64.
        max_steps: agent steps after which an episode counts as one that never ends, and the evaluation stops with what was played; 0 =
            50,000, or the suite's own limit where that is more.
        seed: root of the evaluation seeds, which are disjoint from all training seeds.
        output: file for the result; empty = evaluation.json beside the checkpoint's run.
        engine: engine of the environments, as env.engine; empty = as in training.
        threads: compute threads; 0 = all cores, which pays for large networks only.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: the first GPU where torch sees one. Episodes repeat on the device they were played on.
        probe: one of agents.evaluation.probes.PROBES, or `all`: play again with another context, and report what is lost; empty = none.
        similarity: with a probe, also draw how alike the tasks are to the agent's context encoder.
        allow: modules, files and folders that the agent's configuration may name (conf/allowlist.py); those of `tasks` need no mention.
    """

    run: str = ""
    episodes: int = number(100, least=1)
    tasks: list[str] = field(default_factory=list)
    greedy: bool = False
    video: bool = False
    video_episodes: int = number(3, least=1)
    slots: int = number(0, least=0)
    max_steps: int = number(0, least=0)
    seed: int = number(0, least=0)
    output: str = ""
    engine: str = ""
    threads: int = number(1, least=0)
    device: str = "cpu"
    probe: str = choice("", PROBES, optional=True)
    similarity: bool = True
    allow: list[str] = field(default_factory=list)


MAY_CHANGE_ON_RESUME = (
    "total_frames",
    "run",
    "resume",
    "allow",
    "display",
    "stop_at_success",
    "log_seconds",
    "log_frames",
    "checkpoint_seconds",
    "keep_checkpoints",
    "milestone_frames",
    "device",
    "precision",
    "learner.compile",
    "learner.staging",
    "learner.num_processes",
    "runtime.name",
    "runtime.num_actors",
    "runtime.address",
    "runtime.actors_per_group",
    "runtime.cpus_per_actor",
    "runtime.inference",
    "runtime.cuda_graphs",
    "runtime.actor_threads",
    "runtime.learner_threads",
    "runtime.buffers_per_actor",
    "runtime.reset_patience",
    "runtime.hang_seconds",
    "runtime.memory_limit",
    "runtime.recycle_episodes",
    "runtime.max_restarts",
    "runtime.restart_window",
)
"""Keys whose change leaves the experiment what it is. `resume=true` refuses a different value of any other."""

FORMER_VALUES: dict[str, dict[Any, Any]] = {
    "learner.optimizer": {"rmsprop_tf": "rmsprop"},
    "initialization": {"sonnet": "torch"},
}
"""By key, what presets give now and what they gave before. `resume=true` with such a preset goes on with what the run has."""
