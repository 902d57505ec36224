"""What every `python -m studies.<name> [key=value ...]` does around its own work: configuration, cells, progress, files, exit codes."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ablation.grid.local_executor import available_cores
from agents.cli.exit_codes import DONE, asks_for_help, exit_code, overrides, show_help
from agents.cli.signals import raise_at_signals
from agents.cli.terminal import TextConsole
from agents.run.folder import provenance
from agents.runtime.processes.process import configure_process
from conf.checks import require
from conf.loading import compose_study, flatten, to_dict
from conf.studies_schema import StudyConfig
from studies.harness.figures import Figure, png
from studies.harness.running import Cell, CellError, Check, Outcome, Play, Result, run, stored, tidy
from studies.harness.tables import markdown
from system.errors import InputError, unknown_name
from system.files import check_links, write_json, write_whole

MOST, MOST_SEEDS = 2**20, 1000
"""Of any number that a study is given, and of its seeds."""
_LINE_SECONDS = 60
"""Between two lines about cells that are under way."""
_SPEED_SECONDS = 600
"""Of the past, that the time left is reckoned from: cells come seldom."""
_SHOW_SECONDS = 1
"""Between two changes of the bar by cells under way: rich reckons with no more than 1,000 of them."""

Config = TypeVar("Config", bound=StudyConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a study found.

    Attributes:
        sentences: what is supported and what is not.
        head, rows: of the one table; `figure` is the one figure.
        numbers: everything that table and figure show, and what the sentences rest on, as plain data.
        texts: by name of their file, what else is to be read.
    """

    sentences: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figure: Figure
    numbers: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study(Generic[Config]):
    """One study.

    Attributes:
        name: of its module and its files under conf/studies.
        about: the text of `--help`.
        check: raises InputError for values that cannot be.
        cells: of a configuration, in the order to run them in: the longest first leaves no core idle at the end.
        play: runs one of them, and keeps how far it has come if it takes long.
        sound: whether a result that is read back from a file is one.
        find: makes the findings from the results of all, by the cells' names.
    """

    name: str
    about: str | None
    check: Callable[[Config], None]
    cells: Callable[[Config], list[Cell]]
    play: Play
    sound: Check
    find: Callable[[Config, Mapping[str, Result]], Findings]


