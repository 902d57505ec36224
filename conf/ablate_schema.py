"""The schema of ablate.py: every key of train.py, and those of the grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from conf.fields import check_fields, choice, choices, number
from conf.names import FUSIONS, MEASURES, NODE_RUNTIMES, PROBES
from conf.schema import TrainConfig
from system.errors import InputError


@dataclass(kw_only=True, slots=True)
class AblateConfig(TrainConfig):
    """A grid of runs. The keys of train.py are those of every run; `seed`, `run`, `resume` and `display` belong to the grid.

    Attributes:
        fusions: the first axis, names of agents.fusion.FUSION_NAMES. Any other key becomes an axis by being given several values:
            `core=lstm,mlstm`.
        seeds: how many, from 0, or a list of them.
        parallel: runs at a time, between which the cores this process may use are divided; 0 = one for each core with runtime=serial,
            else one, and with runtime=cluster as many as the cluster has room for.
        node_runtime: with runtime=cluster, which deals out whole runs, the runtime of each of them on its machine: local or serial.
        folder: of the grid; empty = runs/ablate-<suite>. A grid that is there already goes on.
        report: a grid's folder: writes its report anew, runs nothing.
        folders: run folders, or folders of run folders: reports on them in folder= (empty = runs/comparison), runs nothing.
        episodes: of the evaluation, for each task.
        evaluation_seed: root of the evaluation's seeds; all runs play the same episodes.
        greedy: as in evaluate.py.
        probe: as in evaluate.py, for every run; empty = none. Left out where there is a single context.
        measure: what runs are compared by, one of MEASURES. `auto`: the score where every task has one, else success, else return.
        threshold: of the measure, for the frames and seconds that it takes to come there; None = chosen by the results
            (ablation.analysis.efficiency).
    """

    fusions: list[str] = choices(["concat", "gated", "film", "low_rank", "mi"], FUSIONS)
    seeds: Any = 5
    parallel: int = number(0, least=0)
    node_runtime: str = choice("local", NODE_RUNTIMES)
    folder: str = ""
    report: str = ""
    folders: list[str] = field(default_factory=list)
    episodes: int = number(100, least=1)
    evaluation_seed: int = number(0, least=0)
    greedy: bool = False
    probe: str = choice("swap", PROBES, optional=True)
    measure: str = choice("auto", MEASURES)
    threshold: float | None = None


def list_seeds(config: AblateConfig) -> list[int]:
    """The seeds that `config.seeds` means.

    Raises:
        InputError: it is neither a number of seeds nor a list of different ones.
    """
    given = config.seeds
    numbers = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) else given
    whole = isinstance(numbers, list) and all(isinstance(seed, int) and seed >= 0 for seed in numbers)
    if not whole or not numbers or len(set(numbers)) < len(numbers):
        raise InputError(
            f"seeds={given} is not a number of seeds, nor a list of different ones: give seeds=5 or seeds=[3,4], for example."
        )
    return list(numbers)


def check_ablate(config: AblateConfig, cores: int) -> None:
    """Names and ranges of the grid's own keys.

    Raises:
        InputError: one sentence with key, value and what would be right.
    """
    list_seeds(config)
    check_fields(config, inherited=False)
    if not config.fusions or len(set(config.fusions)) < len(config.fusions):
        raise InputError(
            f"fusions=[{','.join(config.fusions)}] is not a list of different fusions: give at least one, and each once."
        )
    check_parallel(config.runtime.name, config.parallel, cores)
    for key in ("seed", "run", "resume"):
        if getattr(config, key):
            fix = (
                "use seeds=[...]"
                if key == "seed"
                else "use folder=..., and the same command again to go on with a grid"
            )
            raise InputError(f"{key}={getattr(config, key)} belongs to one run, not to a grid: {fix}.")


def check_parallel(runtime: str, parallel: int, cores: int) -> None:
    """Refuses more runs at a time than cores; a cluster has cores elsewhere.

    Raises:
        InputError: `parallel` is larger than `cores`.
    """
    if parallel > cores and runtime != "cluster":
        raise InputError(
            f"parallel={parallel} is more than the {cores} cores that may be used here: give at most {cores}."
        )
