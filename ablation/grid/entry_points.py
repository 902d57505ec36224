"""Loads an entry point (train.py, evaluate.py) by its location, so that no package imports upwards."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
"""The folder that holds the packages and the entry points: the checkout, or site-packages."""


def load_entry_point(name: str) -> ModuleType:
    """The module of ROOT/<name>.py; the same one as `import <name>` gives where ROOT is on sys.path."""
    path = ROOT / f"{name}.py"
    module = sys.modules.get(name)
    if module is None or module.__file__ != str(path):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module
