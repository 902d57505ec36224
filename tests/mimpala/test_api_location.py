"""The project's packages are found by their location, and the command `mimpala` starts the programs, in any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from foreign_folders import ROOT, make_folder, run_script

from mimpala import console
from mimpala.location import PACKAGES, child_environment


@pytest.fixture(params=[True, False], ids=["packages", "folders"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_folder(tmp_path / "own", packages=request.param)


def test_the_packages_are_those_of_the_project() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert {name.split(".")[0] for name in found} == {*PACKAGES, "mimpala"}


def test_importing_the_api_imports_no_other_package_and_no_torch(folder: Path) -> None:
    unwanted = [*PACKAGES, "torch"]
    ended = run_script(
        folder, f"import mimpala, sys, json; print(json.dumps([n for n in {unwanted!r} if n in sys.modules]))"
    )
    assert json.loads(ended.stdout) == []


def test_our_packages_are_found_before_those_of_the_folder(folder: Path) -> None:
    ended = run_script(folder, "import mimpala; print(mimpala.Agent.__module__, mimpala.InputError.__module__)")
    assert (ended.stdout, ended.stderr) == ("mimpala.agent system.errors\n", "")


def test_a_foreign_package_that_is_imported_already_is_named_in_one_sentence(folder: Path) -> None:
    ended = run_script(
        folder, "import conf, mimpala\ntry:\n    mimpala.load('run')\nexcept ImportError as error:\n    print(error)"
    )
    assert ended.stderr == ""
    assert ended.stdout.startswith(
        "mimpala.load needs mimpala's package conf, and another one is imported already (from "
    )
    assert str(folder / "conf") in ended.stdout and ended.stdout.count("\n") == 1


def test_a_script_without_a_guard_is_refused_in_a_child_that_imports_it(tmp_path: Path) -> None:
    """Its own child processes import the script, too."""
    ended = run_script(
        tmp_path,
        """
import multiprocessing
import mimpala
if __name__ == "__mp_main__":
    mimpala.train(["run=again"])
if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(target=print)
    child.start()
    child.join()
""",
    )
    # Since Python 3.13 a traceback also quotes all lines of the `raise`.
    assert (
        ended.stderr.count(
            "InputError: mimpala.train was called while a child process imports your script: put the call under"
        )
        == 1
    )
    assert not (tmp_path / "again").exists()


def test_child_processes_search_the_project_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/elsewhere", str(ROOT), ""]))
    monkeypatch.chdir("/")
    assert child_environment(["/script", "."])["PYTHONPATH"].split(os.pathsep) == [
        str(ROOT),
        "/script",
        os.getcwd(),
        "/elsewhere",
    ]


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv[1:] = {list(arguments)!r}; from mimpala.console import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        *(("train", packages) for packages in (True, False)),
        *(
            pytest.param(name, number % 2 == 0, marks=pytest.mark.slow)
            for number, name in enumerate(console.PROGRAMS)
            if name != "train"
        ),
    ],
)
def test_the_command_starts_every_program_of_its_table(tmp_path: Path, name: str, packages: bool) -> None:
    folder = make_folder(tmp_path / "own", packages=packages)
    ended = run_command(folder, name, "nonsense=1")
    assert (ended.returncode, ended.stdout) == (2, "")
    # The arguments of `runs` are folders.
    problem = "nonsense=1 is no folder" if name == "runs" else "nonsense is not a key"
    assert ended.stderr.startswith(f"error: {problem}") and ended.stderr.count("\n") == 1


def test_the_command_lists_its_programs(tmp_path: Path) -> None:
    for arguments in ([], ["--help"]):
        ended = run_command(tmp_path, *arguments)
        assert ended.returncode == 0 and all(f"\n  {name} " in ended.stdout for name in console.PROGRAMS)
    ended = run_command(tmp_path, "trian")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: mimpala trian is unknown: give one of {', '.join(console.PROGRAMS)}.\n"
    ended = run_command(tmp_path, "--version")
    assert (ended.returncode, ended.stderr) == (0, "") and ended.stdout.startswith("mimpala ")
