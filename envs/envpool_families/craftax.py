"""The suite `craftax`: Craftax and Craftax-Classic (Matthews et al. 2024, arXiv 2402.16801), worlds in which an agent collects, builds
and fights to unlock achievements.

An observation is the surroundings as numbers (`symbolic`) or as a picture (`pixels`). The reward is that of each achievement when it is
unlocked for the first time in an episode, and a tenth of the change in health. The score is the return in percent of the sum of all
achievements' rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.engines.base import Arrays
from envs.engines.envpool_engine import Family
from envs.envpool_families.suite import EnvpoolConfig, SuiteFamily, envpool_suite
from envs.spec import ArraySpec, Score, Split
from system.errors import InputError, unknown_name

OBSERVATIONS = ("symbolic", "pixels")


class Game(NamedTuple):
    """One of the two games.

    Attributes:
        prefix: Begin of envpool's id.
        actions: Number of actions.
        numbers, picture: Shape of an observation of each kind.
        maximum: Sum of the rewards of all achievements.
    """

    prefix: str
    actions: int
    numbers: tuple[int]
    picture: tuple[int, int, int]
    maximum: int


GAMES: dict[str, Game] = {
    "classic": Game("Craftax-Classic", 17, (1345,), (63, 63, 3), 22),
    "full": Game("Craftax", 43, (8268,), (130, 110, 3), 226),
}


@dataclass(kw_only=True, slots=True)
class CraftaxConfig(EnvpoolConfig):
    """Options of the suite `craftax`.

    Attributes:
        observation: One of OBSERVATIONS.
    """

    name: str = "craftax"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    observation: str = "symbolic"


def _describe(config: CraftaxConfig, tasks: tuple[str, ...]) -> dict[str, Any]:
    if config.observation not in OBSERVATIONS:
        raise unknown_name("env.observation", config.observation, OBSERVATIONS)
    if len(tasks) > 1:
        raise InputError(
            f"env.tasks=[{','.join(tasks)}] are games with different observations: train them in separate runs."
        )
    game, pixels = GAMES[tasks[0]], config.observation == "pixels"
    image, vector = ArraySpec(shape=game.picture, dtype="uint8"), ArraySpec(shape=game.numbers, dtype="float32")
    return {
        "observation": {"image": image} if pixels else {"vector": vector},
        "image_kind": "pixels" if pixels else "none",
        "num_actions": game.actions,
        "action_counts": (game.actions,),
        "has_success": False,
    }


def _picture(seen: NDArray[np.float32]) -> Arrays:
    return {"image": np.rint(seen * 255).astype(np.uint8)}


def _numbers(seen: NDArray[np.float32]) -> Arrays:
    return {"vector": seen}


def _family(config: CraftaxConfig, split: Split) -> Family:
    # The ids with AutoReset show the first observation of the next episode in place of the last one.
    kind = config.observation.capitalize()
    return Family(
        env_id=lambda task: f"{GAMES[task].prefix}-{kind}-v1", show=_picture if kind == "Pixels" else _numbers
    )


SCORES: Mapping[str, Score] = {
    task: Score(random=0.0, human=float(game.maximum), reference="maximum") for task, game in GAMES.items()
}

CRAFTAX = envpool_suite(
    SuiteFamily(
        name="craftax",
        config=CraftaxConfig,
        tasks=tuple(GAMES),
        presets={"starter": ("classic",)},
        kind="game",
        since="1.2.7",
        needs=", which needs Python 3.12 or later",
        describe=_describe,
        family=_family,
        scores=SCORES,
        memory=2,
    )
)
