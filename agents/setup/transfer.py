"""Starts a run from the agent of another one (`init=`), with other tasks.

What depends on no task is kept. What belongs to a task (rows of the context, of PopArt, of the value head, of the moments of observations,
and of a head per task) is kept for the tasks that both runs have, by name, and starts afresh for the others. Optimiser, counters,
statistics and random streams are those of a new run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.cli.terminal import warn
from agents.learning.learner import Learner
from agents.setup.builder import build_network
from agents.storage.checkpoint import env_from_dict, find_checkpoint, load_checkpoint
from agents.storage.exported import is_exported
from conf.composition import flatten
from conf.loading import to_dict, train_from_dict
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.spec_changes import interface_changes, listed
from system.errors import InputError

_NETWORK_KEYS = ("fusion.", "context.", "core.", "torso.", "actor_width", "critic_width", "env.normalize_observation")
_HEAD_KEYS = ("learner.popart", "learner.value_loss", "learner.value_bins", "learner.value_bound")
"""Keys, or beginnings of keys, that determine what the weights of an agent mean."""
_FREE_KEYS = ("context.noise", "context.dropout")
"""Keys among them that do not: an agent may go on under noise."""


def start_from(config: TrainConfig, env: EnvSpec, learner: Learner) -> dict[str, Any]:
    """Copies the agent that `config.init` names into `learner`, as far as the tasks are the same.

    Returns the record of the origin, plain data: `init`, `checkpoint`, its `updates` and `frames`, and the `kept` and `fresh` tasks.

    Raises InputError if the checkpoint cannot be read (agents/storage), or if observations, actions, vocabulary or the network's
    configuration differ.
    """
    init = config.init
    path = find_checkpoint(Path(init), warn, key="init")
    if is_exported(path):
        raise InputError(
            f"init={init} is an exported agent, which has no moments of its values: give the run folder or the checkpoint."
        )
    content = load_checkpoint(path)
    before = train_from_dict(content["config"], f"checkpoint {path}")
    source = env_from_dict(content["env"])
    if changes := interface_changes(source, env):
        raise InputError(
            f"init={init} was trained in other environments: {listed(changes)}: give tasks with the same observations, actions and "
            "vocabulary."
        )
    if changes := _setting_changes(before, config):
        raise InputError(f"init={init} is another network: {listed(changes)}: give the settings of that run.")
    try:
        saved = content["learner"]
        updates, steps = (int(saved["counters"][name]) for name in ("updates", "steps"))
        copy_agent(saved, source.tasks, config, env, learner)
    except (LookupError, ArithmeticError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"init={init}: the checkpoint does not fit its configuration ({reason}): use another one."
        ) from error
    return {
        "init": init,
        "checkpoint": str(path),
        "updates": updates,
        "frames": steps * source.action_repeat,
        "kept": [task for task in env.tasks if task in source.tasks],
        "fresh": [task for task in env.tasks if task not in source.tasks],
    }


def copy_agent(
    saved: Mapping[str, Any], source: Sequence[str], config: TrainConfig, env: EnvSpec, learner: Learner
) -> None:
    """Copies the network and PopArt's moments of `saved`, a learner's state with the tasks `source`, into the new `learner`.

    Raises KeyError or ValueError if a tensor is missing or has another shape.
    """
    kept = {number: source.index(task) for number, task in enumerate(env.tasks) if task in source}
    tasks = _Tasks(kept, len(env.tasks), len(source))
    blocks, own = _task_blocks(config, env), learner.objective.state_dict()
    network = {
        name: tasks.merge(name, tensor, saved["network"][name], *blocks[name])
        for name, tensor in learner.network.state_dict().items()
    }
    # A checkpoint of an earlier version may lack some of the moments, which then start afresh.
    popart = {name: tasks.merge(name, own[name], moment, 0, 1) for name, moment in saved["popart"].items()}
    learner.network.load_state_dict(network)
    learner.objective.load_state_dict(own | popart)


class _Tasks(NamedTuple):
    """The tasks of both runs: for each kept task its number here and there, and how many tasks there are here and there."""

    kept: dict[int, int]
    here: int
    there: int

    def merge(self, name: str, own: Tensor, saved: Tensor, axis: int, width: int) -> Tensor:
        """`own` with the entries of `saved` that are kept.

        Args:
            axis: The axis along which the first entries belong to the tasks in turn, `width` to each, and the others to none.
            width: 0: no entry belongs to a task.

        Raises ValueError if `saved` has another shape.
        """
        shape = list(own.shape)
        if width:
            shape[axis] += width * (self.there - self.here)
        if list(saved.shape) != shape:
            raise ValueError(f"{name} is {list(saved.shape)} and would be {shape}")
        if not width:
            return saved
        merged = own.clone()
        shared = own.shape[axis] - width * self.here
        merged.narrow(axis, width * self.here, shared).copy_(saved.narrow(axis, width * self.there, shared))
        for here, there in self.kept.items():
            merged.narrow(axis, width * here, width).copy_(saved.narrow(axis, width * there, width))
        return merged


def _task_blocks(config: TrainConfig, env: EnvSpec) -> dict[str, tuple[int, int]]:
    """The arguments `axis` and `width` of `_Tasks.merge` for each tensor of the network: how its shape grows with one more task.

    The encoding of the task is the first part of a context (ContextEncoder), and layers with a part for each task have them in turn.
    """
    more = dataclasses.replace(env, tasks=(*env.tasks, ""), action_counts=(*env.action_counts, env.num_actions))
    with torch.device("meta"):
        networks = [build_network(config, spec).state_dict() for spec in (env, more)]
    blocks = {}
    for name, tensor in networks[0].items():
        grown = [b - a for a, b in zip(tensor.shape, networks[1][name].shape, strict=True)]
        axes = [axis for axis, width in enumerate(grown) if width]
        if len(axes) > 1:
            raise ValueError(f"{name} has several axes with tasks")
        axis = axes[0] if axes else 0
        blocks[name] = axis, grown[axis] if grown else 0
    return blocks


def _setting_changes(before: TrainConfig, now: TrainConfig) -> list[str]:
    """The keys of the network whose values differ, each with both values."""
    keys = (*_NETWORK_KEYS, *_HEAD_KEYS[: 4 if now.learner.value_loss == "hl_gauss" else 2])
    olds, news = flatten(to_dict(before)), flatten(to_dict(now))
    return [
        f"{key} was {olds.get(key)} and is {value}"
        for key, value in news.items()
        if key.startswith(keys) and key not in _FREE_KEYS and olds.get(key) != value
    ]
