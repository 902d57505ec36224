"""The schema of search.py: the keys of train.py and the keys of the search."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf.ablate_schema import check_parallel, refuse_keys_of_single_runs
from conf.fields import choice, number
from conf.names import EPISODE_WINDOW, NODE_RUNTIMES
from conf.schema import TrainConfig
from system.errors import InputError


@dataclass(kw_only=True, slots=True)
class SearchConfig(TrainConfig):
    """A search for values of the learner's keys. The keys of train.py apply to every trial, and `seed` is the seed of each.

    Attributes:
        trials: Number of runs, pruned ones included.
        comparisons: How often a trial is compared with the others, at equal distances in frames; the last time is its end.
        prune: Whether a trial that is below the median of the others at a comparison ends there.
        least_episodes: Episodes of every task that a trial needs to be compared; at most conf.names.EPISODE_WINDOW.
        parallel, node_runtime: As in ablate.py.
        folder: Folder of the search; empty = runs/search-<suite>. An existing search continues.
    """

    trials: int = number(20, least=1, most=10_000)
    comparisons: int = number(4, least=1, most=100)
    prune: bool = True
    least_episodes: int = number(20, least=1, most=EPISODE_WINDOW)
    parallel: int = number(0, least=0)
    node_runtime: str = choice("local", NODE_RUNTIMES)
    folder: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """The values of one key that are searched: `choices`, as typed, or the numbers from `low` to `high`, ends included.

    Attributes:
        step: Distance of two numbers; 0 = any number between the ends, or any whole number if the key needs one.
        log: Whether the logarithm is uniform.
    """

    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    log: bool = False

    def ends(self) -> tuple[str, ...]:
        """Values that are valid if all of them are: the choices, or both ends."""
        return self.choices or (str(self.low), str(self.high))


def check_search(config: SearchConfig, space: dict[str, Domain], cores: int) -> None:
    """Checks the space and conditions on the search's own keys; InputError with key, value and the fix."""
    if not space:
        raise InputError(
            "search.py needs a key to search: give a range, as learner.learning_rate=tag(log,interval(1e-4,1e-2)), or values, as "
            "learner.optimizer=adam,rmsprop."
        )
    for key, domain in space.items():
        if not key.startswith("learner."):
            raise InputError(
                f"{key} is not a key of the learner: search keys of learner, and compare others by ablate.py."
            )
        numbers = (domain.low, domain.high, domain.step)
        if not domain.choices and not (
            all(map(math.isfinite, numbers)) and domain.low < domain.high and domain.step >= 0
        ):
            raise InputError(f"{key} has no range from a lower to a higher number: write {key}=interval(low,high).")
        if domain.log and domain.low <= 0:
            raise InputError(f"{key} has a logarithmic range from {domain.low}: give a lower end above 0.")
    check_parallel(config.runtime.name, config.parallel, cores)
    refuse_keys_of_single_runs(config, "the trials of a search")
