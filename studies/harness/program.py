"""The program of every study, `python -m studies.<name> [key=value ...]`: configuration, jobs, progress, result files, exit codes.

A study is a grid of jobs (jobs.py). Its axes are keys of the configuration that list values, and each combination of values is a job.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from ablation.analysis.numbers import duration
from ablation.grid.local_executor import available_cores
from ablation.report.drawing import Panel, draw
from agents.cli.exit_codes import DONE, asks_for_help, exit_code, print_text
from agents.cli.signals import raise_at_signals
from agents.cli.terminal import Terminal, TextConsole
from agents.run.provenance import provenance
from agents.runtime.processes.process import configure_process
from conf.arguments.help import help_text
from conf.fields import check_fields
from conf.loading import compose_study, to_dict
from conf.studies_schema import StudyConfig, TunedConfig
from studies.harness.jobs import CheckResult, Job, JobError, Outcome, Play, Result, Settings, run, stored
from studies.harness.rates import (
    FIRST_TUNING_SEED,
    RATE,
    Costs,
    best_rate,
    compare_rates,
    describe_edges,
    place_of,
    search_table,
)
from studies.harness.report import markdown
from system.errors import InputError, unknown_name
from system.files import check_links, write_json, write_whole

_LINE_SECONDS = 60
"""Interval between two lines about running jobs."""

Config = TypeVar("Config", bound=StudyConfig)
Results = Mapping[tuple[Any, ...], Result]
"""The result of each job, by its values on the axes of the study."""
Outcomes = dict[tuple[Any, ...], Outcome]


class Findings(NamedTuple):
    """The conclusions of a study.

    Attributes:
        sentences: The claims. Each states if it is supported.
        head, rows: Head and rows of the table.
        panels: Panels of the figure.
        variants: Names in the legend of the figure.
        numbers: The numbers of table, figure and sentences as plain data.
        texts: Contents of further files, by file name.
    """

    sentences: tuple[str, ...]
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    panels: Sequence[Panel]
    variants: Sequence[str]
    numbers: Mapping[str, Any]
    texts: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Study(Generic[Config]):
    """One study: a grid of jobs and the conclusions from their results.

    Attributes:
        name: Name of the module, and of its schema.
        about: The text of `--help`.
        axes: Key of a job's settings -> key of the configuration that lists its values, in the order of the job's name. With an axis of
            "seeds" there is a job for each seed. Without one each job has the list of all seeds.
        choices: Key of the configuration -> the names that it may list.
        check: Raises InputError for values that fail further checks.
        extra: Settings that are the same for all jobs, besides those of the configuration.
        order: From a job's values on the axes to a sort key. Jobs with a small key start first.
        play: Runs a job.
        check_result: See CheckResult.
        validation: The cost of a result's validation data, by which learning rates are chosen; the lower the better. For studies with an
            axis "learning_rate".
        find: Makes the findings from the results of the jobs; of those with a learning rate, from those with the chosen one.
    """

    name: str
    about: str | None
    axes: Mapping[str, str]
    choices: Mapping[str, Sequence[str]]
    check: Callable[[Config], None] = lambda config: None
    extra: Callable[[Config], Settings] = lambda config: {}
    order: Callable[[tuple[Any, ...]], Any] = lambda values: 0
    play: Play
    check_result: CheckResult
    validation: Callable[[Result], float] = lambda result: 0.0
    find: Callable[[Config, Results], Findings]


def main(study: Study[Any], arguments: Sequence[str] | None = None) -> int:
    """Runs the program. Returns 0 done, 1 a process was killed, 2 bad input, 130 interrupted; results of finished jobs are kept."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()

    def run_study() -> int:
        if asks_for_help(arguments):
            given = [argument for argument in arguments if not argument.startswith("-")]
            return print_text(help_text(study.about, compose_study(study.name, given), {}, {}))
        config = compose_study(study.name, arguments)
        check_config(study, config)
        folder = Path(config.folder or f"runs/study-{study.name}{'-quick' if config.quick else ''}")
        check_links(folder)
        try:
            conduct(study, config, folder)
        except OSError as error:
            raise InputError(f"folder={folder} cannot be written ({error.strerror}): give another folder=.") from error
        return DONE

    return exit_code(run_study, failures=(JobError,), interrupted="interrupted: the same command resumes")


