"""The files around the project agree on versions: constraints.txt, pyproject.toml, CITATION.cff, workflows and documents."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
YAML_FILES = sorted(
    path for pattern in (".github/**/*.yml", "*.cff", "*.yml", ".*.yaml") for path in ROOT.glob(pattern)
)
DECLARED = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_one_pin_inside_its_range(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    pins: dict[str, str] = {}
    for line in read("constraints.txt").splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in pins, name
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            pins[name] = specifier.version
    for requirement in DECLARED:
        if requirement.name != PROJECT["name"]:
            pin = pins.get(canonicalize_name(requirement.name))
            assert pin, f"{requirement.name} has no pin"
            assert requirement.specifier.contains(pin, prereleases=True), f"{requirement.name} {pin}"


def test_pythons_are_the_same_in_classifiers_workflow_and_documents() -> None:
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    (checks,) = [step["with"] for step in jobs["checks"]["steps"] if "with" in step]
    assert [checks["python-version"], *jobs["quick"]["strategy"]["matrix"]["python"]] == PYTHONS
    assert re.findall(r"^\| (3\.\d+)", read("docs/installation.md"), re.MULTILINE) == PYTHONS
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in read("README.md")
    assert f"for python in {' '.join(f'python{python}' for python in PYTHONS)}; do" in read(".ci/run")
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("path", [".ci/run", ".github/workflows/ci.yml", "Dockerfile", "README.md"])
def test_what_installs_the_project_uses_the_constraints(path: str) -> None:
    """The job that looks for newer versions is the exception."""
    installs = [line for line in read(path).splitlines() if re.search(r"pip.* install .*-e ", line)]
    free = [line for line in installs if "-c constraints.txt" not in line]
    assert installs
    assert free == (['      - run: pip install -e ".[test]"'] if path.endswith(".yml") else [])


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_files_are_mappings(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_the_citation_has_version_and_licence_of_the_project() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert [citation[key] for key in ("title", "version", "license")] == [
        PROJECT[key] for key in ("name", "version", "license")
    ]
