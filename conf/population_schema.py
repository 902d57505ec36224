"""The schema of population.py: every key of train.py, and those of the population."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from conf.ablate_schema import check_parallel
from conf.fields import check_fields, choice, number
from conf.names import EPISODE_WINDOW, NODE_RUNTIMES
from conf.schema import TrainConfig
from system.errors import InputError


@dataclass(kw_only=True, slots=True)
class PopulationConfig(TrainConfig):
    """Population-based training as in IMPALA (Espeholt et al., 2018, appendix F), whose values are the defaults where it states them.

    The keys of train.py are those of every member; `seed` is the population's, and learner.learning_rate and learner.entropy_cost are
    each member's own where they have a range.

    Attributes:
        members: runs that are trained side by side.
        burn_in_frames: before which no member is compared with another.
        ready_frames: between two comparisons.
        margin: points by which another member has to be better to be copied: of the score or of the success in percent, else of the
            return.
        perturb_factor, perturb_probability: what a copied hyperparameter is multiplied or divided by, and how probably it is.
        least_episodes: of every task, since its last copy, that a member is judged by; at most conf.names.EPISODE_WINDOW, which are the
            latest ones.
        learning_rates, entropy_costs: the lowest and the highest value at the start, in between log-uniform; empty = as the learner has
            it, and never perturbed.
        parallel, node_runtime: as in ablate.py.
        folder: of the population; empty = runs/population-<suite>. One that is there already goes on.
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
    """The lowest and the highest first value of every hyperparameter that is a member's own, by its name in the learner's group."""
    given = {"learning_rate": config.learning_rates, "entropy_cost": config.entropy_costs}
    return {name: (values[0], values[1]) for name, values in given.items() if values}


def comparison_frames(config: PopulationConfig) -> list[int]:
    """Frames at which members are compared, and then those at the end, where nobody copies any more."""
    first = max(config.burn_in_frames, config.ready_frames)
    return [*range(first, config.total_frames, config.ready_frames), config.total_frames]


def check_population(config: PopulationConfig, cores: int) -> None:
    """Names and ranges of the population's own keys.

    Raises:
        InputError: one sentence with key, value and what would be right.
    """
    check_fields(config, inherited=False)
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
    for key in ("run", "resume", "stop_at_success"):
        if getattr(config, key):
            fix = "leave it out" if key == "stop_at_success" else "use folder=..., and the same command again to go on"
            raise InputError(f"{key}={getattr(config, key)} is not for the members of a population: {fix}.")
