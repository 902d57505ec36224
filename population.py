"""Trains a population whose members copy each other:  python population.py members=24 [key=value ...]   (README.md; every key:
conf/population_schema.py).

Any key of train.py may be given and holds for every member.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, raise_at_signals, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import sys
from collections.abc import Sequence

from ablation.grid.display import CellDisplay
from ablation.grid.executors import open_executor
from ablation.grid.local_executor import available_cores
from ablation.grid.scheduler import State
from ablation.population.population import Population, PopulationError
from ablation.population.report import summary, table, write_summary
from agents.cli.exit_codes import DONE, FAILED, exit_code, print_text
from agents.run.lock import sole_writer
from agents.setup.plugins import prepare
from conf.allowlist import run_arguments
from conf.arguments.aliases import normalize
from conf.arguments.flags import answer, read_arguments
from conf.command_line import command_of
from conf.loading import compose_population
from conf.population_schema import PopulationConfig, check_population
from system.words import count


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 1 some members failed, 2 bad input, 130 interrupted and saved."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(
        lambda: dispatch(arguments),
        failures=(PopulationError,),
        interrupted="interrupted and saved: the same command continues",
    )


def dispatch(arguments: Sequence[str]) -> int:
    """Trains the population of the arguments. Returns the exit code."""
    typed = read_arguments(arguments, "population")
    prepare(typed)
    if (text := answer(typed, __doc__)) is not None:
        return print_text(text)
    overrides = normalize(typed.overrides, "population")
    config = compose_population(overrides)
    check_population(config, len(available_cores()))
    try:
        return train(config, ["python", "population.py", *overrides])
    except OSError as error:
        # Existing files are intact; each member reports its own write errors.
        raise PopulationError(
            f"the population cannot be written ({error.strerror}): make room or give access, and give the same command again"
        ) from error


def train(config: PopulationConfig, command: Sequence[str]) -> int:
    """Trains or resumes the population and reports. Returns the exit code."""
    population = Population(config)
    with sole_writer(population.folder, key="folder"):
        population.begin(command)
        cells = population.cells(0)
        with CellDisplay(cells, enabled=config.display, pausing=True) as display:
            display.say(f"mimpala: {count(config.members, 'member')} in {population.folder}")
            with open_executor(config, cells, display.say) as executor:
                status = population.train(executor, display.update, display.say)
        content = summary(population.history, population.names)
        written = write_summary(population.folder, content, population.history)
        console = display.console
        console.print(table(content), highlight=False)
        for name, now in status.items():
            if now.state is State.FAILED:
                console.say(f"{name} failed: {now.reason}: the same command tries it again")
        for path in written:
            console.say(f"written: {path}")
        if content["best"]:
            best = run_arguments(str(population.folder / content["best"]), config.env, config.plugins)
            console.verbatim(f"next: {command_of('evaluate')} {best}")
    return FAILED if any(now.state is State.FAILED for now in status.values()) else DONE


if __name__ == "__main__":
    run_program(main)
