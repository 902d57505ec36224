"""The command `mimpala <program> [key=value ...]`, which works in every folder."""

from __future__ import annotations

import os
import sys
from importlib import metadata

from mimpala.location import child_environment

PROGRAMS = {
    "train": ("train", "trains one agent"),
    "evaluate": ("evaluate", "plays episodes with a trained agent"),
    "ablate": ("ablate", "compares fusions and other variants over seeds"),
    "population": ("population", "population-based training"),
    "search": ("search", "searches values of the learner's keys"),
    "doctor": ("doctor", "tests whether a run would start here"),
    "runs": ("mimpala.runs", "lists run folders, and compares two"),
    "export": ("mimpala.hub", "writes an agent in the layout of the Hugging Face hub"),
}
"""Name -> module, which is a program, and a description."""

BAD_INPUT = 2


def main() -> int:
    """Becomes the program that the first argument names. Returns only for --help and --version, or if there is no such program."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in PROGRAMS:
        # The same process, so that signals and exit codes are those of the program.
        command = [sys.executable, "-P", "-m", PROGRAMS[name][0], *arguments]
        os.execve(sys.executable, command, child_environment())
    if name == "--version":
        print(f"mimpala {metadata.version('mimpala')}")
        return 0
    if name in ("--help", "-h"):
        print("usage: mimpala <program> [key=value ...]\n")
        print("\n".join(f"  {program:<12}{about}" for program, (_, about) in PROGRAMS.items()))
        return 0
    print(f"error: mimpala {name} is unknown: give one of {', '.join(PROGRAMS)}.", file=sys.stderr)
    return BAD_INPUT