def conduct(study: Study[Config], config: Config, folder: Path) -> None:
    """Runs the jobs without a stored result, and writes results.json, table.md, figure.png and the texts."""
    axes, tuning_seeds, jobs = list(study.axes), tuning_seeds_of(config), make_jobs(study, config, folder)
    costs: Costs = {}
    tuning: Outcomes = {}
    if tuning_seeds:
        tuning = perform(study, config, make_jobs(study, config, folder, tuning_seeds), f"{study.name}, tuning")
        costs = compare_rates(axes, results_of(tuning), study.validation)
        jobs = {values: job for values, job in jobs.items() if _is_chosen(axes, costs, values)}
    outcomes = perform(study, config, jobs, study.name)
    if RATE in axes and not tuning_seeds:
        costs = compare_rates(axes, results_of(outcomes), study.validation)
    chosen = {values: result for values, result in results_of(outcomes).items() if _is_chosen(axes, costs, values)}
    write_findings(study, config, folder, study.find(config, chosen), costs, outcomes, tuning)


def _is_chosen(axes: Sequence[str], costs: Costs, values: tuple[Any, ...]) -> bool:
    """Whether a job has the chosen learning rate of its place, or its study none."""
    return RATE not in axes or values[axes.index(RATE)] == best_rate(costs[place_of(axes, values)])


def results_of(outcomes: Outcomes) -> Results:
    """The results alone."""
    return {values: outcome.result for values, outcome in outcomes.items()}


def perform(study: Study[Config], config: Config, jobs: Mapping[tuple[Any, ...], Job], title: str) -> Outcomes:
    """Runs the jobs without a stored result. The outcomes of all, by their values on the axes."""
    for folder in {job.folder for job in jobs.values()}:
        folder.mkdir(parents=True, exist_ok=True)
    outcomes = {job.name: outcome for job in jobs.values() if (outcome := stored(job, study.check_result))}
    for outcome in outcomes.values():
        # A process that was killed after it had written the result has not removed its checkpoint.
        outcome.job.checkpoint().remove()
    configure_process(1)
    with ProgressBar(title, len(jobs), len(outcomes), enabled=config.display) as bar:
        missing = [job for job in jobs.values() if job.name not in outcomes]
        for outcome in run(missing, study.play, config.parallel or len(available_cores()), bar.update):
            outcomes[outcome.job.name] = outcome
            bar.finish(outcome)
    return {values: outcomes[job.name] for values, job in jobs.items()}


def write_findings(
    study: Study[Config],
    config: Config,
    folder: Path,
    findings: Findings,
    costs: Costs,
    outcomes: Outcomes,
    tuning: Outcomes,
) -> None:
    """Writes the files of the findings, and prints tables and sentences. `costs` come from `tuning`, if that is not empty."""
    sentences = [*findings.sentences, *filter(None, [describe_edges(costs)])]
    text = markdown(findings.head, findings.rows)
    text += "".join(["\n", *(f"- {sentence}\n" for sentence in sentences)])
    if any(len(by_rate) > 1 for by_rate in costs.values()):
        seeds = tuning_seeds_of(config) or seeds_of(config)
        text += f"\nCost of the validation data by learning rate, mean over seeds {seeds[0]} to {seeds[-1]}:\n\n"
        text += markdown(*search_table(list(study.axes), costs))
    write_json(
        folder / "results.json",
        {
            "study": study.name,
            "config": to_dict(config),
            "provenance": provenance(),
            "core_seconds": round(sum(outcome.seconds for outcome in [*outcomes.values(), *tuning.values()]), 1),
            "findings": {"sentences": sentences, **findings.numbers},
            "learning_rates": [
                {"place": list(place), "chosen": best_rate(by_rate), "validation": [*map(list, by_rate.items())]}
                for place, by_rate in costs.items()
            ],
            **{
                part: {
                    outcome.job.name: {"settings": outcome.job.settings, "result": outcome.result}
                    for outcome in own.values()
                }
                for part, own in (("cells", outcomes), ("tuning", tuning))
            },
        },
    )
    write_whole(folder / "table.md", text)
    write_whole(folder / "figure.png", draw(findings.panels, "study", findings.variants).png)
    for name, content in findings.texts.items():
        write_whole(folder / name, content)
    TextConsole().verbatim(f"{text}\nwritten: {folder}")


