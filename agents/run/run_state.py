"""The state of a run in a checkpoint: what is saved, and how a resumed run loads it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from agents.learning.learner import Learner
from agents.run.metrics import Statistics
from agents.run.provenance import versions
from agents.runtime.base import StreamPositions
from agents.storage.checkpoint import env_from_dict, env_to_dict
from conf.loading import to_dict
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.spec_changes import interface_changes, listed, other_versions, task_changes
from system.errors import InputError
from system.words import count


def checkpoint_content(
    config: TrainConfig,
    env: EnvSpec,
    learner: Learner,
    statistics: Statistics,
    positions: StreamPositions,
    seconds: float,
    *,
    runtime: dict[str, Any] | None = None,
    faults: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Content of a checkpoint: everything that `restore` and evaluation need, as tensors and plain data.

    `runtime` and `faults` are the `state_dict` of the runtime and of the run's Faults, or None.
    """
    return {
        "config": to_dict(config),
        "env": env_to_dict(env),
        "learner": learner.state_dict(),
        "positions": {"unrolls": dict(positions.unrolls), "episodes": dict(positions.episodes)},
        "runtime": runtime,
        "faults": faults or {},
        "statistics": statistics.state_dict(),
        "rng": torch.get_rng_state(),
        "seconds": seconds,
        "versions": dict(versions()),
    }


class ResumeState(NamedTuple):
    """Resume values that `restore` does not apply itself.

    Attributes:
        seconds: Seconds that the run has taken.
        runtime: State from which the runtime continues step for step; None if it starts new episodes.
        episodes_dropped: Unfinished episodes of the checkpoint that are not continued.
    """

    seconds: float = 0.0
    runtime: dict[str, Any] | None = None
    episodes_dropped: int = 0


def restore(
    content: dict[str, Any],
    config: TrainConfig,
    env: EnvSpec,
    learner: Learner,
    statistics: Statistics,
    positions: StreamPositions,
    *,
    num_actors: int,
) -> ResumeState:
    """Loads a checkpoint's content into `learner`, `statistics`, `positions` and torch's random generator.

    The runtime's state is used only if it is that of `num_actors` actors. Raises InputError if the environments differ from those of the
    checkpoint, or if the content does not fit the configuration.
    """
    saved = env_from_dict(content["env"])
    if changes := [*task_changes(saved, env), *interface_changes(saved, env)]:
        raise InputError(
            f"resume=true: the environments are not those of the checkpoint: {listed(changes)}"
            f"{other_versions(content['versions'], versions())}: install what the run was trained with, or start another run."
        )
    try:
        learner.load_state_dict(content["learner"])
        statistics.load_state_dict(content["statistics"])
        for actor, episodes in content["positions"]["episodes"].items():
            positions.unrolls[int(actor)] = int(content["positions"]["unrolls"][actor])
            positions.episodes[int(actor)] = [int(episode) for episode in episodes]
            if len(episodes) != config.runtime.slots_per_actor:
                raise ValueError(f"actor {actor} had {count(len(episodes), 'slot')}")
        positions.steps.update(statistics.steps())
        torch.set_rng_state(content["rng"])
        runtime = content.get("runtime")
        alone = config.runtime.name == "serial" and config.learner.num_processes == 1
        if runtime and not (alone and len(runtime["actors"]) == num_actors):
            runtime = None
        dropped = 0 if runtime else sum(len(episodes) for episodes in positions.episodes.values())
        return ResumeState(float(content["seconds"]), runtime, dropped)
    except (LookupError, ArithmeticError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        # The first line of torch's message has no reason, so the second is included.
        lines = (str(error).strip() or type(error).__name__).splitlines()
        reason = " ".join(line.strip() for line in lines[:2])
        raise InputError(
            f"resume=true: the checkpoint does not fit its configuration ({reason}): use an earlier one."
        ) from error
