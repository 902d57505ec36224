"""Equal numbers of parameters: chooses the free dimension of a fusion so that the agent is as large as a reference (`match_params`)."""

from __future__ import annotations

import bisect
import dataclasses

import torch

from agents.fusion import FREE_DIMENSIONS, FUSIONS, TORSO
from agents.setup.builder import build_network
from conf.checks import check_fusion
from conf.schema import FusionConfig, TrainConfig
from envs.spec import EnvSpec
from system.errors import InputError
from system.words import count

TOLERANCE = 0.01
"""Share of the reference's parameters by which the agent may differ."""

_LARGEST_DIMENSION = 1 << 16
"""Upper bound of the search."""


def match_params(config: TrainConfig, env: EnvSpec, reference: FusionConfig | None) -> TrainConfig:
    """The configuration with the free dimension of its fusion set by `match_params`; unchanged if that is empty.

    `reference` is the fusion that `match_params` names, at its default sizes (conf.loading.reference_fusion); None for a number.
    Raises InputError if no size comes within TOLERANCE of the reference.
    """
    if not config.match_params:
        return config
    wanted = reference_parameters(config, env, reference)
    dimensions = [FREE_DIMENSIONS[config.fusion.name]] if config.fusion.name in FREE_DIMENSIONS else []
    if "core_input" in config.fusion.sites:
        dimensions.append("size")
    nearest = count_parameters(config, env)
    for dimension in dimensions:
        config, nearest = _fit_dimension(config, env, dimension, wanted)
        if abs(nearest - wanted) <= TOLERANCE * wanted:
            check_fusion(config.fusion)
            return config
    free = f"fusion.{dimensions[0]} gives {nearest:,} at the nearest" if dimensions else "it has no free size here"
    raise InputError(
        f"match_params={config.match_params} cannot be met: that is {count(wanted, 'parameter')}, and "
        f"with fusion={config.fusion.name} {free}. Give another fusion.size, or another reference."
    )


def reference_parameters(config: TrainConfig, env: EnvSpec, reference: FusionConfig | None) -> int:
    """The number of parameters that `match_params` requires: that number, or the count of this agent with the reference fusion."""
    if reference is None:
        return int(config.match_params)
    sites = reference.sites
    if all((site == TORSO) != (config.match_params in FUSIONS) for site in config.fusion.sites):
        sites = config.fusion.sites
    fusion = dataclasses.replace(reference, sites=sites, size=config.fusion.size)
    check_fusion(fusion)
    return count_parameters(dataclasses.replace(config, fusion=fusion), env)


def count_parameters(config: TrainConfig, env: EnvSpec) -> int:
    """Parameters of the whole agent, counted on the meta device without memory."""
    with torch.device("meta"):
        return build_network(config, env).num_parameters


def _fit_dimension(config: TrainConfig, env: EnvSpec, dimension: str, wanted: int) -> tuple[TrainConfig, int]:
    """The configuration with the value of `dimension` whose number of parameters is nearest to `wanted`, and that number."""

    def at(value: int) -> TrainConfig:
        fusion: FusionConfig = dataclasses.replace(config.fusion, **{dimension: value})  # type: ignore[arg-type]
        return dataclasses.replace(config, fusion=fusion)

    largest = bisect.bisect_right(
        range(1, _LARGEST_DIMENSION), wanted, key=lambda value: count_parameters(at(value), env)
    )
    candidates = [(value, count_parameters(at(value), env)) for value in {max(largest, 1), largest + 1}]
    value, count = min(candidates, key=lambda candidate: abs(candidate[1] - wanted))
    return at(value), count
