"""Imports `deepmind_lab` and explains why the import fails.

Users build the module themselves, against one Python and one NumPy, but its wheel claims to fit all. Most failures come from a build for
another interpreter.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from types import ModuleType

from system.errors import InputError

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

_CAUSES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("No module named 'deepmind_lab'",), "it is not installed, and there is no wheel of it: see docs/dmlab.md"),
    (
        ("No module named 'imp'",),
        f"its __init__.py uses the module imp, which Python {_PYTHON} no longer has: use Python 3.11 or a newer build of it",
    ),
    (("No module named 'pkg_resources'",), 'it needs pkg_resources: pip install "setuptools<81"'),
    (("No module named 'dm_env'",), "its __init__.py needs dm_env: pip install dm-env"),
    (
        ("undefined symbol", "PyInit_", "module export function", "Python version", "wrong ELF", "invalid ELF"),
        f"it was built for another Python than this one ({_PYTHON}), whatever its wheel claims: build it with this one",
    ),
    (
        ("numpy", "NumPy", "_ARRAY_API"),
        "it was built against another NumPy: build it again with the NumPy that is installed here",
    ),
    (("OSMesa",), "its software renderer needs the system's OSMesa: apt install libosmesa6"),
    (
        ("libGL", "libEGL", "libOpenGL"),
        "it was built for a graphics driver that is missing: build it headless, with OSMesa",
    ),
    (("GLIBC",), "it was built on a newer Linux: build it on this one"),
)
"""Words in the message of a failed import -> its cause and the fix. The first row that matches applies."""


def import_deepmind_lab() -> ModuleType:
    """The engine's module. If it cannot be imported, the InputError names the cause."""
    try:
        import deepmind_lab
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        cause = next((cause for words, cause in _CAUSES if any(word in message for word in words)), message)
        raise InputError(f"env=dmlab30 cannot import deepmind_lab: {cause.rstrip('.')}.") from error
    return deepmind_lab  # type: ignore[no-any-return]


def check_level(module: ModuleType, path: str) -> None:
    """Checks that the script of a level exists: a file with an absolute path, or a level in the engine's folder, if that is readable.

    The engine opens paths that end in .lua as files, relative to the working directory. The InputError names levels with a similar name, or
    the form of the path.
    """
    if path.endswith(".lua") and not path.startswith("/"):
        raise InputError(
            f"env.tasks={path} is no level of DeepMind Lab: give a level of the engine by its path below game_scripts/levels, without "
            ".lua, or a file of your own by its absolute path."
        )
    if path.startswith("/"):
        if not path.endswith(".lua"):
            raise InputError(
                f"env.tasks={path} is no level of DeepMind Lab: a file is given with its ending, as {path}.lua."
            )
        if not Path(path).is_file():
            raise InputError(f"env.tasks={path} is no file: give the absolute path of a level's script.")
        return
    folder = Path(module.runfiles_path()) / "baselab" / "game_scripts" / "levels"
    if not folder.is_dir() or (folder / f"{path}.lua").is_file():
        return
    levels = [str(file.relative_to(folder).with_suffix("")) for file in sorted(folder.rglob("*.lua"))]
    close = difflib.get_close_matches(path, levels, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}" if close else "give its path below game_scripts/levels, without .lua"
    raise InputError(f"env.tasks={path} is no level of the installed DeepMind Lab: {hint}?")
