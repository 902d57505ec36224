"""Agents for comparisons between CPU and GPU."""

from __future__ import annotations

import copy

import torch
from fakes import ACTIONS, fake_config, fake_env, fake_network
from pretended_gpu import GPU, host

from agents.fusion import FUSIONS
from agents.fusion.spatial import SPATIAL_FUSIONS
from agents.learning.learner import Learner
from agents.network.core import CORES
from agents.setup.builder import build_learner
from conf.schema import TrainConfig
from envs.spec import EnvSpec

T, B, SLOTS = 5, 4, 4
"""T and B of a batch, and the number of slots."""


def config_of(**options: object) -> TrainConfig:
    """With an optimiser whose steps are small for gradients near 0, whose sign depends on rounding."""
    return fake_config(epsilon=1e-2, **options)  # type: ignore[arg-type]


def agents() -> dict[str, tuple[EnvSpec, TrainConfig]]:
    """Cases that cover every fusion, core, kind of actions and torso."""
    grid = fake_env(image=(7, 7, 3), kind="symbolic")
    pixels = fake_env(image=(24, 28, 3), kind="pixels")
    found = {f"fusion-{name}": (fake_env(), config_of(fusion=name)) for name in sorted(FUSIONS)}
    found |= {f"core-{name}": (fake_env(), config_of(core=name)) for name in CORES}
    found |= {f"actions-{name}": (fake_env(actions=name), config_of(fusion="film")) for name in ACTIONS}
    sites = ("torso", "core_input")
    for name in SPATIAL_FUSIONS:
        config = config_of(fusion="gated", spatial=name, sites=sites)
        found[f"map-{name}"] = grid, config
    for torso in ("shallow", "deep", "impoola"):
        found[f"torso-{torso}"] = pixels, config_of(fusion="concat", torso=torso)
    for width in (0.0, 2.0):
        options = {"value_loss": "hl_gauss", "popart_step_size": 0.9, "critic_width": width}
        found[f"values-{width}"] = fake_env(), config_of(fusion="mi", **options)
    found["no context"] = fake_env(), config_of(fusion="concat", context="none")
    found["rmsprop"] = fake_env(), config_of(optimizer="rmsprop", reduction="sum", popart=False)
    return found


AGENTS = agents()


def two_learners(env: EnvSpec, config: TrainConfig) -> tuple[Learner, Learner]:
    """Two learners with equal parameters, on the CPU and on the GPU."""
    network = fake_network(env, config)
    return build_learner(config, env, copy.deepcopy(network)), build_learner(config, env, network.to(GPU))


def assert_equal_parameters(one: Learner, other: Learner, **tolerance: float) -> None:
    for left, right in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(host(right.detach()), left.detach(), **(tolerance or {"rtol": 1e-3, "atol": 1e-4}))
