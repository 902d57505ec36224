"""The schema of population.py: the keys of train.py and the keys of the population."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from conf.ablate_schema import check_parallel, refuse_keys_of_single_runs
from conf.fields import choice, number
from conf.names import EPISODE_WINDOW, NODE_RUNTIMES
from conf.schema import TrainConfig
from system.errors import InputError


@dataclass(kw_only=True, slots=True)
class PopulationConfig(TrainConfig):
    """Population-based training as in IMPALA (Espeholt et al., 2018, appendix F). The defaults are the paper's values if it states them.

    The keys of train.py apply to every member. `seed` is the population's seed. learner.learning_rate and learner.entropy_cost differ
    between members if they have a range.

    Attributes:
        members: Number of runs.
        burn_in_frames: Frames before the first comparison of members.
        ready_frames: Frames between two comparisons.
        margin: Points by which another member must be better to be copied: points of score, of success in percent, or of return.
        perturb_factor: Factor by which a copied hyperparameter is multiplied or divided.
        perturb_probability: Probability of that perturbation.
        least_episodes: Episodes of every task since its last copy that a member needs to be compared; at most
            conf.names.EPISODE_WINDOW.
        learning_rates: Lowest and highest initial value, log-uniform between; empty = the learner's value, never perturbed.
        entropy_costs: As learning_rates.
        parallel, node_runtime: As in ablate.py.
        folder: Folder of the population; empty = runs/population-<suite>. An existing population continues.
    """

    members: int = number(24, least=2)
    burn_in_frames: int = number(20_000_000, least=0)
    ready_frames: int = number(5_000_000, least=1)
    margin: float = number(5.0, least=0)
    perturb_factor: float = number(1.2, above=1)
    perturb_probability: float = number(1 / 3, least=0, most=1)
    least_episodes: int = number(20, least=1, most=EPISODE_WINDOW)
    learning_rates: list[float] = field(default_factory=lambda: [5e-6, 5e-3])
    entropy_costs: list[float] = field(default_factory=lambda: [5e-5, 1e-2])
    parallel: int = number(0, least=0)
    node_runtime: str = choice("local", NODE_RUNTIMES)
    folder: str = ""


def hyperparameter_ranges(config: PopulationConfig) -> dict[str, tuple[float, float]]:
    """By name in the learner's group, the range of initial values of each hyperparameter that differs between members."""
    given = {"learning_rate": config.learning_rates, "entropy_cost": config.entropy_costs}
    return {name: (values[0], values[1]) for name, values in given.items() if values}


def comparison_frames(config: PopulationConfig) -> list[int]:
    """Frames at which members are compared, and last total_frames, at which no member copies another."""
    first = max(config.burn_in_frames, config.ready_frames)
    return [*range(first, config.total_frames, config.ready_frames), config.total_frames]


def check_population(config: PopulationConfig, cores: int) -> None:
    """Checks conditions on several of the population's own keys; InputError with key, value and the fix."""
    for key in ("learning_rates", "entropy_costs"):
        values = getattr(config, key)
        if values and not (len(values) == 2 and 0 < values[0] <= values[1] < math.inf):
            raise InputError(
                f"{key}={values} is no range: give a lower and a higher end above 0, as {key}=[1e-4,1e-2], or [] to keep the value fixed."
            )
    if not hyperparameter_ranges(config):
        raise InputError("learning_rates=[] and entropy_costs=[] leave nothing to adapt: give a range of one of them.")
    if len(comparison_frames(config)) < 2:
        raise InputError(
            f"total_frames={config.total_frames} is not above burn_in_frames={config.burn_in_frames} and "
            f"ready_frames={config.ready_frames}, so no member would ever be compared: raise it, or lower those."
        )
    check_parallel(config.runtime.name, config.parallel, cores)
    refuse_keys_of_single_runs(config, "the members of a population")
