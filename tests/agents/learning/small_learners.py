"""Small learners on made-up batches, and all that an update changes in them."""

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
    return torch.cat([parameter.detach().flatten() for parameter in learner.network.parameters()])


def everything(learner: Learner) -> bytes:
    """Parameters, moments of the optimiser, PopArt and the counters of what was learned, to the last bit."""
    file = io.BytesIO()
    state = learner.state_dict()
    state["counters"] = {**state["counters"], "refused": 0}
    # Not its learning rate, which is set anew for every step.
    state["optimizer"] = state["optimizer"]["state"]
    torch.save(state, file)
    return file.getvalue()
