"""The suite `procgen`: the 16 games of the Procgen benchmark (Cobbe et al. 2020, arXiv 1912.01588) in easy mode.

An observation is a picture of 64x64 pixels. A game draws each level from its number. Training plays the first `num_levels` levels,
evaluation all others, so no level is in both. Games have no common goal, so `success` is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from envs.engines.envpool_engine import Family
from envs.envpool_families.suite import EnvpoolConfig, SuiteFamily, envpool_suite
from envs.spec import ArraySpec, Score, Split
from envs.suite import check_size

SCORES: dict[str, Score] = {
    game: Score(random=low, human=high, reference="maximum")
    for game, low, high in (
        ("bigfish", 1, 40),
        ("bossfight", 0.5, 13),
        ("caveflyer", 3.5, 12),
        ("chaser", 0.5, 13),
        ("climber", 2, 12.6),
        ("coinrun", 5, 10),
        ("dodgeball", 1.5, 19),
        ("fruitbot", -1.5, 32.4),
        ("heist", 3.5, 10),
        ("jumper", 3, 10),
        ("leaper", 3, 10),
        ("maze", 5, 10),
        ("miner", 1.5, 13),
        ("ninja", 3.5, 10),
        ("plunder", 4.5, 30),
        ("starpilot", 2.5, 64),
    )
}
"""R_min and R_max of the easy mode, from the appendix "Normalization Constants" of the paper: the return of an agent that does not see
the picture, and the highest return that is possible or was reached.
"""

TASKS = tuple(SCORES)
PRESETS: dict[str, tuple[str, ...]] = {"starter": ("coinrun", "starpilot"), "procgen16": TASKS}

_MOST_LEVELS = 2**31 - 1
"""Number of levels of a game."""

_EASY = 0
_ACTIONS = 15


@dataclass(kw_only=True, slots=True)
class ProcgenConfig(EnvpoolConfig):
    """Options of the suite `procgen`.

    Attributes:
        num_levels: Number of levels of training. 0 = all levels, in training and in evaluation.
    """

    name: str = "procgen"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    num_levels: int = 200


def levels(num_levels: int, split: Split) -> dict[str, int]:
    """The levels of a split as envpool's options: `num_levels` levels from `start_level` on."""
    if split == Split.TRAIN or not num_levels:
        return {"start_level": 0, "num_levels": num_levels}
    return {"start_level": num_levels, "num_levels": _MOST_LEVELS - num_levels}


def _describe(config: ProcgenConfig, tasks: tuple[str, ...]) -> dict[str, Any]:
    check_size("num_levels", config.num_levels, 0, _MOST_LEVELS // 2)
    return {
        "observation": {"image": ArraySpec(shape=(64, 64, 3), dtype="uint8")},
        "image_kind": "pixels",
        "num_actions": _ACTIONS,
        "action_counts": (_ACTIONS,) * len(tasks),
        "frame_rates": dict.fromkeys(tasks, 15),
        "has_success": False,
    }


def _family(config: ProcgenConfig, split: Split) -> Family:
    options = {"distribution_mode": _EASY, "channel_first": False, **levels(config.num_levels, split)}
    return Family(env_id=lambda game: f"{game.capitalize()}Easy-v0", options=options, show=lambda seen: {"image": seen})


PROCGEN = envpool_suite(
    SuiteFamily(
        name="procgen",
        config=ProcgenConfig,
        tasks=TASKS,
        presets=PRESETS,
        kind="game",
        since="1.2.7",
        needs=", which needs Python 3.12 or later",
        describe=_describe,
        family=_family,
        scores=SCORES,
        memory=1,
    )
)
