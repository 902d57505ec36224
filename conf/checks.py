"""What the values of options may be. What depends on the environments is checked where they are described (envs, agents.setup.builder)."""

from __future__ import annotations

import re
from typing import Any

from agents.fusion import FUSION_NAMES, FUSIONS, KEYS, SITES, SPATIAL_FUSIONS, TORSO
from agents.learning.optimizers import OPTIMIZERS
from agents.learning.rewards import REWARD_TRANSFORMS
from agents.learning.vtrace import PG_BOOTSTRAPS
from agents.network.context import CONTEXTS, TASK_ENCODINGS
from agents.network.core import CORES
from agents.network.initialization import INITIALIZATIONS
from agents.network.torso import TORSOS
from conf.schema import (
    INFERENCE,
    PRECISIONS,
    REDUCTIONS,
    RUNTIMES,
    SWITCHES,
    TASK_SCHEDULES,
    FusionConfig,
    LearnerConfig,
    RuntimeConfig,
    TrainConfig,
)
from system.errors import InputError, unknown_name

_FEATURES = 2**16
MOST = {
    **dict.fromkeys(
        ("fusion.size", "fusion.rank", "fusion.hidden", "core.size", "torso.size", "torso.hidden"), _FEATURES
    ),
    **dict.fromkeys(("context.task_size", "context.word_size", "context.instruction_size"), _FEATURES),
    "fusion.experts": 2**12,
    "fusion.kernel": 255,
    "core.rounds": 100,
    "learner.unroll_length": 2**16,
    "learner.batch_size": 2**20,
    "learner.passes": 2**10,
    "learner.num_processes": 2**12,
    "runtime.num_actors": 2**12,
    "runtime.actors_per_group": 2**12,
    "runtime.cpus_per_actor": 2**12,
    "runtime.slots_per_actor": 2**16,
    "runtime.buffers_per_actor": 2**12,
    "runtime.actor_threads": 2**12,
    "runtime.learner_threads": 2**12,
}
"""The largest value of each size, beyond what anybody trains with."""
MOST_LAYERS = 100


