"""Finds the project's own packages by their location, whatever packages the working directory or the caller's script folder has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages and the programs: the checkout, or site-packages."""

PACKAGES = ("system", "envs", "conf", "agents", "ablation", "studies")


class _OwnPackages(MetaPathFinder):
    """Finds PACKAGES in ROOT, before sys.path is searched."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [str(ROOT)]) if fullname in PACKAGES else None


def use_own_packages(caller: str, packages: Sequence[str] = PACKAGES) -> None:
    """Makes the imports of PACKAGES find those in ROOT from now on.

    ImportError, in one sentence that names `caller`, if one of `packages` is imported already from another folder.
    """
    for name in packages:
        module = sys.modules.get(name)
        if module is not None and str(ROOT / name) not in _folders(module):
            where = ", ".join(_folders(module)) or getattr(module, "__file__", None) or "an unknown place"
            raise ImportError(
                f"{caller} needs mimpala's package {name}, and another one is imported already (from {where}): call {caller} before "
                f"that import, or rename the other package."
            )
    find_own_packages_first()


def find_own_packages_first() -> None:
    """`use_own_packages` without the check. Ray's workers call it by its name (agents/runtime/ray_groups/connection.py)."""
    if not any(isinstance(finder, _OwnPackages) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OwnPackages())


def _folders(module: ModuleType) -> list[str]:
    return [os.path.realpath(folder) for folder in getattr(module, "__path__", ())]


def child_environment(paths: Iterable[str] = ()) -> dict[str, str]:
    """The environment of a Python process that finds the project's packages first, and then modules in `paths`.

    The process also needs the option -P, without which the working directory comes before both.
    """
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    found = dict.fromkeys(os.path.abspath(path) for path in (str(ROOT), *paths, *inherited))
    return os.environ | {"PYTHONPATH": os.pathsep.join(found)}
