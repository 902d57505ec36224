"""The table of suites, and the functions through which the rest of the program uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envs.atari.suite import ATARI
from envs.babyai.suite import BABYAI
from envs.conditional.suite import CONDITIONAL
from envs.dmlab2d.suite import DMLAB2D
from envs.dmlab30.suite import DMLAB30
from envs.envpool_families.craftax import CRAFTAX
from envs.envpool_families.metaworld import METAWORLD
from envs.envpool_families.procgen import PROCGEN
from envs.gymnasium_ids.suite import GYMNASIUM
from envs.spec import EnvSpec, Slot, Split
from envs.suite import EnvConfig, Suite
from envs.vector import MultitaskVectorEnv
from envs.vizdoom.suite import VIZDOOM
from system.errors import InputError, unknown_name

SUITES: dict[str, Suite] = {
    "babyai": BABYAI,
    "conditional": CONDITIONAL,
    "atari": ATARI,
    "vizdoom": VIZDOOM,
    "dmlab2d": DMLAB2D,
    "dmlab30": DMLAB30,
    "metaworld": METAWORLD,
    "procgen": PROCGEN,
    "craftax": CRAFTAX,
    "gymnasium": GYMNASIUM,
}


def get_suite(name: str) -> Suite:
    if name not in SUITES:
        raise unknown_name("env.name", name, SUITES)
    return SUITES[name]


def make_spec(config: EnvConfig) -> EnvSpec:
    """Checks the config and describes its environments without starting any; raises InputError."""
    held_out(config)
    return get_suite(config.name).make_spec(config)


def held_out(config: EnvConfig) -> tuple[str, ...]:
    """The names of the contexts that training leaves out; empty if it leaves none out. Raises InputError if the suite cannot."""
    if not config.holdout and not config.holdout_fraction:
        return ()
    find = get_suite(config.name).holdout
    if find is None:
        given = (
            f"env.holdout=[{','.join(config.holdout)}]"
            if config.holdout
            else f"env.holdout_fraction={config.holdout_fraction}"
        )
        raise InputError(
            f"{given} needs a suite that chooses the contexts of its episodes, and env={config.name} does not: leave it out, or use "
            "env=babyai, or env.tasks=[blend] of env=conditional."
        )
    return find(config)


def settle(config: EnvConfig, spec: EnvSpec) -> Any:
    """The configuration with what `make_spec` found by playing. Saved with a run, it gives the same spec without playing again."""
    return get_suite(config.name).settle(config, spec)


def make_env(config: EnvConfig, spec: EnvSpec, slots: Sequence[Slot], seed: int, split: Split) -> MultitaskVectorEnv:
    """A vector environment with these slots, in this order. `spec` is the result of `make_spec(config)`.

    `seed` is the run seed, from which the seeds of all episodes follow (envs/seeding.py).
    """
    return MultitaskVectorEnv(get_suite(config.name).make_engine(config, spec, slots, split), spec, slots, seed)