def check_train(config: TrainConfig) -> None:
    """Names and ranges. What depends on the environments is checked where they are described (envs, agents.setup.builder).

    Raises:
        InputError: one sentence with key, value and what would be right.
    """
    for key, value, names in (
        ("fusion", config.fusion.name, FUSION_NAMES),
        ("fusion.keys", config.fusion.keys, KEYS),
        ("context", config.context.name, CONTEXTS),
        ("context.task_encoding", config.context.task_encoding, TASK_ENCODINGS),
        ("core", config.core.name, CORES),
        ("torso", config.torso.name, TORSOS),
        ("runtime", config.runtime.name, RUNTIMES),
        ("runtime.inference", config.runtime.inference, INFERENCE),
        ("runtime.task_schedule", config.runtime.task_schedule, TASK_SCHEDULES),
        ("learner.optimizer", config.learner.optimizer, OPTIMIZERS),
        ("learner.pg_bootstrap", config.learner.pg_bootstrap, PG_BOOTSTRAPS),
        ("learner.reduction", config.learner.reduction, REDUCTIONS),
        ("learner.reward_transform", config.learner.reward_transform, REWARD_TRANSFORMS),
        ("precision", config.precision, PRECISIONS),
        ("initialization", config.initialization, INITIALIZATIONS),
        # Hydra writes what is read as a truth value with a capital.
        ("learner.compile", config.learner.compile.lower(), SWITCHES),
        ("learner.staging", config.learner.staging.lower(), SWITCHES),
        ("runtime.cuda_graphs", config.runtime.cuda_graphs.lower(), SWITCHES),
    ):
        if value not in names:
            raise unknown_name(key, value, names)
    for site in config.fusion.sites:
        if site not in SITES:
            raise unknown_name("fusion.sites", site, SITES)
    check_device(config.device)
    require(
        config,
        {
            "total_frames": 1,
            "seed": 0,
            "keep_checkpoints": 1,
            "milestone_frames": 0,
            "log_seconds": 0,
            "log_frames": 0,
            "checkpoint_seconds": 0,
        },
        "",
    )
    check_sizes(config)
    check_fusion(config.fusion)
    require(config.context, {"task_size": 1, "word_size": 1, "instruction_size": 1}, "context.")
    require(config.core, {"size": 1, "rounds": 1}, "core.")
    require(config.torso, {"size": 1}, "torso.")
    require(
        config.learner,
        {"unroll_length": 1, "batch_size": 0, "passes": 1, "replay_size": 0, "learning_rate": 0, "max_refused": 1},
        "learner.",
    )
    # An epsilon of 0, or one that is 0 in single precision, makes the update of a parameter without a gradient 0 / 0.
    require(config.learner, {"baseline_cost": 0, "entropy_cost": 0, "reward_clip": 0, "epsilon": 1e-20}, "learner.")
    require(config.learner, {"clip_rho": 0, "clip_c": 0, "clip_pg_rho": 0, "max_gradient_norm": 0}, "learner.")
    require(config.runtime, {"learner_threads": 0}, "runtime.")
    require(
        config.runtime, {"num_actors": 0, "slots_per_actor": 1, "actor_threads": 1, "buffers_per_actor": 1}, "runtime."
    )
    require(config.runtime, {"memory_limit": 0, "recycle_episodes": 0, "max_restarts": 0}, "runtime.")
    for key in ("hang_seconds", "restart_window"):
        if not getattr(config.runtime, key) > 0:
            raise InputError(f"runtime.{key}={getattr(config.runtime, key)} is out of range: give seconds, or inf.")
    if config.runtime.name == "serial" and config.runtime.inference == "server":
        raise InputError(
            "runtime.inference=server needs processes of its own and runtime=serial has one: use runtime=local or "
            "runtime.inference=actor."
        )
    check_cluster(config.runtime)
    check_task_weights(config.runtime)
    if not config.runtime.reset_patience >= 0:
        raise InputError(
            f"runtime.reset_patience={config.runtime.reset_patience} is out of range: give seconds, or inf."
        )
    if config.seed >= 2**63:
        raise InputError(f"seed={config.seed} is out of range: give a number below 2**63.")
    if not all(size >= 1 for size in config.torso.hidden):
        raise InputError(f"torso.hidden={config.torso.hidden} is out of range: give numbers of at least 1.")
    for key in ("discounting", "rms_decay", "popart_step_size", "lambda_"):
        value = getattr(config.learner, key)
        if not 0 <= value <= 1:
            raise InputError(f"learner.{key}={value} is out of range: give a number from 0 to 1.")
    if len(config.learner.adam_betas) != 2 or not all(0 <= beta < 1 for beta in config.learner.adam_betas):
        raise InputError(
            f"learner.adam_betas={config.learner.adam_betas} is out of range: give two numbers from 0 to below 1."
        )
    if config.match_params and config.match_params not in FUSION_NAMES and not config.match_params.isdecimal():
        raise unknown_name("match_params", config.match_params, ("a number", *FUSION_NAMES))
    if not 0 <= config.stop_at_success <= 1:
        raise InputError(f"stop_at_success={config.stop_at_success} is out of range: give a number from 0 to 1.")
    require(config.learner, {"num_processes": 1}, "learner.")
    check_columns(config.learner, config.runtime.slots_per_actor)
    check_shares(config.learner, config.runtime)


