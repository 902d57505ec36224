"""Keys, names, commands, links and paths in the documents agree with the program."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from agents.fusion import FUSION_NAMES, FUSIONS, SITES
from conf.evaluate_schema import EvaluateConfig
from conf.loading import (
    all_keys,
    compose_ablate,
    compose_evaluate,
    compose_population,
    compose_study,
    compose_train,
    flatten,
    split_axes,
    to_dict,
)
from envs.suites import SUITES

ROOT = Path(__file__).parents[1]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
TRAIN, EVALUATE = CONFIGURATION.split("## evaluate.py")
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/**/*.md") for path in ROOT.glob(pattern))


def documented(text: str) -> set[str]:
    """The keys in the first column of the text's tables."""
    return set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))


def test_documented_keys_are_the_keys_of_the_schema() -> None:
    suites = [flatten(to_dict(compose_train([f"env={suite}", "context=task"]))) for suite in SUITES]
    assert documented(TRAIN) == {key.removesuffix(".name") for keys in suites for key in keys}
    assert documented(EVALUATE) == set(to_dict(EvaluateConfig()))


def test_readme_and_command_line_page_name_every_fusion_site_and_suite() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command_line = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    for name in (*FUSION_NAMES, *SUITES):
        assert f"`{name}`" in readme, name
        assert f"| `{name}` |" in command_line, name
    assert f"fusion.sites=[{','.join(SITES)}]" in readme
    assert f"fusion.sites=[{','.join(SITES)}]" in command_line


def test_readme_is_short_and_has_the_install_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    install = "    python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e"
    assert f'{install} ".[envpool]" && .venv/bin/python train.py' in lines
    assert f'{install} ".[test]" && .venv/bin/python -m pytest' in lines


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_prose_are_at_most_140_letters(document: Path) -> None:
    """Table rows and code are exempt: Markdown cannot break them."""
    lines = re.sub(
        r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    ).splitlines()
    assert not [line for line in lines if len(line) > 140 and not line.startswith(("|", "    "))]


def test_every_page_is_in_the_navigation_of_the_site_and_documents_existing_modules() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = re.findall(r"- ([\w/]+\.md)$", navigation, re.MULTILINE)
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for module in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            path = ROOT.joinpath(*module.split("."))
            assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module


def test_paths_of_modules_in_the_documents_exist() -> None:
    """The changelog describes earlier states."""
    for document in DOCUMENTS:
        if document.name == "CHANGELOG.md":
            continue
        for path in re.findall(
            r"`((?:agents|ablation|conf|envs|mimpala|studies|system)/[\w/]+\.py)`", document.read_text(encoding="utf-8")
        ):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def test_equations_and_parameter_counts_of_the_fusion_page_equal_the_docstrings() -> None:
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
"""Matches a word of a command that is a placeholder."""


def commands(document: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """Program, study and words of every command line in the document without a placeholder, each once."""
    text = re.sub(r"\\\n\s*", " ", document.read_text(encoding="utf-8"))
    code = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^    (\S.*)$", text, re.MULTILINE)]
    found = [COMMAND.search(part) for line in code for part in re.split(r" && | \| |\"", line)]
    typed = [(match[1], match[2], tuple(shlex.split(match[3], comments=True))) for match in found if match]
    return list(dict.fromkeys(row for row in typed if not any(map(NOT_TYPED.search, row[2]))))


COMMANDS = {document: commands(document) for document in DOCUMENTS}
COMPOSED = {
    "train": compose_train,
    "doctor": compose_train,
    "evaluate": compose_evaluate,
    "population": compose_population,
}


def test_the_documents_have_command_lines_of_every_program() -> None:
    rows = [row for found in COMMANDS.values() for row in found]
    assert len(rows) > 30
    assert {program for program, _, _ in rows if program} >= {"train", "evaluate", "ablate", "doctor"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if COMMANDS[path]], ids=lambda path: str(path.relative_to(ROOT))
)
def test_command_lines_in_the_documents_compose(document: Path) -> None:
    """The shell's quotes and the configuration's grammar are checked, not whether the suite is installed."""
    for program, study, words in COMMANDS[document]:
        if study:
            compose_study(study, words)
        elif program == "ablate":
            single, axes = split_axes(words)
            compose_ablate(single)
            all_keys("ablate", [*single, *(f"{key}={values[0]}" for key, values in axes.items())])
        elif program in COMPOSED:
            COMPOSED[program](words)


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
    for target in re.findall(r"(?:\]\(|src=\")([^)#\"]+)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_distribution_holds_every_package_and_entry_point() -> None:
    """Packages are listed by hand. Only a wheel would show that a new folder is missing from the list."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("ablation", "agents", "conf", "envs", "mimpala", "studies", "system")
        for path in ROOT.glob(f"{top}/**/__init__.py")
    }
    assert set(setuptools["packages"]) == found
    assert all((ROOT / f"{module}.py").exists() for module in setuptools["py-modules"])
