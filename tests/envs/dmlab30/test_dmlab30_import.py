"""Failures of the import of the engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from envs.dmlab30 import engine_import
from envs.dmlab30.config import DMLab30Config
from envs.dmlab30.suite import make_spec
from system.errors import InputError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ModuleNotFoundError("No module named 'deepmind_lab'"), "it is not installed"),
        (ModuleNotFoundError("No module named 'imp'"), "Python 3.11 or a newer build"),
        (ModuleNotFoundError("No module named 'pkg_resources'"), "setuptools"),
        (ModuleNotFoundError("No module named 'dm_env'"), "pip install dm-env"),
        (ImportError("numpy.core.multiarray failed to import"), "another NumPy"),
        (AttributeError("_ARRAY_API not found"), "another NumPy"),
        (ImportError("A module compiled using NumPy 1.x\ncannot be run in 2.4"), "another NumPy"),
        (ImportError("/x/deepmind_lab.so: undefined symbol: _PyUnicode_Ready"), "another Python than this one"),
        (ImportError("dynamic module does not define module export function (PyInit_deepmind_lab)"), "another Python"),
        (ImportError("libOSMesa.so.8: cannot open shared object file: No such file"), "apt install libosmesa6"),
        (ImportError("libGL.so.1: cannot open shared object file"), "build it headless"),
        (ImportError("/lib/libc.so.6: version `GLIBC_2.38' not found"), "newer Linux"),
        (ImportError("something else"), "something else"),
        (ImportError(), "ImportError"),
    ],
)
def test_a_failed_import_is_explained_by_its_cause(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "deepmind_lab":
                raise error

    monkeypatch.delitem(sys.modules, "deepmind_lab")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(InputError, match=f"env=dmlab30 cannot import deepmind_lab: .*{cause}") as caught:
        make_spec(DMLab30Config())
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_without_the_engine_the_message_names_it() -> None:
    """Runs in a new process without the fake on its path."""
    program = (
        "from envs.suites import SUITES, make_spec\n"
        "try: make_spec(SUITES['dmlab30'].config())\n"
        "except ValueError as error: print(error)"
    )
    root = Path(engine_import.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert "cannot import deepmind_lab: it is not installed" in result.stdout


def test_check_level_accepts_levels_if_the_folder_is_unreadable() -> None:
    engine_import.check_level(SimpleNamespace(runfiles_path=lambda: "/nowhere"), "any/level")  # type: ignore[arg-type]
