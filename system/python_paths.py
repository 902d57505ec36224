"""Lets child Python processes find the project's packages before packages of the same names in the working directory."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages and the programs: the checkout, or site-packages."""

SAFE_PATH_OF_FORK_SERVER = "mimpala-fork-server"
"""A value of PYTHONSAFEPATH, whose values all mean the option -P."""


def child_environment() -> dict[str, str]:
    """The environment of a Python process that finds the packages in ROOT first.

    The process also needs the option -P: without it `python -c` and `python -m` search the working directory before.
    """
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *inherited])}
