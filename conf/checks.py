"""Conditions on several options at once. The bounds and choices of a single option are declared in conf/schema.py.

Conditions that depend on the environments are checked in envs and agents.setup.
"""

from __future__ import annotations

import re

from conf.fields import check_fields
from conf.names import FLAT_FUSIONS, FUSIONS, SPATIAL_FUSIONS, THRESHOLDS, TORSO_SITE
from conf.schema import ContextConfig, FusionConfig, LearnerConfig, RuntimeConfig, TrainConfig
from system.errors import InputError, unknown_name
from system.words import count


def check_train(config: TrainConfig) -> None:
    """Checks every option of a run. All checks here raise InputError, one sentence with key, value and the fix."""
    check_fields(config)
    check_device(config.device)
    check_fusion(config.fusion)
    check_context(config.context)
    if config.runtime.name == "serial" and config.runtime.inference == "server":
        raise InputError(
            "runtime.inference=server needs separate processes and runtime=serial has one: use runtime=local or "
            "runtime.inference=actor."
        )
    if config.runtime.address and config.runtime.name != "cluster":
        raise InputError(
            f"runtime.address={config.runtime.address} is not used by runtime={config.runtime.name}: use runtime=cluster."
        )
    # agents.setup.plan.check_schedule checks the number of weights.
    weights, weighted = config.runtime.task_weights, config.runtime.task_schedule == "weighted"
    if weighted != bool(weights):
        fix = "give one number for each task" if weighted else "set runtime.task_schedule=weighted, or leave them out"
        raise InputError(
            f"runtime.task_weights={weights} does not fit runtime.task_schedule={config.runtime.task_schedule}: {fix}."
        )
    check_thresholds(config)
    if config.match_params and config.match_params not in FUSIONS and not config.match_params.isdecimal():
        raise unknown_name("match_params", config.match_params, ("a number", *FUSIONS))
    if config.match != "parameters" and not config.match_params:
        raise InputError(f"match={config.match} is not used: give match_params=<fusion>, or leave it out.")
    if config.learner.value_loss == "hl_gauss" and not config.learner.popart:
        raise InputError(
            "learner.value_loss=hl_gauss places its bins by PopArt's moments and learner.popart=false has none: use learner.popart=true or "
            "learner.value_loss=mse."
        )
    check_columns(config.learner, config.runtime)


def check_thresholds(config: TrainConfig) -> None:
    """Checks the names and numbers of `stop_at`. Whether the tasks have scores is checked in agents.setup.preflight."""
    thresholds = config.stop_at
    if thresholds is None:
        return
    if not isinstance(thresholds, dict):
        raise InputError(f"stop_at={thresholds} is no mapping: write {{success: 0.9}}.")
    for measure, least in thresholds.items():
        if measure not in THRESHOLDS:
            raise unknown_name("stop_at", measure, THRESHOLDS)
        if type(least) not in (int, float) or not -1e30 < least < 1e30:
            raise InputError(f"stop_at.{measure}={least} is no finite number: give the least mean over tasks.")
    if config.stop_at_success and thresholds:
        raise InputError(
            f"stop_at_success={config.stop_at_success} and stop_at={thresholds} are given together: give stop_at alone."
        )


