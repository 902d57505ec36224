"""Folders of users that have packages and programs with the names of the project's, and scripts in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import train

ROOT = Path(train.__file__).parent

HOOK = f"""
import sys
from importlib.machinery import PathFinder
class Hook:
    find_spec = staticmethod(lambda name, path=None, target=None: PathFinder.find_spec(name, [{str(ROOT)!r}]))
sys.path = [path for path in sys.path if path != {str(ROOT)!r}]
sys.meta_path.append(Hook)
"""


def make_folder(folder: Path, *, packages: bool) -> Path:
    """A folder with its own conf, envs, agents, system and train.py; the first four with or without __init__.py."""
    for name in ("conf", "envs", "agents", "system"):
        (folder / name).mkdir(parents=True)
        if packages:
            (folder / name / "__init__.py").write_text("", encoding="utf-8")
    (folder / "train.py").write_text("raise SystemExit('the wrong train.py')", encoding="utf-8")
    return folder


def run_script(folder: Path, text: str, *, expected: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Runs a script that lies in `folder`, its working directory, as after an editable install: a hook finds the project's packages
    where sys.path has none of the same name, not even a folder without __init__.py. Asserts its exit code, unless that is None.
    """
    (folder / "script.py").write_text(HOOK + text, encoding="utf-8")
    command = [sys.executable, "script.py"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert expected is None or ended.returncode == expected, ended.stderr
    return ended
