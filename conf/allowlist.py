"""What a configuration names beyond the tables: modules that are imported, files and folders that are read or written.

Whoever types a command may name anything. A configuration from a file, a checkpoint's or a config.yaml's, may come from somebody else,
and only uses what the command line names again, in the same key or in `allow`.
"""

from __future__ import annotations

from collections.abc import Collection

from conf.typed import argument
from envs.suite import EnvConfig
from envs.suites import get_suite
from system.errors import InputError


def named(config: EnvConfig) -> dict[str, str]:
    """Modules, files and folders, with the key that names each."""
    suite = get_suite(config.name)
    return {**suite.resources(config), **suite.modules(config)}


def check_named(config: EnvConfig, allowed: Collection[str], source: str) -> None:
    """Refuses a configuration that names what nobody has allowed.

    Args:
        config: from a file, which `source` is.
        allowed: modules, of which packages stand for all in them, files and folders.

    Raises:
        InputError: with what to add to the command.
    """
    modules = get_suite(config.name).modules(config)
    refused = {}
    for name, key in named(config).items():
        packages = name.split(".")
        parents = [".".join(packages[:length]) for length in range(1, len(packages))] if name in modules else []
        if not {name, *parents} & set(allowed):
            refused[name] = key
    if refused:
        told = ", ".join(
            f"{key} names {name}, which {'is a module that would be imported' if name in modules else 'leads out of the run folder'}"
            for name, key in refused.items()
        )
        known = "it" if len(refused) == 1 else "them"
        raise InputError(
            f"{source}: {told}: if you know {known}, add {argument('allow', list(refused))} to the command, else do not use this run."
        )


def run_arguments(run: str, config: EnvConfig) -> str:
    """What names a run to another program, as it is typed into a shell: `run=`, and `allow=` where it needs that."""
    allow = list(named(config))
    return " ".join([argument("run", run), *([argument("allow", allow)] if allow else [])])
