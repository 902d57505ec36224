"""The schema of ablate.py: the keys of train.py and the keys of the grid."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from conf.fields import check_fields, choice, number
from conf.names import FUSIONS, MEASURES, NODE_RUNTIMES, PROBES, TUNE_PER
from conf.schema import TrainConfig
from envs.seeding import MOST_TUNING_SEEDS
from system.errors import InputError
from system.words import count


@dataclass(kw_only=True, slots=True)
class AblateConfig(TrainConfig):
    """A grid of runs. The keys of train.py apply to every run; `seed`, `run`, `resume` and `display` belong to the grid.

    Attributes:
        fusions: Values of the first axis, names of agents.fusion.FUSION_NAMES. Several values make any other key an axis too:
            `core=lstm,mlstm`.
        widths: Values of a further axis, factors of the sizes of torso, fusion and core (ablation/grid/widths.py); empty = no such axis.
        seeds: Number of seeds, from 0, or a list of seeds.
        parallel: Number of runs at a time, which share the cores of this process; 0 = one per core with runtime=serial, as many as fit
            with runtime=cluster, otherwise one.
        node_runtime: Runtime of each run on its node if runtime=cluster places whole runs: local or serial.
        folder: Folder of the grid; empty = runs/ablate-<suite>. An existing grid continues.
        report: Folder of a finished grid: writes its report again and starts no run.
        folders: Run folders, or folders of run folders: writes a report on them in `folder` (empty = runs/comparison) and starts no run.
        curves: With `folders`: draws their learning curves instead, also of runs that are unfinished or not evaluated, in `folder` (empty =
            runs/curves).
        episodes: Evaluation episodes per task.
        evaluation_seed: Root of the evaluation seeds; all runs play the same episodes.
        greedy, probe: As in evaluate.py, for every run. A probe is skipped if there is one context only.
        measure: Measure of the comparison, one of MEASURES. `auto`: the score if every task has one, else success, else return.
        threshold: Value of the measure for "frames and seconds to threshold"; None = chosen from the results
            (ablation.analysis.efficiency).
        tune: By key, the values to choose from before the grid runs: every variant, or run, gets the best combination of its own on
            tuning runs with other seeds and evaluation episodes (ablation/grid/tuning.py). None = no tuning.
        tune_per: `seed`: every run has a choice of its own, so that the intervals hold the uncertainty of the choice. `variant`: all runs
            of a variant share one choice, which costs less, and the comparison is about the chosen values.
        tune_seeds: Tuning runs of each combination for one choice.
        tune_fraction: Frames of a tuning run, as a share of total_frames.
    """

    fusions: list[str] = choice(["concat", "gated", "film", "low_rank", "mi"], FUSIONS)
    widths: list[float] = number([], above=0, most=2**8)
    seeds: Any = 5
    parallel: int = number(0, least=0)
    node_runtime: str = choice("local", NODE_RUNTIMES)
    folder: str = ""
    report: str = ""
    folders: list[str] = field(default_factory=list)
    curves: bool = False
    episodes: int = number(100, least=1)
    evaluation_seed: int = number(0, least=0)
    greedy: bool = False
    probe: str = choice("swap", PROBES, optional=True)
    measure: str = choice("auto", MEASURES)
    threshold: float | None = None
    tune: Any = None
    tune_per: str = choice("seed", TUNE_PER)
    tune_seeds: int = number(1, least=1, most=MOST_TUNING_SEEDS)
    tune_fraction: float = number(0.25, above=0, most=1)


def list_seeds(config: AblateConfig) -> list[int]:
    """The seeds of the grid: `config.seeds`, or 0 to n - 1 if that is a number n. InputError if it is neither that nor different seeds."""
    given = config.seeds
    seeds = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) else given
    are_seeds = isinstance(seeds, list) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not are_seeds or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(
            f"seeds={given} is not a number of seeds, nor a list of different ones: give seeds=5 or seeds=[3,4], for example."
        )
    return list(seeds)


def check_ablate(config: AblateConfig, cores: int) -> None:
    """Checks the bounds of all keys, and the grid's own keys; InputError with key, value and the fix."""
    list_seeds(config)
    check_fields(config)
    if not config.fusions or len(set(config.fusions)) < len(config.fusions):
        raise InputError(
            f"fusions=[{','.join(config.fusions)}] is not a list of different fusions: give at least one, and each once."
        )
    if len(set(config.widths)) < len(config.widths):
        raise InputError(f"widths={config.widths} is not a list of different widths: give each once.")
    check_parallel(config.runtime.name, config.parallel, cores)
    if config.curves and not config.folders:
        raise InputError("curves=true draws the learning curves of run folders: give them as folders=[...].")
    unused = [] if config.tune else [option for option in fields(config) if option.name.startswith("tune_")]
    for option in unused:
        if (value := getattr(config, option.name)) != option.default:
            raise InputError(f"{option.name}={value} is not used: give 'tune={{<key>: [<values>]}}', or leave it out.")
    again = "use folder=..., and the same command again to continue a grid"
    for key, fix in {"seed": "use seeds=[...]", "run": again, "resume": again}.items():
        if getattr(config, key):
            raise InputError(f"{key}={getattr(config, key)} belongs to one run, not to a grid: {fix}.")


def check_parallel(runtime: str, parallel: int, cores: int) -> None:
    """Refuses more parallel runs than cores, except on a cluster, which has other cores."""
    if parallel > cores and runtime != "cluster":
        raise InputError(
            f"parallel={parallel} is more than the {count(cores, 'core')} that may be used here: give at most {cores}."
        )


def refuse_keys_of_single_runs(config: TrainConfig, of: str) -> None:
    """Refuses keys of train.py that a program sets for each of its runs, or that its runs have no use for. `of`: which runs."""
    again = "use folder=..., and the same command again to continue"
    unused = dict.fromkeys(("stop_at", "stop_at_success", "evaluate_every"), "leave it out")
    for key, fix in {"run": again, "resume": again, **unused}.items():
        if getattr(config, key):
            raise InputError(f"{key}={getattr(config, key)} is not for {of}: {fix}.")
