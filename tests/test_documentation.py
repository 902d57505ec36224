"""The documents say what the program does."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from agents.fusion import FUSION_NAMES, FUSIONS, SITES
from conf.loading import (
    ablate_keys,
    compose_ablate,
    compose_evaluate,
    compose_population,
    compose_study,
    compose_train,
    flatten,
    split_axes,
    to_dict,
)
from conf.schema import EvaluateConfig
from envs.suites import SUITES

ROOT = Path(__file__).parents[1]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
TRAIN, EVALUATE = CONFIGURATION.split("## evaluate.py")
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/**/*.md") for path in ROOT.glob(pattern))


def documented(text: str) -> set[str]:
    """The keys in the first column of its tables."""
    return set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))


def test_every_key_is_documented_and_none_that_does_not_exist() -> None:
    suites = [flatten(to_dict(compose_train([f"env={suite}", "context=task"]))) for suite in SUITES]
    assert documented(TRAIN) == {key.removesuffix(".name") for keys in suites for key in keys}
    assert documented(EVALUATE) == set(to_dict(EvaluateConfig()))


def test_the_readme_names_every_fusion_site_and_suite() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (*FUSION_NAMES, *SUITES):
        assert f"| `{name}` |" in readme
    assert f"fusion.sites=[{','.join(SITES)}]" in readme


def test_the_page_on_fusion_has_every_equation_and_count_as_its_class_states_them() -> None:
    page = (ROOT / "docs" / "fusion.md").read_text(encoding="utf-8")
    # The first table has every flat form, the second one those on the map.
    found = list(re.finditer(r"^\| `(\w+)` \|.*$", page, re.MULTILINE))
    rows = {match[1]: match[0] for match in reversed(found)}
    assert set(rows) >= set(FUSION_NAMES)
    for name, form in FUSIONS.items():
        docstring = " ".join(inspect.getdoc(form).split())  # type: ignore[union-attr]
        _, equation, parameters, *_ = (cell.strip() for cell in rows[name].strip("|").split(" | "))
        assert equation.split(",")[0] in docstring, name
        assert f"{parameters} parameters" in docstring, name


COMMAND = re.compile(r"\bpython3? (?:(\w+)\.py|-m studies\.(\w+))(?= |$)(.*)")
NOT_TYPED = re.compile(r"[<>]|\.\.\.|=N$|^\[|^[^=]*$|^\$")
"""Of a command's words: what stands for something else."""


def commands(text: str) -> list[tuple[str, str, list[str]]]:
    """Program, study and words of every command line in it that can be typed as it stands."""
    text = re.sub(r"\\\n\s*", " ", text)
    code = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^    (\S.*)$", text, re.MULTILINE)]
    found = [COMMAND.search(part) for line in code for part in re.split(r" && | \| |\"", line)]
    typed = [(match[1], match[2], shlex.split(match[3], comments=True)) for match in found if match]
    return [row for row in typed if not any(map(NOT_TYPED.search, row[2]))]


@pytest.mark.slow
def test_every_command_line_in_the_documents_is_one() -> None:
    """Through a shell's quotes and the configuration's grammar; whether the suite is installed here is another matter."""
    composed = {
        "train": compose_train,
        "doctor": compose_train,
        "evaluate": compose_evaluate,
        "population": compose_population,
    }
    rows = [row for document in DOCUMENTS for row in commands(document.read_text(encoding="utf-8"))]
    assert len(rows) > 30 and {program for program, _, _ in rows if program} >= {
        "train",
        "evaluate",
        "ablate",
        "doctor",
    }
    for program, study, words in rows:
        if study:
            compose_study(study, words)
        elif program == "ablate":
            single, axes = split_axes(words)
            compose_ablate(single)
            ablate_keys([*single, *(f"{key}={values[0]}" for key, values in axes.items())])
        elif program in composed:
            composed[program](words)


def test_arguments_in_quotes_mean_what_the_page_says() -> None:
    quoted = {
        word: shlex.split(word)[0]
        for document in DOCUMENTS
        for word in re.findall(r"`('[\w.]+=[^`]*')`", document.read_text(encoding="utf-8"))
    }
    assert len(quoted) >= 2
    found = [compose_train(["env=gymnasium", "env.tasks=[CartPole-v1]", argument]).env for argument in quoted.values()]
    options = {"gravity": 5.0, "max_episode_steps": 200}
    assert [one.options for one in found if one.options] == [options]  # type: ignore[attr-defined]
    assert [one.tasks for one in found if len(one.tasks) > 1] == [["Level-v0(level=1)", "Level-v0(level=2)"]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_distribution_holds_every_package_and_entry_point() -> None:
    """Packages are listed by hand; a new folder that is not in the list would be missing from a wheel only."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("ablation", "agents", "conf", "envs", "studies", "system")
        for path in ROOT.glob(f"{top}/**/__init__.py")
    }
    assert set(setuptools["packages"]) == found
    assert all((ROOT / f"{module}.py").exists() for module in setuptools["py-modules"])
