"""What a configuration names beyond the tables: modules that are imported, files and folders that are read or written.

Whoever types a command may name anything. A configuration from a file, a checkpoint's or a config.yaml's, may come from somebody else,
and only uses what the command line names again, in the same key or in `allow`.
"""

from __future__ import annotations

from collections.abc import Collection

from envs.contract import EnvConfig
from envs.errors import InputError
from envs.suites import get_suite


def named(config: EnvConfig) -> dict[str, str]:
    """Modules, files and folders, with the key that names each."""
    suite = get_suite(config.name)
    return {**suite.outside(config), **suite.modules(config)}


def check_named(config: EnvConfig, allowed: Collection[str], source: str) -> None:
    """Refuses a configuration that names what nobody has allowed.

    Args:
        config: from a file, which `source` is.
        allowed: modules, of which packages stand for all in them, files and folders.

    Raises:
        InputError: with what to add to the command.
    """
    modules = get_suite(config.name).modules(config)
    for name, key in named(config).items():
        packages = name.split(".")
        parents = [".".join(packages[:length]) for length in range(1, len(packages))] if name in modules else []
        if not {name, *parents} & set(allowed):
            what = "is a module that would be imported" if name in modules else "leads out of the run folder"
            raise InputError(
                f"{source}: {key} names {name}, which {what}: if you know it, add allow=[{name}] to the command, else do not use this run."
            )
