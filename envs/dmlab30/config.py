"""The options of the suite `dmlab30`."""

from __future__ import annotations

from dataclasses import dataclass, field

from envs.suite import EnvConfig

STAND_IN = "dummy"
"""Value of `dataset_path` with which the engine shows plain colours instead of pictures."""


@dataclass(kw_only=True, slots=True)
class DMLab30Config(EnvConfig):
    """Options of the suite `dmlab30`. The defaults are the protocol of the published results (Espeholt et al. 2018).

    Attributes:
        action_set: `impala` (9 actions), `extended` (15), `extended_large` (17), `custom`, or the path of a JSON file.
        custom_actions: The vectors of `custom`, seven numbers each.
        action_repeat: Frames played per action.
        width, height: Size of the picture, multiples of 4.
        truncate_at_time_limit: The time limit truncates the episode, so that the value is bootstrapped there.
        renderer: `software` or `hardware`; `hardware` allows one environment per process.
        level_cache: Folder of compiled maps, shared by processes and runs; empty = none.
        level_cache_gigabytes: Maximum size of this folder; the least recently used maps are removed.
        dataset_path: Folder of the pictures that two of the psychlab levels show, or `dummy` for plain colours.
        words: Additional words of the instructions, for levels outside DMLab-30.
        fresh_engine: Whether each episode gets a new engine, so that it is a function of its seed and the actions on every level
            (docs/dmlab.md).
        processes: Whether each environment has its own process (envs/engines/process_engine.py).
    """

    name: str = "dmlab30"
    tasks: list[str] = field(default_factory=lambda: ["starter"])
    action_set: str = "impala"
    custom_actions: list[list[int]] = field(default_factory=list)
    action_repeat: int = 4
    width: int = 96
    height: int = 72
    truncate_at_time_limit: bool = False
    renderer: str = "software"
    level_cache: str = ""
    level_cache_gigabytes: float = 8.0
    dataset_path: str = ""
    words: list[str] = field(default_factory=list)
    fresh_engine: bool = False
    processes: bool = True
