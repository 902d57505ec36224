"""Small learners, random batches for them, and the state that an update changes."""

from __future__ import annotations

import io

import torch
from fakes import fake_batch, fake_config, fake_env, fake_network
from torch import Tensor

from agents.learning.learner import Learner
from agents.setup.builder import build_learner
from agents.trajectory import Trajectory

ENV = fake_env()
T, B = 9, 6


def make_learner(seed: int = 0, total_frames: int = 10_000, **options: object) -> Learner:
    config = fake_config(**options)  # type: ignore[arg-type]
    config.total_frames = total_frames
    return build_learner(config, ENV, fake_network(ENV, config, seed))


def make_batch(learner: Learner, seed: int = 0) -> Trajectory:
    return fake_batch(ENV, learner.network.core_state_size, T, B, seed)


def flat(learner: Learner) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in learner.network.parameters()])


def everything(learner: Learner) -> bytes:
    """Parameters, moments of the optimiser, PopArt and counters except `refused`, as bytes to compare."""
    file = io.BytesIO()
    state = learner.state_dict()
    state["counters"] = {**state["counters"], "refused": 0}
    # Without the learning rate, which every update sets.
    state["optimizer"] = state["optimizer"]["state"]
    torch.save(state, file)
    return file.getvalue()