def make_jobs(
    study: Study[Config], config: Config, folder: Path, tuning_seeds: Sequence[int] = ()
) -> dict[tuple[Any, ...], Job]:
    """The jobs by their values on the axes, in the order of execution. `tuning_seeds` replace the seeds of the study.

    Jobs with later values of an axis usually take longer. They start first, so that no core is idle at the end. `Study.order` has
    priority over this.
    """
    # Key of the configuration -> its values, for each axis.
    seeds = list(tuning_seeds) or seeds_of(config)
    listed = {key: seeds if key == "seeds" else getattr(config, key) for key in study.axes.values()}
    grid = list(itertools.product(*listed.values()))[::-1]
    grid.sort(key=study.order)
    not_shared = {*listed, *(key.name for key in fields(TunedConfig))}
    shared = {key: value for key, value in to_dict(config).items() if key not in not_shared} | study.extra(config)
    if "seeds" not in listed:
        shared["seeds"] = seeds
    return {
        values: Job(
            name="-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values),
            settings=dict(zip(study.axes, values, strict=True)) | shared,
            folder=folder / ("tuning" if tuning_seeds else "cells"),
        )
        for values in grid
    }


def seeds_of(config: StudyConfig) -> list[int]:
    """The seeds of a study: `seeds` numbers from `seed`."""
    return list(range(config.seed, config.seed + config.seeds))


def tuning_seeds_of(config: StudyConfig) -> list[int]:
    """The further seeds on which learning rates are compared; empty if the study's own are taken."""
    first = config.seed + FIRST_TUNING_SEED
    return list(range(first, first + config.tuning_seeds)) if isinstance(config, TunedConfig) else []


def check_config(study: Study[Config], config: Config) -> None:
    """Raises InputError for values that the study does not accept."""
    check_fields(config)
    for key, names in study.choices.items():
        for name in getattr(config, key):
            if name not in names:
                raise unknown_name(key, name, names)
    defaults = to_dict(type(config)())
    for key, values in to_dict(config).items():
        if isinstance(values, list) and (not values or len(set(values)) < len(values)):
            given, example = (",".join(map(str, listed)) for listed in (values, defaults[key]))
            raise InputError(
                f"{key}=[{given}] is no list of different values: give some, each once, as {key}=[{example}]."
            )
    study.check(config)


class ProgressBar(Terminal):
    """Progress of a study with `total` jobs, `done` of them finished before, as a context manager.

    On a terminal it shows a bar. Elsewhere it prints a line for each finished job, and one a minute about running jobs.
    """

    def __init__(self, name: str, total: int, done: int, *, enabled: bool) -> None:
        super().__init__(live=enabled)
        self._prints_lines = enabled and not self.is_live
        self._done, self._total = done, total
        # By name of a running job: its finished part, from 0 to 1.
        self._parts: dict[str, float] = {}
        # The work of earlier processes, which does not count as speed.
        self._earlier = float(done)
        self._started = self._printed_at = time.monotonic()
        columns = (BarColumn(None), TaskProgressColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(
            TextColumn(name), *columns, TextColumn("{task.fields[left]}"), console=self.console, expand=True
        )
        self._task = self._bar.add_task("", total=total, completed=done, left="")
        self.show(self._bar)

    def update(self, job: Job, part: float) -> None:
        """Records the finished part of a running job, from 0 to 1."""
        if job.name not in self._parts:
            self._earlier += part
        self._parts[job.name] = part
        self._advance()
        if self._prints_lines and time.monotonic() - self._printed_at >= _LINE_SECONDS:
            self._print("  ".join(f"{name} {int(100 * part)}%" for name, part in self._parts.items()))

    def finish(self, outcome: Outcome) -> None:
        """Counts a finished job."""
        self._done += 1
        self._parts.pop(outcome.job.name, None)
        self._advance()
        if self._prints_lines:
            self._print(f"{outcome.job.name}: {outcome.seconds:.0f} s")

    def _advance(self) -> None:
        """Updates the bar, with the remaining time at the average speed so far."""
        completed = self._done + sum(self._parts.values())
        gained, elapsed = completed - self._earlier, time.monotonic() - self._started
        left = f"about {duration(elapsed * (self._total - completed) / gained)} left" if gained > 0 else ""
        self._bar.update(self._task, completed=completed, left=left)

    def _print(self, text: str) -> None:
        """Prints a line that ends with the number of finished jobs."""
        self.say(f"{text} ({self._done} of {self._total})")
        self._printed_at = time.monotonic()
