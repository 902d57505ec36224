"""The axis `widths` of a grid: the sizes of an agent, multiplied by a width, and matched in number at each width."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar

from agents.setup.match_params import match_params
from conf.checks import check_train
from conf.loading import reference_fusion
from conf.schema import FusionConfig, TrainConfig
from envs.spec import EnvSpec
from system.errors import InputError

WIDENED = {"torso": ("size", "hidden"), "fusion": ("size", "rank", "hidden"), "core": ("size",)}
"""By group, the keys that a width multiplies. `critic_width` and `actor_width` are multiples of `core.size` themselves.

Numbers of experts and heads, kernels, and what the agent is told (`context`) stay, because they are no layer's width.
"""

Group = TypeVar("Group")


def fit_to_width(train: TrainConfig, env: EnvSpec, width: float | None) -> TrainConfig:
    """The configuration at this width (None: the given sizes), with its fusion matched to that of `match_params` at the same width.

    Raises InputError if a size is not valid, or `match_params` cannot be met.
    """
    if width is None:
        return match_params(train, env, reference_fusion(train))
    if train.match_params.isdecimal():
        raise InputError(
            f"match_params={train.match_params} is one size for all widths, and they are to have different ones: name a fusion, as "
            "match_params=mi, or leave it out."
        )
    reference = reference_fusion(train)
    wide = dataclasses.replace(
        train, **{name: _widen(getattr(train, name), keys, width) for name, keys in WIDENED.items()}
    )
    try:
        check_train(wide)
        return match_params(wide, env, reference and widen_fusion(reference, width))
    except InputError as error:
        raise InputError(f"At widths=[{width:g}]: {error}") from error


def widen_fusion(fusion: FusionConfig, width: float) -> FusionConfig:
    """The fusion with the sizes that it has at this width."""
    return _widen(fusion, WIDENED["fusion"], width)


def _widen(group: Group, keys: Iterable[str], width: float) -> Group:
    """A group of the configuration whose sizes are multiplied, rounded, and at least 1."""

    def widened(size: Any) -> Any:
        return list(map(widened, size)) if isinstance(size, list) else max(1, round(size * width))

    return dataclasses.replace(group, **{key: widened(getattr(group, key)) for key in keys})  # type: ignore[type-var]
