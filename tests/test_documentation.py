"""The documents say what the program does."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from agents.fusion import FUSION_NAMES, FUSIONS, SITES
from conf.loading import compose_train, flatten, to_dict
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
        for top in ("ablation", "agents", "conf", "envs", "studies")
        for path in ROOT.glob(f"{top}/**/__init__.py")
    }
    assert set(setuptools["packages"]) == found
    assert all((ROOT / f"{module}.py").exists() for module in setuptools["py-modules"])
