"""What a configuration names beyond the tables: modules that are imported, files and folders that are read or written.

A command line may name anything. A configuration from a file (a checkpoint or a config.yaml) may be another person's. Its modules, files
and folders are used only if the command line names them too, in the same key or in `allow`.
"""

from __future__ import annotations

from collections.abc import Collection

from conf.command_line import format_argument
from envs.suite import EnvConfig
from envs.suites import get_suite
from system.errors import InputError


def external_names(config: EnvConfig) -> dict[str, str]:
    """Modules, files and folders that `config` names, with the key of each."""
    suite = get_suite(config.name)
    return {**suite.resources(config), **suite.modules(config)}


def check_external_names(config: EnvConfig, allowed: Collection[str], source: str) -> None:
    """Refuses a configuration from `source`, a file, that names a module, file or folder outside `allowed`; a package there includes all
    of its modules. The InputError has the argument that is to be added to the command.
    """
    modules = get_suite(config.name).modules(config)
    refused = {}
    for name, key in external_names(config).items():
        packages = name.split(".")
        parents = [".".join(packages[:length]) for length in range(1, len(packages))] if name in modules else []
        if not {name, *parents} & set(allowed):
            refused[name] = key
    if refused:
        reasons = ", ".join(
            f"{key} names {name}, which {'is a module that would be imported' if name in modules else 'leads out of the run folder'}"
            for name, key in refused.items()
        )
        pronoun, fix = "it" if len(refused) == 1 else "them", format_argument("allow", list(refused))
        raise InputError(
            f"{source}: {reasons}: if you know {pronoun}, add {fix} to the command, else do not use this run."
        )


def run_arguments(run: str, config: EnvConfig) -> str:
    """The arguments that name a run to another program, as typed into a shell: `run=`, and `allow=` where the run needs it."""
    allow = list(external_names(config))
    return " ".join([format_argument("run", run), *([format_argument("allow", allow)] if allow else [])])