def check_device(name: str) -> None:
    """Checks the spelling of `device`. agents.setup.machine.resolve_device checks that this machine has it."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise InputError(f"device={name} is not a device: give auto, cpu, cuda, or cuda:N for the GPU of that number.")


def check_fusion(fusion: FusionConfig) -> None:
    """Checks that each site has a form that fits it, the kernel's size, and that the experts of `moore` can be orthogonal."""
    if fusion.kernel % 2 == 0:
        raise InputError(f"fusion.kernel={fusion.kernel} is even: give an odd number, so that the map keeps its size.")
    flat = [site for site in fusion.sites if site != TORSO_SITE]
    if flat and fusion.name not in FLAT_FUSIONS:
        raise InputError(
            f"fusion={fusion.name} reads the torso's feature map and fusion.sites={flat[0]} has none: use fusion.sites=[torso], or a flat "
            f"form there together with fusion.spatial={fusion.name}."
        )
    if flat and fusion.name == "moore" and fusion.hidden < fusion.experts:
        raise InputError(
            f"fusion.hidden={fusion.hidden} has no room for fusion.experts={fusion.experts} orthogonal experts: give fusion=moore at least "
            "as many hidden units as experts."
        )
    spatial = fusion.spatial or fusion.name
    if TORSO_SITE in fusion.sites and spatial not in SPATIAL_FUSIONS:
        raise InputError(
            f"fusion={spatial} has no form for the torso's feature map: set fusion.spatial={'|'.join(SPATIAL_FUSIONS)}, or leave torso out "
            "of fusion.sites."
        )
    if fusion.spatial and TORSO_SITE not in fusion.sites:
        raise InputError(f"fusion.spatial={fusion.spatial} is not used: add torso to fusion.sites.")


def check_context(context: ContextConfig) -> None:
    """Checks that a table comes with its encoder, that the instruction is read, and that noise has a context."""
    uses_table = context.encoder == "table"
    if uses_table != bool(context.table):
        fix = "give context.table=<file>" if uses_table else "set context.encoder=table, or leave the table out"
        raise InputError(f"context.table={context.table} does not fit context.encoder={context.encoder}: {fix}.")
    for key in ("noise", "dropout"):
        if (value := getattr(context, key)) and context.name == "none":
            raise InputError(f"context.{key}={value} needs a context and context=none has none: leave it out.")
    if uses_table and context.name not in ("instruction", "both"):
        raise InputError(
            f"context.encoder=table reads instructions and context={context.name} has none: use context=instruction or context=both."
        )


def check_columns(learner: LearnerConfig, runtime: RuntimeConfig) -> None:
    """Checks that fresh and replayed columns are whole numbers, and that they and the actors divide evenly among the learners.

    Also checks that the fresh ones of all learners and of each fill unrolls or an even part of one.
    """
    learners, slots = learner.num_processes, runtime.slots_per_actor
    fraction, columns = learner.replay_fraction, learner.batch_size or slots
    replayed = round(fraction * columns)
    fresh = columns - replayed
    # Accepts rounded fractions such as 0.333 for a third.
    if not fresh or abs(fraction * columns - replayed) > 0.02:
        raise InputError(
            f"learner.replay_fraction={fraction} of {count(columns, 'column')} (learner.batch_size={learner.batch_size}) is no whole "
            "number of them, or leaves no fresh one: give a fraction like 0.5 that divides them."
        )
    if fresh % slots and slots % fresh:
        left = (
            f" with learner.replay_fraction={fraction} leaves {count(fresh, 'fresh column')}, which" if replayed else ""
        )
        raise InputError(
            f"learner.batch_size={learner.batch_size}{left} does not fit runtime.slots_per_actor={slots}: give a multiple or a "
            "divisor of it."
        )
    if learner.replay_size < replayed:
        raise InputError(
            f"learner.replay_size={learner.replay_size} is less than the {count(replayed, 'column')} that each update draws from it: give "
            f"at least {replayed}, better a hundred times as many."
        )
    shared = {
        f"runtime.num_actors={runtime.num_actors}": runtime.num_actors,
        f"learner.batch_size={learner.batch_size} ({count(fresh, 'fresh column')})": fresh,
        f"learner.replay_fraction={fraction} ({replayed} of {count(columns, 'column')})": replayed,
    }
    for what, number in shared.items():
        if number % learners:
            raise InputError(
                f"{what} cannot be shared out among learner.num_processes={learners}: give a multiple of {learners}."
            )
    share = fresh // learners
    if share % slots and slots % share:
        raise InputError(
            f"learner.num_processes={learners} leaves each learner {count(share, 'fresh column')} of "
            f"learner.batch_size={learner.batch_size}, which does not fit runtime.slots_per_actor={slots}: change one of the three, "
            f"so that {share} is a multiple or a divisor of the last."
        )
