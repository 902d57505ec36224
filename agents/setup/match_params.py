"""Fair comparison: a form's free dimension, chosen so that the whole agent has as many parameters as a reference (`match_params`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from agents.fusion import FREE_DIMENSIONS, FUSIONS, TORSO
from agents.setup.builder import build_network
from conf.checks import check_fusion
from conf.schema import FusionConfig, TrainConfig
from envs.spec import EnvSpec
from system.errors import InputError

TOLERANCE = 0.01
"""Share of the reference's parameters by which the agent may differ."""

_LARGEST_DIMENSION = 1 << 16


def match_params(config: TrainConfig, env: EnvSpec, reference: FusionConfig | None) -> TrainConfig:
    """The configuration with the free dimension of its fusion set as `match_params` asks; unchanged where that is empty.

    Args:
        reference: the fusion that `match_params` names, at its default sizes (conf.loading.reference_fusion); None for a number.

    Raises:
        InputError: no size comes within TOLERANCE of the reference.
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
            return config
    free = f"fusion.{dimensions[0]} gives {nearest:,} at the nearest" if dimensions else "it has no free size here"
    raise InputError(
        f"match_params={config.match_params} cannot be met: that is {wanted:,} parameters, and with fusion={config.fusion.name} {free}. "
        "Give another fusion.size, or another reference."
    )


def reference_parameters(config: TrainConfig, env: EnvSpec, reference: FusionConfig | None) -> int:
    """The parameters that `match_params` asks for: a number, or the count of this agent with the reference fusion."""
    if reference is None:
        return int(config.match_params)
    sites = reference.sites
    if all((site == TORSO) != (config.match_params in FUSIONS) for site in config.fusion.sites):
        sites = config.fusion.sites
    fusion = dataclasses.replace(reference, sites=sites, size=config.fusion.size)
    check_fusion(fusion)
    return count_parameters(dataclasses.replace(config, fusion=fusion), env)


def count_parameters(config: TrainConfig, env: EnvSpec) -> int:
    """Of the whole agent, without making it."""
    with torch.device("meta"):
        return build_network(config, env).num_parameters


def _fit_dimension(config: TrainConfig, env: EnvSpec, dimension: str, wanted: int) -> tuple[TrainConfig, int]:
    """The configuration whose number of parameters is nearest to `wanted`, by this dimension alone, and that number."""

    def at(value: int) -> TrainConfig:
        fusion: FusionConfig = dataclasses.replace(config.fusion, **{dimension: value})  # type: ignore[arg-type]
        return dataclasses.replace(config, fusion=fusion)

    largest = _last_below(lambda value: count_parameters(at(value), env) <= wanted)
    candidates = [(value, count_parameters(at(value), env)) for value in {max(largest, 1), largest + 1}]
    value, count = min(candidates, key=lambda candidate: abs(candidate[1] - wanted))
    return at(value), count


def _last_below(small_enough: Callable[[int], bool]) -> int:
    """The largest value up to _LARGEST_DIMENSION for which it holds, or 0; it holds up to some value and not from there on."""
    least, most = 0, 1
    while most < _LARGEST_DIMENSION and small_enough(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if small_enough(middle) else (least, middle)
    return least
