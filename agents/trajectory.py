"""Trajectories: the data that actors produce and the learner consumes, with the legend of all shapes.

    - T: Unroll length.
    - B: Batch: columns, one per slot and unroll.
    - D: Components of an action.
    - K: Number of tasks (in fusions: output features).
    - L: Tokens of an instruction.
    - S: Size of the core state (agents/network/core.py).

A trajectory is a dict of arrays. *Observations* have T + 1 entries: the last of one unroll is the first of the next. Values *between* two
observations have T entries.

    - image, vector [T+1, B, ...]: Observation.
    - instruction [T+1, B, L]: Tokens.
    - context [T+1, B, V]: The vector with which the suite describes the task.
    - action_mask [T+1, B, A]: Legal actions, if the environment reports them (`EnvSpec.observation`).
    - task [T+1, B]: Task id.
    - context_seed [T+1, B]: Integer above 0 of the episode, from which the noise on its context is drawn (agents/network/context.py). Only
      with context.noise or context.dropout.
    - reset [T+1, B]: First observation of an episode: the core starts from zeros.
    - last_action [T+1, B]: Action that led here; "no action" at a reset (agents/network/actions.py).
    - last_reward [T+1, B]: Reward of that action; 0 at a reset.
    - core_state [B, S]: State of the core before observation 0.
    - action [T, B]: Integers. Several components: integers [T, B, D]. Continuous: floats [T, B, D] before the squashing to their bounds.
      `last_action` likewise.
    - behaviour_log_probs [T, B]: Log-probability of the action under the behaviour policy.
    - reward [T, B]: Reward of the environment, never clipped.
    - terminated [T, B]: No bootstrap: the episode terminated, or a life was lost (without mask and reset).
    - mask [T, B]: False if this is no real transition: the environment was resetting, or failed.
    - episode_return, episode_length, success [T, B]: Of the episode that ended at this step; NaN or 0 elsewhere.
    - interrupted [T, B]: The environment failed here or returned a number that is not finite; its episode is broken off.
    - episode [B]: Number of each slot's episode after the unroll: its position in the seed tree.

With NEXT_STEP auto-reset, an episode that ends at step t has its true final observation at t + 1. The value of that observation bootstraps
a truncation. The action at t + 1 is ignored while the environment resets (mask False), and t + 2 is a reset. A slow reset fills several
steps. Each of them is masked and repeats the final observation.

If the environment fails at step t (`interrupted`), step t and the steps of the restart are masked like a slow reset. The episode looks as
if it had been truncated at step t - 1, with observation t as its last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from agents.network.actions import action_distribution
from envs.spec import ArraySpec, EnvSpec

Trajectory = dict[str, Tensor]

OBSERVED = (
    *("image", "vector", "instruction", "context", "action_mask", "task", "context_seed", "reset", "last_action"),
    "last_reward",
)
"""Keys with T + 1 entries along time."""

PER_COLUMN = ("core_state", "episode")
"""Keys without a time axis."""

EPISODE_STATISTICS = ("episode_return", "episode_length", "success", "interrupted", "episode")
"""Keys that are reported and not used for learning."""

COUNTED = ("task", "mask", "episode_return", "episode_length", "success", "interrupted")
"""Keys that the statistics of a run need (agents/run/metrics.py)."""


def trajectory_spec(
    env: EnvSpec, unroll_length: int, slots: int, core_state_size: int, *, context_seeds: bool = False
) -> dict[str, ArraySpec]:
    """Shape and dtype of every array of a trajectory of `slots` columns, with `context_seeds` those included."""
    observed, between = (unroll_length + 1, slots), (unroll_length, slots)
    actions = action_distribution(env)
    spec = {
        key: ArraySpec(shape=(*observed, *array.shape), dtype=array.dtype) for key, array in env.observation.items()
    }
    if env.instruction_length:
        spec["instruction"] = ArraySpec(shape=(*observed, env.instruction_length), dtype="int32")
    spec |= {
        "task": ArraySpec(shape=observed, dtype="int32"),
        "reset": ArraySpec(shape=observed, dtype="bool"),
        "last_action": ArraySpec(shape=(*observed, *actions.shape), dtype=actions.dtype),
        "last_reward": ArraySpec(shape=observed, dtype="float32"),
        "core_state": ArraySpec(shape=(slots, core_state_size), dtype="float32"),
        "action": ArraySpec(shape=(*between, *actions.shape), dtype=actions.dtype),
        "behaviour_log_probs": ArraySpec(shape=between, dtype="float32"),
        "reward": ArraySpec(shape=between, dtype="float32"),
        "terminated": ArraySpec(shape=between, dtype="bool"),
        "mask": ArraySpec(shape=between, dtype="bool"),
        "episode_return": ArraySpec(shape=between, dtype="float32"),
        "episode_length": ArraySpec(shape=between, dtype="int32"),
        "success": ArraySpec(shape=between, dtype="float32"),
        "interrupted": ArraySpec(shape=between, dtype="bool"),
        "episode": ArraySpec(shape=(slots,), dtype="int64"),
    }
    if context_seeds:
        spec["context_seed"] = ArraySpec(shape=observed, dtype="int32")
    return spec


def allocate(spec: Mapping[str, ArraySpec]) -> Trajectory:
    """A trajectory in ordinary memory, zeroed."""
    return {key: torch.zeros(array.shape, dtype=getattr(torch, array.dtype)) for key, array in spec.items()}


def concatenate(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Joins trajectories along their columns: [T+1, b] each -> [T+1, B]. A single one is returned unchanged."""
    if len(trajectories) == 1:
        return trajectories[0]
    return {
        key: torch.cat([trajectory[key] for trajectory in trajectories], dim=0 if key in PER_COLUMN else 1)
        for key in trajectories[0]
    }


def num_bytes(spec: Mapping[str, ArraySpec]) -> int:
    """Memory of one trajectory."""
    return sum(int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize for array in spec.values())