def check_device(name: str) -> None:
    """Its spelling; whether this machine has it is found out where it is used (agents.setup.plan)."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise InputError(f"device={name} is no device: give auto, cpu, cuda, or cuda:N for the GPU of that number.")


def check_sizes(config: TrainConfig) -> None:
    """Upper bounds: whether a size fits into memory is found out by counting (agents.setup.builder), and a count must come to an end."""
    for key, most in MOST.items():
        group, _, name = key.rpartition(".")
        value = getattr(getattr(config, group), name)
        if max(value if isinstance(value, list) else [value], default=0) > most:
            raise InputError(f"{key}={value} is out of range: give at most {most}.")
    if len(config.torso.hidden) > MOST_LAYERS:
        raise InputError(f"torso.hidden has {len(config.torso.hidden)} layers: give at most {MOST_LAYERS}.")


def check_cluster(runtime: RuntimeConfig) -> None:
    """What belongs to `cluster`."""
    require(runtime, {"actors_per_group": 1, "cpus_per_actor": 0}, "runtime.")
    if runtime.address and runtime.name != "cluster":
        raise InputError(
            f"runtime.address={runtime.address} is not used by runtime={runtime.name}: use runtime=cluster."
        )


def check_task_weights(runtime: RuntimeConfig) -> None:
    """Weights where they are used and nowhere else; their number is checked where the tasks are known."""
    weights, weighted = runtime.task_weights, runtime.task_schedule == "weighted"
    if weighted != bool(weights):
        fix = "give one number for each task" if weighted else "set runtime.task_schedule=weighted, or leave them out"
        raise InputError(
            f"runtime.task_weights={weights} does not fit runtime.task_schedule={runtime.task_schedule}: {fix}."
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise InputError(f"runtime.task_weights={weights} is out of range: give positive finite numbers.")


def check_fusion(fusion: FusionConfig) -> None:
    """Which form can sit where, and the sizes."""
    require(fusion, {"size": 1, "rank": 1, "hidden": 1, "experts": 1, "kernel": 1}, "fusion.")
    if fusion.kernel % 2 == 0:
        raise InputError(f"fusion.kernel={fusion.kernel} is even: give an odd number, so that the map keeps its size.")
    if fusion.spatial and fusion.spatial not in SPATIAL_FUSIONS:
        raise unknown_name("fusion.spatial", fusion.spatial, SPATIAL_FUSIONS)
    flat = [site for site in fusion.sites if site != TORSO]
    if flat and fusion.name not in FUSIONS:
        raise InputError(
            f"fusion={fusion.name} reads the torso's feature map and fusion.sites={flat[0]} has none: use fusion.sites=[torso], or a flat "
            f"form there together with fusion.spatial={fusion.name}."
        )
    spatial = fusion.spatial or fusion.name
    if TORSO in fusion.sites and spatial not in SPATIAL_FUSIONS:
        raise InputError(
            f"fusion={spatial} has no form for the torso's feature map: set fusion.spatial={'|'.join(SPATIAL_FUSIONS)}, or leave torso out "
            "of fusion.sites."
        )
    if fusion.spatial and TORSO not in fusion.sites:
        raise InputError(f"fusion.spatial={fusion.spatial} is not used: add torso to fusion.sites.")


def check_columns(learner: LearnerConfig, slots: int) -> None:
    """What an update is made of: fresh columns that fill whole unrolls, or an even part of one, and replayed ones."""
    fraction, columns = learner.replay_fraction, learner.batch_size or slots
    if not 0 <= fraction < 1:
        raise InputError(f"learner.replay_fraction={fraction} is out of range: give a number from 0 to below 1.")
    replayed = round(fraction * columns)
    fresh = columns - replayed
    # A fraction such as 0.333 stands for a third.
    if not fresh or abs(fraction * columns - replayed) > 0.02:
        raise InputError(
            f"learner.replay_fraction={fraction} of {columns} columns (learner.batch_size={learner.batch_size}) is no whole number "
            "of them, or leaves no fresh one: give a fraction like 0.5 that divides them."
        )
    if fresh % slots and slots % fresh:
        left = f" with learner.replay_fraction={fraction} leaves {fresh} fresh columns, which" if replayed else ""
        raise InputError(
            f"learner.batch_size={learner.batch_size}{left} does not fit runtime.slots_per_actor={slots}: give a multiple or a "
            "divisor of it."
        )
    if learner.replay_size < replayed:
        raise InputError(
            f"learner.replay_size={learner.replay_size} is less than the {replayed} columns that each update draws from it: give "
            f"at least {replayed}, better a hundred times as many."
        )


def check_shares(learner: LearnerConfig, runtime: RuntimeConfig) -> None:
    """Whether all learners get as much: of the columns, fresh and replayed, and of the actors."""
    learners, slots = learner.num_processes, runtime.slots_per_actor
    columns = learner.batch_size or slots
    replayed = round(learner.replay_fraction * columns)
    fresh = columns - replayed
    shared = {
        f"runtime.num_actors={runtime.num_actors}": runtime.num_actors,
        f"learner.batch_size={learner.batch_size} ({fresh} fresh columns)": fresh,
        f"learner.replay_fraction={learner.replay_fraction} ({replayed} of {columns} columns)": replayed,
    }
    for what, number in shared.items():
        if number % learners:
            raise InputError(
                f"{what} cannot be shared out among learner.num_processes={learners}: give a multiple of {learners}."
            )
    share = fresh // learners
    if share % slots and slots % share:
        raise InputError(
            f"learner.num_processes={learners} leaves each learner {share} fresh columns of learner.batch_size={learner.batch_size}, "
            f"which do not fit runtime.slots_per_actor={slots}: change one of the three, so that {share} is a multiple or a divisor "
            f"of the last."
        )


def require(config: Any, least: dict[str, float], prefix: str) -> None:
    for key, bound in least.items():
        value = getattr(config, key)
        # Not `value < bound`: that would let NaN through.
        if not value >= bound or value == float("inf"):
            raise InputError(f"{prefix}{key}={value} is out of range: give a finite number of at least {bound}.")
