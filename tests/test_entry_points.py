"""Each program in a process: a mistake ends it with exit code 2 and one sentence. tests/test_narrow_terminals.py runs them to their end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import train


@pytest.mark.parametrize(
    "words",
    [["train.py"], ["evaluate.py"], ["ablate.py"], ["population.py"], ["doctor.py"], ["-m", "studies.synthetic"]],
    ids=lambda words: words[-1],
)
def test_bad_input_ends_a_program_with_one_sentence(words: list[str]) -> None:
    command = [sys.executable, *words, "nonsense=1"]
    root = Path(train.__file__).parent
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: nonsense is not a key") and ended.stderr.count("\n") == 1