def main(study: Study[Any], arguments: Sequence[str] | None = None) -> int:
    """The program: 0 done, 1 a process was killed, 2 bad input, 130 interrupted; cells that are done are kept."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(
        lambda: begin(study, arguments), failures=(CellError,), interrupted="interrupted: the same command goes on"
    )


def begin(study: Study[Any], arguments: Sequence[str]) -> int:
    """The study with the configuration that the arguments describe. Returns the exit code."""
    if asks_for_help(arguments):
        return show_help(study.about, flatten(to_dict(compose_study(study.name, overrides(arguments)))))
    config = compose_study(study.name, arguments)
    require(config, {"seed": 0, "parallel": 0}, "")
    check_numbers("seeds", [config.seeds], 1, MOST_SEEDS)
    study.check(config)
    folder = Path(config.folder or f"runs/study-{study.name}{'-quick' if config.quick else ''}")
    check_links(folder)
    try:
        conduct(study, config, folder)
    except OSError as error:
        raise InputError(f"folder={folder} cannot be written ({error.strerror}): give another folder=.") from error
    return DONE


def conduct(study: Study[Config], config: Config, folder: Path) -> None:
    """Runs what is not there yet, and writes results.json, table.md, figure.png and the texts.

    Raises:
        CellError, OSError: as `running.run`.
    """
    cells, kept = study.cells(config), folder / "cells"
    outcomes = {cell.name: outcome for cell in cells if (outcome := stored(cell, kept, study.sound))}
    waiting = [cell for cell in cells if cell.name not in outcomes]
    for outcome in outcomes.values():
        tidy(outcome.cell, kept)
    processes = config.parallel or len(available_cores())
    configure_process(1)
    with Bar(study.name, len(cells), len(outcomes), enabled=config.display) as bar:
        for outcome in run(waiting, study.play, kept, processes, bar.look):
            outcomes[outcome.cell.name] = outcome
            bar.advance(outcome)
    findings = study.find(config, {cell.name: outcomes[cell.name].result for cell in cells})
    table = markdown(findings.head, findings.rows)
    sentences = "".join(f"- {sentence}\n" for sentence in findings.sentences)
    write_json(
        folder / "results.json",
        {
            "study": study.name,
            "config": to_dict(config),
            "provenance": provenance(),
            "core_seconds": round(sum(outcome.seconds for outcome in outcomes.values()), 1),
            "findings": {"sentences": list(findings.sentences), **findings.numbers},
            "cells": {cell.name: {"settings": cell.settings, "result": outcomes[cell.name].result} for cell in cells},
        },
    )
    write_whole(folder / "table.md", f"{table}\n{sentences}")
    write_whole(folder / "figure.png", png(findings.figure))
    for name, text in findings.texts.items():
        write_whole(folder / name, text)
    TextConsole().say(f"{table}\n{sentences}\nwritten: {folder}")


def seeds_of(config: StudyConfig) -> list[int]:
    """The seeds of a study."""
    return list(range(config.seed, config.seed + config.seeds))


def check_names(key: str, given: Sequence[str], known: Iterable[str]) -> None:
    """InputError unless these are names that are known, at least one and none twice."""
    known = list(known)
    for name in given:
        if name not in known:
            raise unknown_name(key, name, known)
    _check_list(key, given, ",".join(known))


def check_numbers(key: str, given: Sequence[int], least: int, most: int) -> None:
    """InputError unless these are numbers in range, at least one and none twice."""
    for number in given:
        if not least <= number <= most:
            raise InputError(f"{key}={number} is out of range: give numbers from {least} to {most}.")
    _check_list(key, given, str(least))


def check_above_zero(config: StudyConfig, *keys: str) -> None:
    """InputError unless the values of these keys are numbers above zero, and none that no memory and no patience would do for."""
    for key in keys:
        if not 0 < getattr(config, key) <= MOST:
            raise InputError(f"{key}={getattr(config, key)} is out of range: give a number above 0 and up to {MOST}.")


def check_rates(rates: Sequence[float]) -> None:
    """InputError unless these are learning rates, at least one and none twice."""
    for rate in rates:
        if not 0 < rate <= MOST:
            raise InputError(f"learning_rates={rate} is out of range: give numbers above 0.")
    _check_list("learning_rates", rates, "0.01")


def _check_list(key: str, given: Sequence[object], example: str) -> None:
    if not given or len(set(given)) < len(given):
        listed = ",".join(map(str, given))
        raise InputError(
            f"{key}=[{listed}] is no list of different values: give some, each once, as {key}=[{example}]."
        )


class Bar(AbstractContextManager["Bar"]):
    """How far a study has come: a bar on a terminal; elsewhere a line for each cell, and one a minute for those under way that tell."""

    def __init__(self, name: str, total: int, done: int, *, enabled: bool) -> None:
        self._console = TextConsole()
        self._lines = enabled and not self._console.is_terminal
        self._done, self._total = done, total
        self._parts: dict[str, float] = {}
        self._told, self._shown = time.monotonic(), -math.inf
        columns = (
            *(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn()),
            *(TimeElapsedColumn(), TimeRemainingColumn()),
        )
        self._progress = Progress(
            *columns,
            console=self._console,
            disable=not enabled or self._lines,
            speed_estimate_period=_SPEED_SECONDS,
        )
        self._task = self._progress.add_task(name, total=total, completed=done)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def look(self, cell: Cell, part: float) -> None:
        """This part of a cell is done, from 0 to 1."""
        if cell.name not in self._parts:
            # What it had come to when the study was stopped is no speed of now.
            self._progress.tasks[self._task].completed += part
        self._parts[cell.name] = part
        if time.monotonic() - self._shown >= _SHOW_SECONDS:
            self._show()
        if self._lines and time.monotonic() - self._told >= _LINE_SECONDS:
            self._say("  ".join(f"{name} {int(100 * part)}%" for name, part in self._parts.items()))

    def advance(self, outcome: Outcome) -> None:
        """One more cell is done."""
        self._done += 1
        self._parts.pop(outcome.cell.name, None)
        self._show()
        if self._lines:
            self._say(f"{outcome.cell.name}: {outcome.seconds:.0f} s")

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._progress.update(self._task, completed=self._done + sum(self._parts.values()))

    def _say(self, text: str) -> None:
        self._console.say(f"{text} ({self._done} of {self._total})")
        self._told = time.monotonic()
