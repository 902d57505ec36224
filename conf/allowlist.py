"""What a configuration names beyond the tables: modules that are imported, files and folders that are read or written.

A command line may name anything. A configuration from a file (a checkpoint or a config.yaml) may be another person's. Its modules, files
and folders are used only if the command line names them too, in the same key or in `allow`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from conf.command_line import format_argument
from envs.suite import EnvConfig
from envs.suites import get_suite
from system.errors import InputError

LOADED_PLUGINS: list[str] = []
"""Modules whose parts are in the tables of this process (agents/setup/plugins.py)."""


def saved_plugins(data: Any) -> list[str]:
    """The plugins that the plain data of a saved configuration name."""
    named = data.get("plugins") if isinstance(data, dict) else None
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def check_plugins(data: Any, allowed: Collection[str], source: str) -> None:
    """Refuses a configuration from `source`, a file, that names plugins which are neither loaded nor `allowed`. The InputError has the
    argument that is to be added to the command.
    """
    refused = [
        name
        for name in saved_plugins(data)
        if name not in LOADED_PLUGINS and not {name, *_packages(name)} & set(allowed)
    ]
    if refused:
        listed, pronoun = ", ".join(refused), "it" if len(refused) == 1 else "them"
        raise InputError(
            f"{source}: plugins names {listed}, which would be imported: if you know {pronoun}, add {format_argument('plugins', refused)} "
            "to the command, else do not use this run."
        )


def _packages(module: str) -> list[str]:
    """The packages in which a module is."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


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
        parents = _packages(name) if name in modules else []
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


def run_arguments(run: str, config: EnvConfig, plugins: Sequence[str] = ()) -> str:
    """The arguments that name a run to another program, as typed into a shell: `run=`, and `plugins=` and `allow=` where it needs them."""
    named = {"plugins": list(plugins), "allow": list(external_names(config))}
    further = [format_argument(key, values) for key, values in named.items() if values]
    return " ".join([format_argument("run", run), *further])
