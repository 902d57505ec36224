"""Equal sizes: chooses the free dimension of a fusion so that the agent has as many parameters, or multiply-adds, as with a reference
(`match_params`, `match`).
"""

from __future__ import annotations

import bisect
import dataclasses

import torch

from agents.fusion import FREE_DIMENSIONS, FUSIONS, TORSO
from agents.network.flops import multiply_adds
from agents.setup.builder import build_network
from conf.checks import check_fusion
from conf.schema import FusionConfig, TrainConfig
from envs.spec import EnvSpec
from system.errors import InputError
from system.words import count

TOLERANCE = 0.01
"""Share of the reference's count by which the agent may differ."""

_LARGEST_DIMENSION = 1 << 16
"""Upper bound of the search."""

_NOUNS = {"parameters": "parameter", "multiply_adds": "multiply-add"}


def match_params(config: TrainConfig, env: EnvSpec, reference: FusionConfig | None) -> TrainConfig:
    """The configuration with the free dimension of its fusion set by `match_params`; unchanged if that is empty.

    `reference` is the fusion that `match_params` names, at its default sizes (conf.loading.reference_fusion) or those of a width; None for
    a number. Raises InputError if no size comes within TOLERANCE of the reference.
    """
    if not config.match_params:
        return config
    wanted = reference_count(config, env, reference)
    dimensions = [FREE_DIMENSIONS[config.fusion.name]] if config.fusion.name in FREE_DIMENSIONS else []
    if "core_input" in config.fusion.sites:
        dimensions.append("size")
    # A hypernetwork's hidden layer, for example, adds no multiply-add to a step.
    dimensions = [dimension for dimension in dimensions if _counts(config, env, dimension)]
    nearest = count_matched(config, env)
    for dimension in dimensions:
        config, nearest = _fit_dimension(config, env, dimension, wanted)
        if abs(nearest - wanted) <= TOLERANCE * wanted:
            check_fusion(config.fusion)
            return config
    free = f"fusion.{dimensions[0]} gives {nearest:,} at the nearest" if dimensions else "it has no free size here"
    raise InputError(
        f"match_params={config.match_params} cannot be met: that is {count(wanted, _NOUNS[config.match])}, and "
        f"with fusion={config.fusion.name} {free}. Give another fusion.size, or another reference."
    )


def reference_count(config: TrainConfig, env: EnvSpec, reference: FusionConfig | None) -> int:
    """The count that `match_params` requires: that number, or the one of this agent with the reference fusion."""
    if reference is None:
        return int(config.match_params)
    sites = reference.sites
    if all((site == TORSO) != (config.match_params in FUSIONS) for site in config.fusion.sites):
        sites = config.fusion.sites
    fusion = dataclasses.replace(reference, sites=sites, size=config.fusion.size)
    check_fusion(fusion)
    return count_matched(dataclasses.replace(config, fusion=fusion), env)


def count_matched(config: TrainConfig, env: EnvSpec) -> int:
    """What `config.match` counts of the whole agent."""
    return count_parameters(config, env) if config.match == "parameters" else count_multiply_adds(config, env)


def count_parameters(config: TrainConfig, env: EnvSpec) -> int:
    """Parameters of the whole agent, counted on the meta device without memory."""
    with torch.device("meta"):
        return build_network(config, env).num_parameters


def count_multiply_adds(config: TrainConfig, env: EnvSpec) -> int:
    """Multiply-adds of one acting step of the whole agent with a cached context. No weights are drawn."""
    with torch.device("meta"):
        network = build_network(config, env)
    network.to_empty(device="cpu")
    # Buffers may hold indices, parameters do not.
    for buffer in network.buffers():
        buffer.zero_()
    return multiply_adds(network, env).apply


def _counts(config: TrainConfig, env: EnvSpec, dimension: str) -> bool:
    """Whether the count depends on this dimension of the fusion."""
    return len({count_matched(_with_dimension(config, dimension, value), env) for value in (1, 2)}) > 1


def _with_dimension(config: TrainConfig, dimension: str, value: int) -> TrainConfig:
    fusion: FusionConfig = dataclasses.replace(config.fusion, **{dimension: value})  # type: ignore[arg-type]
    return dataclasses.replace(config, fusion=fusion)


def _fit_dimension(config: TrainConfig, env: EnvSpec, dimension: str, wanted: int) -> tuple[TrainConfig, int]:
    """The configuration with the value of `dimension` whose count is nearest to `wanted`, and that count."""

    def count_at(value: int) -> int:
        return count_matched(_with_dimension(config, dimension, value), env)

    # Doubling first: multiply-adds are counted on a network in memory, and the largest dimension would not fit.
    most = 1
    while most < _LARGEST_DIMENSION and count_at(most) <= wanted:
        most *= 2
    largest = most // 2 + bisect.bisect_right(range(most // 2 + 1, most), wanted, key=count_at)
    candidates = [(value, count_at(value)) for value in {max(largest, 1), largest + 1}]
    value, found = min(candidates, key=lambda candidate: abs(candidate[1] - wanted))
    return _with_dimension(config, dimension, value), found
