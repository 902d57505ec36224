"""Every program works in an ASCII terminal of 20 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
SMALL = [
    *("env=conditional", "env.tasks=[map-0,map-1]", "runtime=serial", "runtime.slots_per_actor=8", "core.size=16"),
    *("learner.batch_size=8", "fusion.size=16", "torso.hidden=[16]", "log_seconds=0.1"),
]
PROGRAMS = {
    "train": ["train", *SMALL, "total_frames=1000", "run={folder}/run"],
    "evaluate": ["evaluate", "run={folder}/run", "episodes=2", "probe=swap", "threads=1"],
    "doctor": ["doctor", *SMALL, "run={folder}/other"],
    "ablate": [
        *("ablate", *SMALL, "fusions=[concat]", "seeds=1", "episodes=2", "total_frames=300"),
        *("parallel=1", "folder={folder}/grid"),
    ],
    "population": [
        *("population", *SMALL, "total_frames=600", "burn_in_frames=300", "ready_frames=300", "members=2"),
        *("parallel=1", "folder={folder}/population"),
    ],
    "study": [
        *("studies.synthetic", "quick=true", "functions=[dot]", "networks=[mi]", "dimensions=[1,2]", "steps=10"),
        *("parallel=1", "folder={folder}/study"),
    ],
}
"""The module and the arguments of each program."""

ALL = """
import importlib, itertools, sys
for is_end, words in itertools.groupby(sys.argv[1:], ";".__eq__):
    if is_end:
        continue
    name, module, *arguments = words
    program = importlib.import_module(module)
    study = [program.STUDY] if name == "study" else []
    print(f"<{name} ends with {program.main(*study, arguments)}>", flush=True)
"""
"""Runs programs, each `name module arguments ;`, one after the other in one process, because each process imports torch for seconds."""


def in_a_narrow_terminal(words: list[str]) -> tuple[int, str]:
    """Exit code and everything that was written to the terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 5, 20, 0, 0))
    ascii_alone = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment | ascii_alone | {"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(slave)
    output = b""
    try:
        while part := os.read(master, 2**16):
            output += part
    except OSError:
        # No process holds the other end any more.
        pass
    finally:
        os.close(master)
    return process.wait(), output.decode("ascii")


@pytest.mark.slow
def test_every_program(tmp_path: Path) -> None:
    # Not ASCII, so Python decodes the name with surrogates.
    folder = tmp_path / "größe"
    words = [word.format(folder=folder) for name, words in PROGRAMS.items() for word in (name, *words, ";")]
    code, output = in_a_narrow_terminal(["-c", ALL, *words])
    assert code == 0 and "Traceback" not in output, output
    for name in PROGRAMS:
        own, end, output = output.partition(f"<{name} ends with 0>")
        assert end, own
        assert "\x1b[" in own or name in ("evaluate", "doctor")
    for path in (
        "run/result.json",
        "run/evaluation.json",
        "grid/report.html",
        "population/result.json",
        "study/table.md",
    ):
        assert (folder / path).exists()
