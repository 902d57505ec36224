"""The suite `metaworld`: the 50 manipulation tasks of Meta-World v3 with one robot arm, and the sets MT10, MT25 and MT50.

An observation is a vector of 39 numbers: the hand, the gripper and the objects now and one step before, and the goal, which is visible as
in the multi-task benchmarks. An action moves the hand and the gripper. An episode lasts 500 steps, and is a success if any of them
reaches the goal. Object and goal are drawn anew for every episode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.engines.envpool_engine import Family
from envs.envpool_families.suite import EnvpoolConfig, SuiteFamily, envpool_suite
from envs.spec import ArraySpec, Split
from envs.suite import check_size

# fmt: off
_MT10 = (
    "reach-v3", "push-v3", "pick-place-v3", "door-open-v3", "drawer-open-v3", "drawer-close-v3",
    "button-press-topdown-v3", "peg-insert-side-v3", "window-open-v3", "window-close-v3",
)
_MT25 = (
    *_MT10, "coffee-pull-v3", "pick-out-of-hole-v3", "disassemble-v3", "pick-place-wall-v3", "basketball-v3",
    "stick-pull-v3", "button-press-wall-v3", "faucet-open-v3", "door-lock-v3", "lever-pull-v3", "sweep-into-v3",
    "faucet-close-v3", "coffee-button-v3", "button-press-topdown-wall-v3", "dial-turn-v3",
)
TASKS: tuple[str, ...] = (
    "assembly-v3", "basketball-v3", "bin-picking-v3", "box-close-v3", "button-press-topdown-v3",
    "button-press-topdown-wall-v3", "button-press-v3", "button-press-wall-v3", "coffee-button-v3", "coffee-pull-v3",
    "coffee-push-v3", "dial-turn-v3", "disassemble-v3", "door-close-v3", "door-lock-v3", "door-open-v3",
    "door-unlock-v3", "hand-insert-v3", "drawer-close-v3", "drawer-open-v3", "faucet-open-v3", "faucet-close-v3",
    "hammer-v3", "handle-press-side-v3", "handle-press-v3", "handle-pull-side-v3", "handle-pull-v3", "lever-pull-v3",
    "pick-place-wall-v3", "pick-out-of-hole-v3", "pick-place-v3", "plate-slide-v3", "plate-slide-side-v3",
    "plate-slide-back-v3", "plate-slide-back-side-v3", "peg-insert-side-v3", "peg-unplug-side-v3", "soccer-v3",
    "stick-push-v3", "stick-pull-v3", "push-v3", "push-wall-v3", "push-back-v3", "reach-v3", "reach-wall-v3",
    "shelf-place-v3", "sweep-into-v3", "sweep-v3", "window-open-v3", "window-close-v3",
)
# fmt: on

PRESETS: dict[str, tuple[str, ...]] = {"mt10": _MT10, "mt25": _MT25, "mt50": TASKS}
"""The sets of Meta-World, in its order."""

DIFFERENT: dict[str, str] = dict.fromkeys(
    (
        "button-press-topdown-wall-v3",
        "door-lock-v3",
        "pick-place-v3",
        "push-back-v3",
        "soccer-v3",
        "sweep-into-v3",
        "sweep-v3",
    ),
    "its rewards are not those of metaworld 3.1.1",
)
"""Tasks that envpool plays in another way than the package `metaworld` -> difference. A test compares all tasks."""

_FIELDS: dict[str, Any] = {
    "observation": {"vector": ArraySpec(shape=(39,), dtype="float32")},
    "num_actions": 4,
    "action_low": (-1.0,) * 4,
    "action_high": (1.0,) * 4,
    "slow": True,
    "has_success": False,
}


@dataclass(kw_only=True, slots=True)
class MetaworldConfig(EnvpoolConfig):
    """Options of the suite `metaworld`.

    Attributes:
        max_episode_steps: Steps of an episode.
    """

    name: str = "metaworld"
    tasks: list[str] = field(default_factory=lambda: ["mt10"])
    max_episode_steps: int = 500


def env_id(task: str) -> str:
    """envpool's id of a task: `pick-place-v3` -> `MetaWorld/PickPlace-v3`."""
    name, _, version = task.rpartition("-")
    return f"MetaWorld/{''.join(word.capitalize() for word in name.split('-'))}-{version}"


def _describe(config: MetaworldConfig, tasks: tuple[str, ...]) -> dict[str, Any]:
    check_size("max_episode_steps", config.max_episode_steps, 1, 1_000_000)
    # 80 actions are a second of simulated time.
    return {**_FIELDS, "action_counts": (4,) * len(tasks), "frame_rates": dict.fromkeys(tasks, 80)}


def _family(config: MetaworldConfig, split: Split) -> Family:
    return Family(
        env_id=env_id,
        options={"partially_observable": False, "max_episode_steps": config.max_episode_steps},
        show=lambda seen: {"vector": seen.astype(np.float32)},
        success="success",
    )


METAWORLD = envpool_suite(
    SuiteFamily(
        name="metaworld",
        config=MetaworldConfig,
        tasks=TASKS,
        presets=PRESETS,
        kind="task",
        since="1.2.5",
        describe=_describe,
        family=_family,
        scores={},
        memory=16,
        differences=DIFFERENT,
    )
)
