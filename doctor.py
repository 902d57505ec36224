"""Reports what is installed and whether a run would start:  python doctor.py [--json] [key=value ...]   (keys as for train.py).

Without keys it examines the default suite. It plays a few steps of each task, trains nothing and writes nothing.
"""

from __future__ import annotations

from agents.cli.signals import begin_program, run_program

if __name__ == "__main__":
    # The imports below take seconds.
    begin_program()

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.cli.exit_codes import exit_code, print_text
from agents.cli.terminal import TextConsole
from agents.run.folder import resumed_config
from agents.run.layout import check_free, default_run, holds_run
from agents.run.lock import check_writable
from agents.runtime.processes.fork_server import fork_server_context
from agents.setup import builder, machine, preflight
from agents.setup.plan import make_plan
from agents.setup.plugins import prepare
from conf.arguments.aliases import normalize
from conf.arguments.flags import answer, read_arguments
from conf.command_line import command_of
from conf.loading import changed_keys, compose_train, explicit_keys
from conf.schema import TrainConfig
from envs.spec import EnvSpec
from envs.suite import EnvConfig
from envs.suites import SUITES, get_suite, make_spec
from envs.trial import Trial, try_task
from system.errors import InputError
from system.words import count

CAN_RUN, CANNOT_RUN = 0, 1

FEW_OPEN_FILES = 1024
"""The usual limit of Linux for a process. Every tensor that processes share keeps a file open."""
_ABSENT = "not installed"
_IMPORT_SECONDS = 60.0
_PLAY_SECONDS = 60.0


class Engine(NamedTuple):
    """A module that a suite needs and that mimpala does not require: its distribution, the command that installs it, and the values of
    `EnvSpec.engine` that need it.
    """

    package: str
    install: str
    needed_by: tuple[str, ...]


