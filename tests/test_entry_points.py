"""Each program in a process: a mistake ends it with exit code 2 and one sentence. tests/test_narrow_terminals.py runs them to their end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import train


@pytest.mark.parametrize(
    "program",
    [
        "train.py",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("evaluate.py", "ablate.py", "population.py", "search.py")
        ),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("doctor.py", "-m studies.synthetic")),
    ],
)
def test_bad_input_ends_a_program_with_one_sentence(program: str) -> None:
    command = [sys.executable, *program.split(), "nonsense=1"]
    root = Path(train.__file__).parent
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: nonsense is not a key") and ended.stderr.count("\n") == 1
