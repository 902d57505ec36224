"""The child process of mimpala/programs.py: runs one program and writes its outcome as JSON to a file.

    python -P -m mimpala.worker <program> <descriptor of the file> <process id of the caller> <request as JSON>

The outcome is what the program's function below returns, or `refused` or `failed` with the reason.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, end_with_the_parent, raise_at_signals, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from system.errors import InputError, RunError

Request = dict[str, Any]


def train(request: Request) -> Request:
    """Trains with `overrides`. Returns the `folder` of the run, and in `allow` what the overrides name (conf/allowlist.py)."""
    from ablation.grid.entry_points import load_entry_point
    from agents.run.layout import default_run
    from agents.setup.plugins import prepare
    from conf.allowlist import external_names
    from conf.arguments.flags import read_arguments
    from conf.loading import compose_train

    prepare(read_arguments(request["overrides"], "train"))
    config = compose_train(request["overrides"])
    load_entry_point("train").run(request["overrides"])
    allow = [*config.allow, *config.plugins, *external_names(config.env)]
    return {"folder": config.run or default_run(config, request["overrides"]), "allow": allow}


def evaluate(request: Request) -> Request:
    """Evaluates `run` with `overrides` and `allow`. Returns the `path` of the result."""
    from ablation.grid.entry_points import load_entry_point
    from agents.evaluation.report import results_folder
    from agents.setup.plugins import prepare
    from agents.storage.checkpoint import find_checkpoint
    from conf.arguments.flags import read_arguments
    from conf.loading import compose_evaluate

    prepare(read_arguments(request["overrides"], "evaluate"))
    config = compose_evaluate([*request["overrides"], f"run={request['run']}"])
    config.allow += request["allow"]
    if config.watch:
        raise InputError("watch=true has no result: use the command mimpala evaluate.")
    run = Path(config.run)
    folder = results_folder(run, find_checkpoint(run, lambda sentence: None))
    load_entry_point("evaluate").evaluate(config)
    return {"path": config.output or str(folder / "evaluation.json")}


def export(request: Request) -> Request:
    """Exports `run` with `overrides` and `allow`. Returns the `path` of the folder."""
    from conf.loading import compose_export
    from mimpala.hub import export_agent

    config = compose_export([*request["overrides"], f"run={request['run']}"])
    config.allow += request["allow"]
    export_agent(config)
    return {"path": config.output}


PROGRAMS: dict[str, Callable[[Request], Request]] = {"train": train, "evaluate": evaluate, "export": export}


def main() -> int:
    """Returns 0 if the outcome was written."""
    name, descriptor, parent, request = sys.argv[1:]
    # A run whose caller dies is saved.
    end_with_the_parent(int(parent), signal.SIGTERM)
    # Processes of the run have no use for the file.
    os.set_inheritable(int(descriptor), False)
    raise_at_signals()
    content = json.loads(request)
    # The command that a run's provenance.json states.
    sys.argv = ["mimpala", name, *content["overrides"]]
    try:
        outcome = PROGRAMS[name](content)
    except InputError as error:
        outcome = {"refused": str(error)}
    except RunError as error:
        outcome = {"failed": "\n".join([str(error), *getattr(error, "__notes__", ())])}
    except KeyboardInterrupt:
        outcome = {"failed": "interrupted"}
    with open(int(descriptor), "w", encoding="utf-8") as file:
        json.dump(outcome, file)
    return 0


if __name__ == "__main__":
    run_program(main)