ENGINES: dict[str, Engine] = {
    "envpool": Engine("envpool", 'pip install "mimpala[envpool]"', ("envpool",)),
    "minigrid": Engine("minigrid", 'pip install "mimpala[minigrid]"', ("minigrid",)),
    "ale_py": Engine("ale-py", 'pip install "mimpala[atari]"', ("ale",)),
    "vizdoom": Engine("vizdoom", 'pip install "mimpala[vizdoom]"', ("vizdoom",)),
    "dmlab2d": Engine("dmlab2d", 'pip install "mimpala[dmlab2d]"', ("dmlab2d",)),
    "deepmind_lab": Engine("deepmind_lab", "build it (docs/dmlab.md)", ("deepmind_lab",)),
    "cv2": Engine("opencv-python-headless", 'pip install "mimpala[atari]" or "mimpala[vizdoom]"', ("ale", "vizdoom")),
}
"""Engines by the name of their module."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The program: 0 the run would start, 1 it would not, 2 bad input."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def report() -> int:
        typed = read_arguments([argument for argument in arguments if argument != "--json"], "train")
        prepare(typed)
        if (text := answer(typed, __doc__)) is not None:
            return print_text(text)
        found = examine(normalize(typed.overrides, "train"))
        if "--json" in arguments:
            TextConsole().verbatim(json.dumps(found, indent=2))
        else:
            show(found, TextConsole())
        return CANNOT_RUN if found["run"]["problems"] else CAN_RUN

    return exit_code(report)


def examine(overrides: Sequence[str]) -> dict[str, Any]:
    """The findings as plain data: engines, suites, machine, and the run of `overrides`, which are a valid configuration or InputError."""
    config = compose_train(overrides)
    found: dict[str, Any] = {
        "engines": check_engines(ENGINES),
        "suites": {name: {"problem": find_suite_problem(name)} for name in SUITES},
        "machine": describe_machine(),
        "run": check_run(config, overrides),
    }
    for name, engine in found["engines"].items():
        # A missing engine is already a problem of the suite, unless another engine replaces it.
        if engine["version"] and engine["problem"] and found["run"].get("engine") in ENGINES[name].needed_by:
            found["run"]["problems"].append(f"{name} is installed but cannot be imported ({engine['problem']})")
    return found


def check_engines(wanted: dict[str, Engine]) -> dict[str, dict[str, str]]:
    """For each module: version ("" if not installed), problem ("" if it can be imported) and install command.

    Each import runs in a separate process, several in parallel, because some take seconds and some print or end their process.
    """
    with ThreadPoolExecutor() as threads:
        problems = dict(zip(wanted, threads.map(_import_problem, wanted), strict=True))
    versions = {name: "" if problems[name] == _ABSENT else _version(wanted[name].package) for name in wanted}
    return {
        name: {"version": versions[name], "problem": problems[name], "install": engine.install}
        for name, engine in wanted.items()
    }


def _import_problem(module: str) -> str:
    """The last line that the failed import of a module wrote; empty if it succeeded."""
    if util.find_spec(module) is None:
        return _ABSENT
    command, null = [sys.executable, "-c", f"import {module}"], subprocess.DEVNULL
    try:
        ended = subprocess.run(
            command, stdin=null, stdout=null, stderr=subprocess.PIPE, text=True, timeout=_IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"its import takes longer than {_IMPORT_SECONDS:.0f} s"
    if not ended.returncode:
        return ""
    return (ended.stderr.strip().splitlines() or [f"its import ended Python with code {ended.returncode}"])[-1]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        # Some modules, such as cv2, come from one of several packages.
        return "unknown version"


def find_suite_problem(name: str) -> str:
    """The reason why the suite cannot be played with its defaults; empty if it can."""
    try:
        make_spec(compose_train([f"env={name}"]).env)
    except InputError as error:
        return str(error)
    return ""


def describe_machine() -> dict[str, Any]:
    """Versions, cores, memory, limits (None: unlimited), and the GPUs that torch sees."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": machine.num_cores(),
        "memory": machine.memory(),
        "memory_free": machine.free_memory(),
        "open_files": None if open_files == resource.RLIM_INFINITY else open_files,
        "start_method": fork_server_context().get_start_method(),
        "bf16": machine.has_bf16(),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def check_run(config: TrainConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The plan of `python train.py <overrides>` on this machine, and the problems that keep it from starting."""
    found: dict[str, Any] = {"keys": list(overrides), "suite": config.env.name, "problems": []}
    try:
        config.run = config.run or default_run(config, overrides)
        check_writable(Path(config.run))
        check_free(Path(config.run), resume=config.resume)
        if config.resume and holds_run(Path(config.run)):
            config = resumed_config(config, changed_keys(overrides), explicit_keys(overrides))
        machine.resolve_device(config.device)
        env = make_spec(config.env)
        plan = make_plan(config, env)
        network = builder.build_network(config, env)
        found |= {
            "engine": env.engine,
            "warnings": list(get_suite(env.suite).warnings(env)),
            "remarks": list(get_suite(env.suite).engine_differences(env)),
            "tasks": len(env.tasks),
            "runtime": config.runtime.name,
            "actors": plan.run.num_actors,
            "slots": config.runtime.slots_per_actor,
            "actor_threads": config.runtime.actor_threads,
            "learner_threads": plan.learner_threads,
            "parameters": network.num_parameters,
            "needs": preflight.estimate_needs(config, env, network)._asdict(),
        }
        preflight.check_fits(config, env, network)
        trials = play_tasks(config.env, env)
    except InputError as error:
        found["problems"].append(str(error))
    else:
        found["played"] = [trial._asdict() for trial in trials]
        found["problems"] += [f"{trial.task} cannot be played ({trial.failure})" for trial in trials if trial.failure]
    return found


def show(found: dict[str, Any], console: Console) -> None:
    """Shows the findings of `examine` as a table."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_column(overflow="fold")
    marks = {True: Text("yes", style="green"), False: Text("no", style="red"), None: Text("-")}
    for name, works, note in (*_machine_rows(found), *_run_rows(found["run"])):
        table.add_row(name, marks[works], Text(note))
    console.print(table, highlight=False)


_Rows = Iterator[tuple[str, bool | None, str]]
"""What is examined, whether it works, and a note on it."""


def _machine_rows(found: dict[str, Any]) -> _Rows:
    for name, engine in found["engines"].items():
        note = engine["problem"]
        if note and not engine["version"]:
            note += f": {engine['install']}"
        yield f"engine {name}", not engine["problem"], f"{engine['version']} {note}".strip()
    for name, suite in found["suites"].items():
        yield f"suite {name}", not suite["problem"], suite["problem"] or f"env={name}"
    here = found["machine"]
    gpus, files = ", ".join(here["gpus"]), here["open_files"]
    yield "GPU", True if gpus else None, gpus or "torch sees none, and none is needed"
    yield "python, torch", True, f"{here['python']}, {here['torch']}"
    yield "processor", True, f"{count(here['cores'], 'core')}, {'with' if here['bf16'] else 'no'} bf16"
    yield "memory", True, f"{here['memory'] / 2**30:.1f} GiB, {here['memory_free'] / 2**30:.1f} GiB of it free"
    few = files is not None and files < FEW_OPEN_FILES
    limit = "no limit" if files is None else f"{files:,}"
    yield "open files", not few, f"{limit}, which is few: ulimit -n {FEW_OPEN_FILES}" if few else limit
    yield "processes", True, f"started by {here['start_method']}"


def _run_rows(found: dict[str, Any]) -> _Rows:
    command = " ".join([command_of("train"), *found["keys"]])
    yield f"run env={found['suite']}", not found["problems"], "; ".join(found["problems"]) or command
    if "needs" in found:
        needs = dict(found["needs"])
        files = needs.pop("open_files")
        memory = ", ".join(f"{part} {size / 2**20:,.0f}" for part, size in needs.items() if size)
        actors = found["actors"]
        yield (
            "  plan",
            True,
            f"{count(actors, 'actor')} x {count(found['slots'], 'slot')} of {count(found['tasks'], 'task')} on {found['engine']}",
        )
        yield (
            "  threads",
            True,
            f"actors {actors} x {found['actor_threads']}, learner {found['learner_threads']}",
        )
        total = sum(needs.values()) / 2**20
        yield "  needs", True, f"at least {total:,.0f} MiB of memory ({memory}) and {count(files, 'open file')}"
    for trial in found.get("played", ()):
        wrong = trial["failure"] or "; ".join(trial["differences"])
        yield f"  task {trial['task']}", not wrong, "; ".join(filter(None, (trial["seen"], wrong)))
    for key, fine in (("warnings", False), ("remarks", True)):
        if found.get(key):
            yield f"  {key}", fine, " ".join(found[key])


def play_tasks(config: EnvConfig, env: EnvSpec) -> list[Trial]:
    """Plays a few steps of each task, until _PLAY_SECONDS have passed."""
    late, until = "not played, because the other tasks took too long", time.monotonic() + _PLAY_SECONDS
    return [
        Trial(task, late) if time.monotonic() > until else try_task(config, env, number)
        for number, task in enumerate(env.tasks)
    ]


if __name__ == "__main__":
    run_program(main)
