"""Searches values of the learner's keys:  python search.py 'learner.learning_rate=tag(log,interval(1e-4,1e-2))' trials=20 [key=value ...]

Every key is explained by --help and in conf/search_schema.py. Any key of train.py may be given and holds for every trial. A key of the
learner with several values (learner.optimizer=adam,rmsprop) or a range is searched.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, raise_at_signals, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import sys
from collections.abc import Sequence

from ablation.grid.executors import open_executor
from ablation.grid.local_executor import available_cores
from ablation.search.report import summary, table, write_summary
from ablation.search.search import Search
from agents.cli.exit_codes import DONE, FAILED, exit_code, print_text
from agents.cli.terminal import Terminal
from agents.run.lock import sole_writer
from agents.setup.plugins import prepare
from conf.allowlist import run_arguments
from conf.arguments.aliases import normalize
from conf.arguments.flags import answer, read_arguments
from conf.command_line import command_of
from conf.loading import compose_search, split_space
from conf.search_schema import SearchConfig, check_search
from system.words import count


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 1 some trials failed, 2 bad input, 130 interrupted and saved."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    raise_at_signals()
    return exit_code(lambda: dispatch(arguments), interrupted="interrupted and saved: the same command continues")


def dispatch(arguments: Sequence[str]) -> int:
    """Searches as the arguments say. Returns the exit code."""
    typed = read_arguments(arguments, "search")
    prepare(typed)
    if (text := answer(typed, __doc__)) is not None:
        return print_text(text)
    single, space = split_space(typed.overrides)
    config = compose_search(single)
    check_search(config, space, len(available_cores()))
    return search(config, Search(config, single, space), ["python", "search.py", *normalize(typed.overrides, "search")])


def search(config: SearchConfig, trials: Search, command: Sequence[str]) -> int:
    """Runs or continues the search and reports. Returns the exit code."""
    terminal = Terminal(live=False)
    console = terminal.console
    with sole_writer(trials.folder, key="folder"):
        trials.begin(command)
        terminal.say(f"mimpala: {count(config.trials, 'trial')} in {trials.folder}")
        with open_executor(config, [trials.example()], terminal.say) as executor:
            failed = trials.run(executor, terminal.say)
        content = summary(trials)
        written = write_summary(trials.folder, content)
    console.print(table(content), highlight=False)
    console.say(f"written: {written}")
    if failed:
        console.say(f"{count(len(failed), 'trial')} failed: the same command tries again")
    if content["best"]:
        best = run_arguments(str(trials.folder / content["best"]), config.env, config.plugins)
        console.verbatim(f"next: {command_of('evaluate')} {best}")
    return FAILED if failed else DONE


if __name__ == "__main__":
    run_program(main)
