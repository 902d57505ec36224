"""Numbers with their nouns in all messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import system
from system.words import count

ROOT = Path(system.__file__ or "").parent.parent
FOLDERS = ("agents", "envs", "conf", "ablation", "studies", "system", "mimpala")
SOURCES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}

NEVER_ONE = {
    "ablation/analysis/comparability.py: most",
    "ablation/analysis/sentences.py: tests",
    "ablation/analysis/sentences.py: max(counts)",
    "ablation/population/report.py: len(rows)",
    "ablation/report/tables.py: counts.total()",
    "agents/run/folder.py: len(listed)",
    "agents/run/progress.py: len(tasks)",
    "agents/runtime/restarts.py: number",
    "agents/storage/torch_zip.py: record.file_size",
    "envs/gymnasium_adapter/actions.py: max(sizes)",
    "envs/gymnasium_adapter/actions.py: total",
    "envs/gymnasium_ids/vocabulary.py: len(vocabulary)",
    "system/files.py: most",
    "system/plain_data.py: most",
}
"""Numbers before a plural: each is above 1 where its message is made, or a limit far above 1."""

NAMES = {
    "measure.name",
    "results.measure.name",
    "span",
    "count",
    "self._task",
    "fault.task",
    "given",
    "kind",
    "other.actions.kind",
    "key",
    "output",
}
"""Values before a plural, or before a verb that looks like one, that are no numbers."""


@pytest.mark.parametrize(
    ("number", "noun", "plural", "text"),
    [
        (0, "frame", "", "0 frames"),
        (1, "frame", "", "1 frame"),
        (1024.0, "frame", "", "1,024 frames"),
        (1, "pass", "passes", "1 pass"),
        (2, "pass", "passes", "2 passes"),
    ],
)
def test_count(number: float, noun: str, plural: str, text: str) -> None:
    assert count(number, noun, plural) == text


def counted_nouns() -> Iterator[str]:
    """The plurals of all nouns that the code gives to `count`."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "count":
                for noun in ast.walk(node.args[1]) if len(node.args) > 1 else ():
                    if isinstance(noun, ast.Constant) and isinstance(noun.value, str):
                        yield f"{noun.value.split()[-1]}s"


def plurals_after_values(tree: ast.AST, nouns: set[str]) -> Iterator[str]:
    """Values of f-strings that a plural follows."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value, after in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                    found = re.match(r" ([a-z-]+)(?: ([a-z]+))?\b(?!/s)", str(after.value))
                    shown = ast.unparse(value.value)
                    # Constants in capitals are above 1, and `count` has its noun.
                    if (
                        found
                        and nouns & {*found.groups()}
                        and not re.fullmatch(r"_?[A-Z_]+|count\(.*\)|len\([A-Z_]+\)", shown)
                    ):
                        yield shown


def test_no_message_has_a_plural_of_one() -> None:
    nouns = set(counted_nouns())
    assert {"actors", "frames", "tasks", "updates"} <= nouns
    (planted,) = plurals_after_values(ast.parse('f"{n:,} actors x {m}"'), nouns)
    assert planted == "n"
    found = {
        f"{path}: {shown}"
        for path, tree in TREES.items()
        for shown in plurals_after_values(tree, nouns)
        if shown not in NAMES
    }
    assert found == NEVER_ONE
