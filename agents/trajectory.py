"""The data that actors produce and the learner consumes, and the one legend of its shapes.

    T   unroll length                    B   batch: columns, one per slot and unroll
    D   components of an action          K   number of tasks (where no fusion is meant)
    L   tokens of an instruction         S   size of the core state (agents/network/core.py)

A trajectory is a dict of arrays. Everything that is *observed* has T + 1 entries: the last of one unroll is the first of the next.
Everything that *happens between* two observations has T.

    image, vector      [T+1, B, ...]   observation
    instruction        [T+1, B, L]     tokens
    action_mask        [T+1, B, A]     which actions are legal, where environments say so (`EnvSpec.observation`)
    task               [T+1, B]        task id
    reset              [T+1, B]        the core starts afresh here: first observation of an episode
    last_action        [T+1, B]        action that led here; "no action" at a reset (agents/network/actions.py)
    last_reward        [T+1, B]        reward that came with it; 0 at a reset
    core_state         [B, S]          state of the core before observation 0
    action             [T, B]          integers; [T, B, D] integers where actions have several components, and floats where they are
                                       continuous: before the squashing to their bounds; `last_action` alike
    behaviour_log_probs [T, B]         log-probability of the action under the policy that took it
    reward             [T, B]          as the environment gave it, never clipped
    terminated         [T, B]          nothing is bootstrapped: the episode ended for good, or lost a life and goes on (no mask, no reset)
    mask               [T, B]          False where no real transition happened: the environment was resetting, or failed
    episode_return, episode_length, success   [T, B]   of the episode that ended at this step; NaN or 0 elsewhere
    interrupted        [T, B]          the environment failed at this step, or gave a number that is not finite: its episode is broken off
    episode            [B]             number of the episode each slot is in after the unroll: its position in the seed tree

With NEXT_STEP auto-reset an episode that ends at step t leaves its true final observation at t + 1. Its value bootstraps a
truncation. The action at t + 1 is ignored while the environment resets (mask False), and t + 2 is a reset. A reset that takes long may
fill several steps: each is masked and shows the final observation again, and the first observation of the next episode is the reset.

Where the environment fails at step t (`interrupted`), that step is masked like the first of a reset, and the ones after it are its
others: the episode looks as if it had been truncated at step t - 1, whose observation t is the last that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from agents.network.actions import action_distribution
from envs.spec import ArraySpec, EnvSpec

Trajectory = dict[str, Tensor]

OBSERVED = ("image", "vector", "instruction", "action_mask", "task", "reset", "last_action", "last_reward")
"""Keys with T + 1 entries along time."""

PER_COLUMN = ("core_state", "episode")
"""Keys without a time axis."""

EPISODE_STATISTICS = ("episode_return", "episode_length", "success", "interrupted", "episode")
"""Keys that are reported and never learned from."""

COUNTED = ("task", "mask", "episode_return", "episode_length", "success", "interrupted")
"""Keys of which the statistics of a run are made (agents/run/metrics.py)."""


def trajectory_spec(env: EnvSpec, unroll_length: int, slots: int, core_state_size: int) -> dict[str, ArraySpec]:
    """Shape and dtype of every array of a trajectory of `slots` columns."""
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
    return spec


def allocate(spec: Mapping[str, ArraySpec]) -> Trajectory:
    """A trajectory in ordinary memory, zeroed."""
    return {key: torch.zeros(array.shape, dtype=getattr(torch, array.dtype)) for key, array in spec.items()}


def concatenate(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Joins trajectories along their columns: [T+1, b] each -> [T+1, B]. A single one is passed on as it is."""
    if len(trajectories) == 1:
        return trajectories[0]
    return {
        key: torch.cat([trajectory[key] for trajectory in trajectories], dim=0 if key in PER_COLUMN else 1)
        for key in trajectories[0]
    }


def num_bytes(spec: Mapping[str, ArraySpec]) -> int:
    """Memory of one trajectory in bytes."""
    return sum(int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize for array in spec.values())
